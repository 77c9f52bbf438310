use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use super::model::MOST_TOKENS;
use super::{Architecture, ConfigError, ModelConfig, TrainConfig};

/// A whole recipe: what to train, on what, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Labels the model, its run directory and its metrics.
    pub name: String,
    /// Everything random in a run follows from this number.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The run whose model is trained further, by name or path. Its architecture and its
    /// tokenizer come with it; `model` says only what is to be otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<String>,
    pub model: ModelConfig,
    #[serde(default)]
    pub tokenizer: TokenizerConfig,
    #[serde(default)]
    pub data: DataConfig,
    #[serde(default)]
    pub train: TrainConfig,
    #[serde(default)]
    pub sample: SampleConfig,
}

fn default_seed() -> u64 {
    1337
}

/// How text becomes token ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TokenizerConfig {
    /// One token a character, the vocabulary being the characters of the training text.
    Character {},
    /// One token a byte, and one for the end of a text.
    Byte {},
    /// Byte-pair encoding that is learned from the training text.
    Bpe {
        /// Tokens, special ones and the 256 bytes included.
        vocab_size: usize,
        #[serde(default)]
        split: SplitPattern,
        /// The first ids.
        #[serde(default = "default_special_tokens")]
        special_tokens: Vec<String>,
    },
    /// One of OpenAI's byte-pair encodings: gpt2, r50k_base, p50k_base, p50k_edit, cl100k_base,
    /// o200k_base or o200k_harmony.
    Tiktoken { encoding: String },
    /// A tokenizer of another project's: a `tokenizer.json`, a `vocab.json` or a `merges.json`, or
    /// a folder that has one.
    File { path: PathBuf },
    /// Text that is token ids, as in `<12><7>`.
    Ids { vocab_size: usize },
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self::Character {}
    }
}

/// Special tokens of a tokenizer that is learned, where nothing else is said: the beginning and
/// the end of a text, padding, and what is unknown.
pub const SPECIAL_TOKENS: [&str; 4] = ["<|bos|>", "<|eos|>", "<|pad|>", "<|unk|>"];

fn default_special_tokens() -> Vec<String> {
    SPECIAL_TOKENS.map(String::from).into()
}

/// How byte-pair encoding splits a text into words before it merges the bytes of each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SplitPattern {
    /// GPT-2's: contractions, then runs of letters, of digits, of other characters or of
    /// whitespace, each of the first three with a space before it.
    Gpt2,
    /// GPT-4's: like GPT-2's, but contractions in any case, at most three digits a word, lines
    /// apart, and any one character before letters.
    #[default]
    Gpt4,
    /// The whole text is one word.
    None,
    /// A regular expression of one's own; what it does not match becomes words too.
    Custom(String),
}

/// Where the text comes from and how it is split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DataConfig {
    /// The built-in corpus, generated from its grammar.
    Stories {
        #[serde(default = "default_train_stories")]
        train_stories: usize,
        #[serde(default = "default_validation_stories")]
        validation_stories: usize,
    },
    /// A UTF-8 text file.
    Text {
        #[serde(default)]
        path: Option<PathBuf>,
        /// A validation text of its own; where absent, the end of the text is split off.
        #[serde(default)]
        validation_path: Option<PathBuf>,
        /// The share of the characters that is split off for validation.
        #[serde(default = "default_validation_fraction")]
        validation_fraction: f64,
    },
    /// A file of text pairs, for an encoder-decoder: `.jsonl` with an object a line, or a source
    /// and a target a line with a tab between them.
    Pairs {
        #[serde(default)]
        path: Option<PathBuf>,
        /// Validation pairs of their own; where absent, the end of the file is split off.
        #[serde(default)]
        validation_path: Option<PathBuf>,
        /// The share of the pairs that is split off for validation.
        #[serde(default = "default_validation_fraction")]
        validation_fraction: f64,
        /// Key of the source in JSON lines.
        #[serde(default = "default_source_field")]
        source_field: String,
        /// Key of the target in JSON lines.
        #[serde(default = "default_target_field")]
        target_field: String,
    },
    /// A folder of token files that `emberlm prepare` has made, with a tokenizer of its own.
    Tokens {
        #[serde(default)]
        path: Option<PathBuf>,
        #[serde(default)]
        packing: Packing,
    },
}

/// How documents become windows of the context's length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// One after the other, and windows reach across them.
    #[default]
    Stream,
    /// The same, but attention does not reach from one document into another.
    MaskedStream,
    /// One document a window, padded where it is shorter; padding does not count in the loss.
    Documents,
}

/// Keys of a pair in JSON lines, where nothing else is said.
pub const SOURCE_FIELD: &str = "source";
pub const TARGET_FIELD: &str = "target";

fn default_source_field() -> String {
    SOURCE_FIELD.into()
}

fn default_target_field() -> String {
    TARGET_FIELD.into()
}

fn default_train_stories() -> usize {
    20_000
}

fn default_validation_stories() -> usize {
    300
}

pub(super) fn default_validation_fraction() -> f64 {
    0.1
}

impl DataConfig {
    /// Which `kind` a path of the user's is for a model: a folder has token files; a file has pairs
    /// where the model reads sources and the name ends in `.tsv` or `.jsonl`, and else a text.
    pub fn kind_of(path: &Path, architecture: Architecture) -> &'static str {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match (architecture, extension) {
            _ if path.is_dir() => "tokens",
            (Architecture::EncoderDecoder, Some("tsv" | "jsonl")) => "pairs",
            _ => "text",
        }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self::Text {
            path: None,
            validation_path: None,
            validation_fraction: default_validation_fraction(),
        }
    }
}

/// The text that is sampled when training ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleConfig {
    pub prompt: String,
    pub max_tokens: usize,
    pub temperature: f64,
    pub top_k: Option<usize>,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { prompt: "\n".into(), max_tokens: 300, temperature: 0.8, top_k: Some(200) }
    }
}

impl RunConfig {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first key whose value cannot work, with the values it accepts.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.model.validate()?;
        self.train.validate()?;
        let frozen = self.model.lora.is_some() || !self.train.freeze.is_empty();
        if !self.train.unfreeze.is_empty() && !frozen {
            return Err(ConfigError::Conflict {
                first: "train.unfreeze",
                second: "train.freeze",
                reason: "without the latter and without model.lora everything is trained",
            });
        }
        if self.train.evaluation_stories.is_some()
            && self.model.architecture != Architecture::Decoder
        {
            return Err(ConfigError::Conflict {
                first: "train.evaluation_stories",
                second: "model.architecture",
                reason: "stories are written by decoders",
            });
        }
        let temperature = self.sample.temperature;
        let valid = temperature.is_finite() && temperature >= 0.0;
        check("sample.temperature", temperature, valid, "zero or a positive number")?;
        if let Some(top_k) = self.sample.top_k {
            check("sample.top_k", top_k, top_k >= 1, "at least 1, or null to keep all tokens")?;
        }
        if let TokenizerConfig::Ids { vocab_size } = &self.tokenizer {
            let (found, valid) = (*vocab_size, (1..=MOST_TOKENS).contains(vocab_size));
            check("tokenizer.vocab_size", found, valid, "at least 1 and at most 2^30")?;
        }
        if let TokenizerConfig::Bpe { vocab_size, special_tokens, .. } = &self.tokenizer {
            let least = 256 + special_tokens.len();
            check(
                "tokenizer.vocab_size",
                vocab_size,
                (least..=1 << 24).contains(vocab_size),
                "at least 256 and the number of special tokens, and at most 2^24",
            )?;
        }
        match &self.data {
            DataConfig::Stories { train_stories, validation_stories } => {
                let (train, validation) = (*train_stories, *validation_stories);
                check("data.train_stories", train, train >= 1, "at least 1")?;
                check("data.validation_stories", validation, validation >= 1, "at least 1")?;
            }
            DataConfig::Text { validation_fraction: share, .. }
            | DataConfig::Pairs { validation_fraction: share, .. } => check(
                "data.validation_fraction",
                share,
                *share > 0.0 && *share < 1.0,
                "between 0 and 1",
            )?,
            DataConfig::Tokens { packing, .. } => {
                let trains = matches!(self.tokenizer, TokenizerConfig::Bpe { .. });
                check(
                    "tokenizer.kind",
                    "bpe",
                    !trains,
                    "left out where the data is prepared, since it has a tokenizer already",
                )?;
                let reads_sources = self.model.architecture == Architecture::EncoderDecoder;
                check(
                    "data.packing",
                    format!("{packing:?}"),
                    *packing == Packing::Stream || !reads_sources,
                    "stream, where the model is an encoder-decoder",
                )?;
            }
        }
        let name_is_safe = !self.name.is_empty()
            && !self.name.starts_with('.')
            && !self.name.contains(['/', '\\', '\0']);
        check(
            "name",
            &self.name,
            name_is_safe,
            "a file name: not empty, without / or \\, not beginning with a dot",
        )
    }
}

pub(super) fn check(
    path: &'static str,
    found: impl std::fmt::Display,
    valid: bool,
    expected: &'static str,
) -> Result<(), ConfigError> {
    if valid {
        return Ok(());
    }
    Err(ConfigError::Range { path, found: found.to_string(), expected })
}
