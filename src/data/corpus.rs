use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;

use super::pairs::{TextPair, read_pairs};
use super::{
    DataError, DocumentOrder, ExampleOrder, ExamplePlace, Place, Prepared, SplitMeta, SplitRule,
    Stories, Task, TokenStream, WindowOrder, disjoint_windows, read_text, spread_windows,
};
use crate::config::Architecture;
use crate::config::DataConfig;
use crate::config::ModelConfig;
use crate::config::Packing;
use crate::config::RunConfig;
use crate::config::TokenizerConfig;
use crate::config::{SOURCE_FIELD, TARGET_FIELD};
use crate::files;
use crate::tokenizer::{self, Tokenizer};

/// Tokens that are copied to be hashed.
const HASHED_AT_ONCE: usize = 1 << 20;

/// One side of a corpus.
#[derive(Debug, Clone)]
pub struct Split {
    pub tokens: SplitTokens,
    pub packing: Packing,
    /// Bytes of the text that is predicted.
    pub bytes: usize,
}

/// The token ids of a split.
#[derive(Debug, Clone)]
pub enum SplitTokens {
    /// Documents, one after the other.
    Text(TokenStream),
    Pairs(Arc<[Pair]>),
}

/// A source and a target, tokenized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub source: Vec<u32>,
    pub target: Vec<u32>,
}

impl Split {
    /// A plain text.
    pub fn text(tokens: impl Into<Arc<[u32]>>, bytes: usize) -> Self {
        let tokens = SplitTokens::Text(TokenStream::of_text(tokens));
        Self { tokens, packing: Packing::Stream, bytes }
    }

    /// Pairs of texts, with targets of so many bytes.
    pub fn pairs(pairs: impl Into<Arc<[Pair]>>, bytes: usize) -> Self {
        Self { tokens: SplitTokens::Pairs(pairs.into()), packing: Packing::Stream, bytes }
    }

    /// Tokens, those of the sources included.
    pub fn token_count(&self) -> usize {
        match &self.tokens {
            SplitTokens::Text(tokens) => tokens.len(),
            SplitTokens::Pairs(pairs) => {
                pairs.iter().map(|pair| pair.source.len() + pair.target.len()).sum()
            }
        }
    }

    /// Bytes a predicted token on average, which turns nats a token into bits a byte. None for a
    /// task that does not predict every byte.
    pub fn bytes_per_target(&self, task: Task) -> Option<f64> {
        let targets = match (&self.tokens, task) {
            (SplitTokens::Text(tokens), Task::NextToken) => tokens.len(),
            (SplitTokens::Pairs(pairs), Task::Translation { .. }) => {
                pairs.iter().map(|pair| pair.target.len() + 1).sum()
            }
            _ => return None,
        };
        Some(self.bytes as f64 / targets as f64)
    }

    /// Targets that are asked for in a training example, on average.
    pub fn targets_per_example(&self, architecture: Architecture, context_length: usize) -> f64 {
        let of_window = |length| Task::targets_of_window(architecture, length);
        match &self.tokens {
            SplitTokens::Text(tokens) if self.packing == Packing::Documents => {
                let order = DocumentOrder::new(tokens.clone(), context_length, 0);
                let targets = order.lengths().map(|length| of_window(length.min(context_length)));
                targets.sum::<f64>() / order.documents() as f64
            }
            SplitTokens::Text(_) => of_window(context_length),
            SplitTokens::Pairs(pairs) => {
                let targets: usize = pairs.iter().map(|pair| pair.target.len() + 1).sum();
                targets as f64 / pairs.len() as f64
            }
        }
    }

    /// Training examples in a shuffled order.
    pub fn order(&self, context_length: usize, seed: u64) -> ExampleOrder {
        match &self.tokens {
            SplitTokens::Text(tokens) if self.packing == Packing::Documents => {
                ExampleOrder::Documents(DocumentOrder::new(tokens.clone(), context_length, seed))
            }
            SplitTokens::Text(tokens) => {
                ExampleOrder::Windows(WindowOrder::new(tokens.len(), context_length, seed))
            }
            SplitTokens::Pairs(pairs) => ExampleOrder::Pairs { count: pairs.len(), seed },
        }
    }

    /// All examples, each token of a text being predicted once.
    pub fn all(&self, context_length: usize) -> Vec<ExamplePlace> {
        match &self.tokens {
            SplitTokens::Text(tokens) if self.packing == Packing::Documents => {
                windows(DocumentOrder::new(tokens.clone(), context_length, 0).disjoint())
            }
            SplitTokens::Text(tokens) => windows(disjoint_windows(tokens.len(), context_length)),
            SplitTokens::Pairs(pairs) => (0..pairs.len()).map(pair).collect(),
        }
    }

    /// At most `count` examples, spread evenly: a fixed sample.
    pub fn spread(&self, context_length: usize, count: usize) -> Vec<ExamplePlace> {
        match &self.tokens {
            SplitTokens::Text(tokens) if self.packing == Packing::Documents => {
                windows(DocumentOrder::new(tokens.clone(), context_length, 0).spread(count))
            }
            SplitTokens::Text(tokens) => {
                windows(spread_windows(tokens.len(), context_length, count))
            }
            SplitTokens::Pairs(pairs) => {
                let count = count.min(pairs.len());
                (0..count).map(|index| pair(index * pairs.len() / count)).collect()
            }
        }
    }

    /// A file as a whole, where it has pairs they are as in `data`; or the validation split of a
    /// folder that was prepared.
    ///
    /// # Errors
    /// Text that cannot be read or encoded, or is too short to predict anything in.
    pub fn read(
        path: &Path,
        data: &DataConfig,
        tokenizer: &dyn Tokenizer,
        model: &ModelConfig,
    ) -> Result<Self, DataError> {
        let raw = match (DataConfig::kind_of(path, model.architecture), data) {
            ("tokens", _) => {
                let prepared = Prepared::open(path)?;
                prepared.check_tokenizer(tokenizer)?;
                let packing = checked_packing(&prepared, packing_of(data))?;
                let tokens = SplitTokens::Text(prepared.validation()?);
                let bytes = prepared.meta().validation.bytes as usize;
                return Ok(Self { tokens, packing, bytes });
            }
            ("pairs", DataConfig::Pairs { source_field, target_field, .. }) => {
                Raw::whole(read_pairs(path, source_field, target_field)?)
            }
            ("pairs", _) => Raw::whole(read_pairs(path, SOURCE_FIELD, TARGET_FIELD)?),
            _ => Raw::Text(read_text(path)?),
        };
        let split = raw.encode("evaluation", tokenizer, model)?;
        split.check_length("evaluation", 1)?;
        Ok(split)
    }

    /// The training and the validation split of a folder.
    fn prepared(prepared: &Prepared, packing: Packing) -> Result<(Self, Self), DataError> {
        let meta = prepared.meta();
        let packing = checked_packing(prepared, packing)?;
        let (train, validation) = prepared.tokens()?;
        let split = |tokens, bytes| Self {
            tokens: SplitTokens::Text(tokens),
            packing,
            bytes: bytes as usize,
        };
        Ok((split(train, meta.train.bytes), split(validation, meta.validation.bytes)))
    }

    /// That the files of its tokens are still there in full.
    ///
    /// # Errors
    /// The file that is not.
    pub fn check(&self) -> Result<(), DataError> {
        match &self.tokens {
            SplitTokens::Text(tokens) => Ok(tokens.check()?),
            SplitTokens::Pairs(_) => Ok(()),
        }
    }

    /// Of tokens that are in memory.
    fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        let mut hash = |ids: &[u32]| {
            hasher.update((ids.len() as u64).to_le_bytes());
            hasher.update(bytemuck::cast_slice(ids));
        };
        match &self.tokens {
            SplitTokens::Text(tokens) => {
                for start in (0..tokens.len()).step_by(HASHED_AT_ONCE) {
                    hash(&tokens.read(start..tokens.len().min(start + HASHED_AT_ONCE)));
                }
            }
            SplitTokens::Pairs(pairs) => pairs.iter().for_each(|pair| {
                hash(&pair.source);
                hash(&pair.target);
            }),
        }
        files::hexadecimal(hasher)
    }

    fn check_length(&self, split: &'static str, context_length: usize) -> Result<(), DataError> {
        match &self.tokens {
            // Documents are padded, but one of them must have something to predict.
            SplitTokens::Text(tokens) if self.packing == Packing::Documents => {
                match DocumentOrder::new(tokens.clone(), context_length, 0).is_empty() {
                    true => Err(DataError::NothingToPredict { split }),
                    false => Ok(()),
                }
            }
            SplitTokens::Text(tokens) if tokens.len() < 2 => {
                Err(DataError::NothingToPredict { split })
            }
            // The last token of a window is only a target, so a window needs one more.
            SplitTokens::Text(tokens) if tokens.len() <= context_length => {
                Err(DataError::TooShort { split, found: tokens.len(), context_length })
            }
            _ => Ok(()),
        }
    }
}

/// That there are documents where each is to be a row.
fn checked_packing(prepared: &Prepared, packing: Packing) -> Result<Packing, DataError> {
    let meta = prepared.meta();
    if packing == Packing::Documents && matches!(meta.split, SplitRule::Characters { .. }) {
        return Err(DataError::NoDocumentsToPack { path: prepared.folder().into() });
    }
    Ok(packing)
}

fn packing_of(data: &DataConfig) -> Packing {
    match data {
        DataConfig::Tokens { packing, .. } => *packing,
        _ => Packing::Stream,
    }
}

fn windows(windows: Vec<super::Window>) -> Vec<ExamplePlace> {
    let place = |window: super::Window| ExamplePlace {
        place: Place::Window(window),
        number: window.start as u64,
    };
    windows.into_iter().map(place).collect()
}

fn pair(index: usize) -> ExamplePlace {
    ExamplePlace { place: Place::Pair(index), number: index as u64 }
}

/// A text, tokenized and split.
#[derive(Debug)]
pub struct Corpus {
    pub tokenizer: Arc<dyn Tokenizer>,
    pub task: Task,
    pub train: Split,
    pub validation: Split,
    /// Entropy of the source in nats a token, where the source is known.
    pub source_entropy: Option<f64>,
    /// Tells the tokens for training from all others, and those for validation.
    pub fingerprints: [String; 2],
}

impl Corpus {
    /// The data of a configuration, with the tokenizer that is given, or else with the one that the
    /// configuration asks for.
    ///
    /// # Errors
    /// Data that cannot be read, or not with this tokenizer.
    pub fn load(
        config: &RunConfig,
        tokenizer: Option<Arc<dyn Tokenizer>>,
    ) -> Result<Self, DataError> {
        if let DataConfig::Tokens { path, packing } = &config.data {
            let prepared = Prepared::open(path.as_ref().ok_or(DataError::NoPath)?)?;
            let tokenizer = match tokenizer {
                Some(tokenizer) => tokenizer,
                // Nothing can be trained on text that is not there.
                None => tokenizer::build(&config.tokenizer, [])?.into(),
            };
            prepared.check_tokenizer(tokenizer.as_ref())?;
            return Self::prepared(&prepared, *packing, tokenizer, &config.model, config.seed);
        }
        let text = SplitText::read(&config.data, config.seed)?;
        let tokenizer = match tokenizer {
            Some(tokenizer) => tokenizer,
            None => text.tokenizer(&config.tokenizer)?,
        };
        Self::encode(&text, tokenizer, &config.model, config.seed)
    }

    fn prepared(
        prepared: &Prepared,
        packing: Packing,
        tokenizer: Arc<dyn Tokenizer>,
        model: &ModelConfig,
        seed: u64,
    ) -> Result<Self, DataError> {
        let (train, validation) = Split::prepared(prepared, packing)?;
        train.check_length("training", model.context_length)?;
        validation.check_length("validation", model.context_length)?;
        let task = Task::new(model.architecture, tokenizer.vocab_size(), seed);
        let meta = prepared.meta();
        let fingerprints = [&meta.train, &meta.validation].map(SplitMeta::fingerprint);
        Ok(Self { tokenizer, task, train, validation, source_entropy: None, fingerprints })
    }

    /// Encodes both sides of a text for a model.
    ///
    /// # Errors
    /// Text that cannot be encoded, that is too short for one window, or that has a pair too long
    /// for the context.
    pub fn encode(
        text: &SplitText,
        tokenizer: Arc<dyn Tokenizer>,
        model: &ModelConfig,
        seed: u64,
    ) -> Result<Self, DataError> {
        let encode = |raw: &Raw, name| {
            let split = raw.encode(name, tokenizer.as_ref(), model)?;
            split.check_length(name, model.context_length)?;
            Ok::<Split, DataError>(split)
        };
        let train = encode(&text.train, "training")?;
        let validation = encode(&text.validation, "validation")?;
        // Per byte the entropy belongs to the text; per token it depends on how it is cut. It is
        // that of the next token, so it says nothing about other tasks.
        let task = Task::new(model.architecture, tokenizer.vocab_size(), seed);
        let source_entropy = match (task, validation.bytes_per_target(task)) {
            (Task::NextToken, Some(bytes)) => text.entropy_per_byte.map(|entropy| entropy * bytes),
            _ => None,
        };
        let fingerprints = [&train, &validation].map(Split::fingerprint);
        Ok(Self { tokenizer, task, train, validation, source_entropy, fingerprints })
    }
}

/// A text before it is tokenized.
#[derive(Debug, Clone)]
pub struct SplitText {
    train: Raw,
    validation: Raw,
    /// In nats, where the source is known.
    entropy_per_byte: Option<f64>,
}

/// One side of it.
#[derive(Debug, Clone)]
enum Raw {
    Text(String),
    /// Those of a file from its `first`-th pair on.
    Pairs {
        pairs: Vec<TextPair>,
        first: usize,
    },
}

impl SplitText {
    /// Texts from anywhere.
    pub fn new(train: String, validation: String) -> Self {
        Self { train: Raw::Text(train), validation: Raw::Text(validation), entropy_per_byte: None }
    }

    /// Reads or generates the text and splits it.
    ///
    /// # Errors
    /// Text that cannot be read.
    pub fn read(data: &DataConfig, seed: u64) -> Result<Self, DataError> {
        match data {
            DataConfig::Stories { train_stories, validation_stories } => {
                let stories = Stories::new()?;
                Ok(Self {
                    train: Raw::Text(stories.generate(*train_stories, seed, 0)),
                    validation: Raw::Text(stories.generate(*validation_stories, seed, 1)),
                    entropy_per_byte: Some(stories.entropy_per_character()),
                })
            }
            DataConfig::Tokens { .. } => Err(DataError::NoText),
            DataConfig::Text { path, validation_path, validation_fraction } => {
                let text = read_text(path.as_ref().ok_or(DataError::NoPath)?)?;
                let (train, validation) = match validation_path {
                    Some(path) => (text, read_text(path)?),
                    None => split_at_fraction(text, 1.0 - validation_fraction),
                };
                Ok(Self {
                    train: Raw::Text(train),
                    validation: Raw::Text(validation),
                    entropy_per_byte: None,
                })
            }
            DataConfig::Pairs {
                path,
                validation_path,
                validation_fraction,
                source_field,
                target_field,
            } => {
                let read = |path: &Path| read_pairs(path, source_field, target_field);
                let path = path.as_ref().ok_or(DataError::NoPath)?;
                let mut train = read(path)?;
                let (validation, first) = match validation_path {
                    Some(path) => (read(path)?, 0),
                    None => {
                        let kept = (train.len() as f64 * (1.0 - validation_fraction)) as usize;
                        (train.split_off(kept), kept)
                    }
                };
                if train.is_empty() || validation.is_empty() {
                    return Err(DataError::TooFewPairs { path: path.clone() });
                }
                Ok(Self {
                    train: Raw::whole(train),
                    validation: Raw::Pairs { pairs: validation, first },
                    entropy_per_byte: None,
                })
            }
        }
    }

    /// The tokenizer that a configuration asks for. Characters are those of both sides, as in
    /// nanoGPT's preparation; merges are learned from the training side alone.
    ///
    /// # Errors
    /// A tokenizer that does not exist or cannot be built.
    pub fn tokenizer(&self, config: &TokenizerConfig) -> Result<Arc<dyn Tokenizer>, DataError> {
        let validation =
            (*config == TokenizerConfig::Character {}).then(|| self.validation.texts());
        let texts = self.train.texts().chain(validation.into_iter().flatten());
        Ok(tokenizer::build(config, texts)?.into())
    }
}

impl Raw {
    fn whole(pairs: Vec<TextPair>) -> Self {
        Self::Pairs { pairs, first: 0 }
    }

    fn texts(&self) -> Box<dyn Iterator<Item = &String> + '_> {
        match self {
            Self::Text(text) => Box::new(std::iter::once(text)),
            Self::Pairs { pairs, .. } => {
                Box::new(pairs.iter().flat_map(|(source, target)| [source, target]))
            }
        }
    }

    fn encode(
        &self,
        split: &'static str,
        tokenizer: &dyn Tokenizer,
        model: &ModelConfig,
    ) -> Result<Split, DataError> {
        let encode = |text: &str| {
            tokenizer.encode(text).map_err(|source| DataError::Encode { split, source })
        };
        let task = Task::new(model.architecture, tokenizer.vocab_size(), 0);
        let (pairs, first) = match self {
            Self::Text(text) => return Ok(Split::text(encode(text)?, text.len())),
            Self::Pairs { pairs, first } => (pairs, first),
        };
        if !matches!(task, Task::Translation { .. }) {
            return Err(DataError::PairsWithoutSource);
        }
        let encode_pair = |(index, (source, target)): (usize, &TextPair)| {
            let pair = Pair { source: encode(source)?, target: encode(target)? };
            // The target is preceded by a token of its own.
            let needed = pair.source.len().max(pair.target.len() + 1);
            let context_length = model.context_length;
            if pair.source.is_empty() {
                return Err(DataError::EmptySource { split, number: first + index + 1 });
            }
            if needed > context_length {
                let number = first + index + 1;
                return Err(DataError::LongPair { split, number, needed, context_length });
            }
            Ok(pair)
        };
        let encoded =
            pairs.iter().enumerate().map(encode_pair).collect::<Result<Vec<_>, DataError>>()?;
        let bytes = pairs.iter().map(|(_, target)| target.len()).sum();
        Ok(Split::pairs(encoded, bytes))
    }
}

/// Cuts a text after a share of its characters, as nanoGPT's preparation does.
fn split_at_fraction(mut text: String, share: f64) -> (String, String) {
    let characters = text.chars().count();
    let kept = (characters as f64 * share) as usize;
    let at = text.char_indices().nth(kept).map_or(text.len(), |(at, _)| at);
    let rest = text.split_off(at);
    (text, rest)
}
