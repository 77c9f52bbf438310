use std::path::Path;
use std::sync::Arc;

use super::{DataError, Stories, read_text};
use crate::config::{DataConfig, TokenizerConfig};
use crate::tokenizer::{self, Tokenizer};

/// One side of a corpus.
#[derive(Debug, Clone)]
pub struct Split {
    /// Token ids, documents one after the other.
    pub tokens: Arc<[u32]>,
    /// Bytes of the text that the tokens stand for.
    pub bytes: usize,
}

impl Split {
    /// Bytes a token on average, which turns nats a token into bits a byte.
    pub fn bytes_per_token(&self) -> f64 {
        self.bytes as f64 / self.tokens.len() as f64
    }

    /// A text file as a whole.
    ///
    /// # Errors
    /// Text that cannot be read or encoded, or is too short to predict anything in.
    pub fn read(path: &Path, tokenizer: &dyn Tokenizer) -> Result<Self, DataError> {
        let split = Self::encode(&read_text(path)?, "evaluation", tokenizer)?;
        split.check_length("evaluation", 1)?;
        Ok(split)
    }

    fn encode(
        text: &str,
        split: &'static str,
        tokenizer: &dyn Tokenizer,
    ) -> Result<Self, DataError> {
        let tokens =
            tokenizer.encode(text).map_err(|source| DataError::Encode { split, source })?;
        Ok(Self { tokens: tokens.into(), bytes: text.len() })
    }

    fn check_length(&self, split: &'static str, context_length: usize) -> Result<(), DataError> {
        let found = self.tokens.len();
        // The last token of a window is only a target, so a window needs one more.
        if found > context_length {
            return Ok(());
        }
        Err(DataError::TooShort { split, found, context_length })
    }
}

/// A text, tokenized and split.
#[derive(Debug)]
pub struct Corpus {
    pub tokenizer: Arc<dyn Tokenizer>,
    pub train: Split,
    pub validation: Split,
    /// Entropy of the source in nats a token, where the source is known.
    pub source_entropy: Option<f64>,
}

impl Corpus {
    /// Encodes both sides of a text.
    ///
    /// # Errors
    /// Text that cannot be encoded, or that is too short for one window.
    pub fn encode(
        text: &SplitText,
        tokenizer: Arc<dyn Tokenizer>,
        context_length: usize,
    ) -> Result<Self, DataError> {
        let train = Split::encode(&text.train, "training", tokenizer.as_ref())?;
        let validation = Split::encode(&text.validation, "validation", tokenizer.as_ref())?;
        train.check_length("training", context_length)?;
        validation.check_length("validation", context_length)?;
        // Per byte the entropy belongs to the text; per token it depends on how it is cut.
        let source_entropy =
            text.entropy_per_byte.map(|entropy| entropy * validation.bytes_per_token());
        Ok(Self { tokenizer, train, validation, source_entropy })
    }
}

/// A text before it is tokenized.
#[derive(Debug, Clone)]
pub struct SplitText {
    train: String,
    validation: String,
    /// In nats, where the source is known.
    entropy_per_byte: Option<f64>,
}

impl SplitText {
    /// Reads or generates the text and splits it.
    ///
    /// # Errors
    /// Text that cannot be read.
    pub fn read(data: &DataConfig, seed: u64) -> Result<Self, DataError> {
        match data {
            DataConfig::Stories { train_stories, validation_stories } => {
                let stories = Stories::new()?;
                Ok(Self {
                    train: stories.generate(*train_stories, seed, 0),
                    validation: stories.generate(*validation_stories, seed, 1),
                    entropy_per_byte: Some(stories.entropy_per_character()),
                })
            }
            DataConfig::Text { path, validation_path, validation_fraction } => {
                let text = read_text(path.as_ref().ok_or(DataError::NoPath)?)?;
                let (train, validation) = match validation_path {
                    Some(path) => (text, read_text(path)?),
                    None => split_at_fraction(text, 1.0 - validation_fraction),
                };
                Ok(Self { train, validation, entropy_per_byte: None })
            }
        }
    }

    /// The tokenizer that a configuration asks for, built from both sides where it is built at
    /// all, as nanoGPT's preparation does.
    ///
    /// # Errors
    /// An encoding that does not exist.
    pub fn tokenizer(&self, config: &TokenizerConfig) -> Result<Arc<dyn Tokenizer>, DataError> {
        Ok(tokenizer::build(config, [&self.train, &self.validation])?.into())
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
