//! Text to token ids and back.

mod bpe;
mod byte;
mod byte_level;
mod character;
mod export;
mod file;
mod growing;
mod hash;
mod huggingface;
mod ids;
mod merges;
mod pairs;
mod split;
mod tiktoken;
mod trainer;

pub use bpe::{BytePairEncoder, Merge};
pub use byte::ByteTokenizer;
pub use character::CharacterTokenizer;
pub use export::{HuggingFaceFiles, to_hugging_face};
pub use file::read;
pub use huggingface::{HuggingFaceTokenizer, byte_level_text};
pub use ids::IdTokenizer;
pub use merges::MergesTokenizer;
pub use split::Splitter;
pub use tiktoken::{TiktokenTokenizer, last_merge};
pub use trainer::{TrainedTokenizer, Trainer};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;

use crate::config::TokenizerConfig;
use crate::files;

/// What a tokenizer refuses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenizerError {
    #[error(
        "the tokenizer has never seen the character {character:?} (U+{:04X}, at character {position}); it knows {known} characters from its training text",
        *.character as u32
    )]
    UnknownCharacter {
        character: char,
        /// Counted from one.
        position: usize,
        known: usize,
    },
    #[error("there is no tiktoken encoding `{name}`; there are {known}")]
    UnknownEncoding { name: String, known: String },
    #[error(
        "there is no tokenizer `{name}`, and no file or folder of that name; there are character, byte, {known}, and any path of a tokenizer.json or of a folder that holds one"
    )]
    UnknownName { name: String, known: String },
    #[error("the saved tokenizer lists the character {character:?} twice")]
    RepeatedCharacter { character: char },
    #[error(
        "the tokenizer's merge {number} of {left} and {right} repeats another or is of tokens that come after it"
    )]
    Merge { number: usize, left: u32, right: u32 },
    #[error(
        "the tokenizer's merge {number} makes a token of {length} bytes, and {size} bytes of tokens so far; 64 KiB and 64 MiB are the most"
    )]
    LongMerge { number: usize, length: usize, size: usize },
    #[error("it cannot be used as a tokenizer of Hugging Face's: {reason}")]
    HuggingFace { reason: String },
    #[error(
        "this model came without a tokenizer, so text is token ids below {vocab_size}, as in <12><7>; import it again from a folder with tokenizer.json for other text"
    )]
    NotIds { vocab_size: usize },
    #[error("{reason}")]
    NoHuggingFace { reason: String },
    #[error("a vocabulary of {asked} tokens cannot be trained: {reason}")]
    VocabularySize { asked: usize, reason: String },
    #[error("`{token}` cannot be a special token: {reason}")]
    SpecialToken { token: String, reason: &'static str },
    #[error("this tokenizer cannot grow: {reason}")]
    NotGrowing { reason: String },
    #[error(
        "the different words of the text are 4 GiB or more; train on a part of it, or with a pattern that makes shorter words"
    )]
    TooManyWords,
    #[error("the split pattern `{pattern}` is not a regular expression: {reason}")]
    SplitPattern { pattern: String, reason: String },
    #[error(
        "the split pattern gave up on a text: {reason}; a simpler pattern is needed, or a text without very long runs of one kind of characters"
    )]
    Split { reason: String },
    #[error("cannot read {path}: {reason}")]
    Unreadable { path: String, reason: String },
    /// Of a tokenizer that is not of this crate.
    #[error("{reason}")]
    Custom { reason: String },
}

/// A reversible mapping between text and ids in `0..vocab_size`.
pub trait Tokenizer: Send + Sync + std::fmt::Debug {
    /// The number of ids, those that stand for nothing included.
    fn vocab_size(&self) -> usize;

    /// The ids of a text.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express, or that its split pattern gives up on.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError>;

    /// The ids of several texts, in their order, computed in parallel.
    fn encode_batch(&self, texts: &[&str]) -> Vec<Result<Vec<u32>, TokenizerError>> {
        texts.par_iter().map(|text| self.encode(text)).collect()
    }

    /// The last place inside a text where it may be cut: the ids of both parts are the ids of the
    /// whole, whatever text stands before and after it. None where there is no such place, or none
    /// is known.
    fn cut(&self, _text: &str) -> Option<usize> {
        None
    }

    /// The bytes of one token; none for an id that stands for nothing.
    fn token_bytes(&self, id: u32) -> Option<Vec<u8>>;

    /// What a model expects before a text, where it has learned to expect something.
    fn beginning_of_text(&self) -> Option<u32> {
        None
    }

    /// What stands between documents, where the vocabulary has such a token.
    fn end_of_text(&self) -> Option<u32>;

    /// All that is needed to build the same tokenizer again.
    fn saved(&self) -> SavedTokenizer;

    /// The bytes of all tokens, exactly; U+FFFD for an id that stands for nothing.
    fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        let unknown = || "\u{FFFD}".as_bytes().to_vec();
        ids.iter().flat_map(|id| self.token_bytes(*id).unwrap_or_else(unknown)).collect()
    }

    /// The text of all tokens, with U+FFFD for bytes that are not UTF-8.
    fn decode(&self, ids: &[u32]) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids)).into_owned()
    }
}

/// The last character begins here, where there is one before it.
fn last_character(text: &str) -> Option<usize> {
    text.char_indices().next_back().map(|(place, _)| place).filter(|place| *place > 0)
}

/// What two tokenizers have in common whose ids mean the same: the SHA-256, as `sha256sum` prints
/// it, of the number of ids, of what each stands for, and of which one ends a text.
pub fn fingerprint(tokenizer: &dyn Tokenizer) -> String {
    let mut hasher = Sha256::new();
    let number = |number: Option<u64>, hasher: &mut Sha256| {
        // Apart from what is not there.
        hasher.update(number.map_or(0, |number| number + 1).to_le_bytes());
    };
    number(Some(tokenizer.vocab_size() as u64), &mut hasher);
    for id in 0..tokenizer.vocab_size() as u32 {
        let bytes = tokenizer.token_bytes(id);
        number(bytes.as_ref().map(|bytes| bytes.len() as u64), &mut hasher);
        hasher.update(bytes.unwrap_or_default());
    }
    number(tokenizer.end_of_text().map(u64::from), &mut hasher);
    files::hexadecimal(hasher)
}

/// A tokenizer by its name on a command line: `character`, `byte`, one of OpenAI's encodings, or
/// the path of a tokenizer's file or of a folder that has one.
///
/// # Errors
/// [`TokenizerError::UnknownName`]
pub fn named(name: &str) -> Result<TokenizerConfig, TokenizerError> {
    match name {
        "character" => Ok(TokenizerConfig::Character {}),
        "byte" => Ok(TokenizerConfig::Byte {}),
        _ if TiktokenTokenizer::size_of(name).is_some() => {
            Ok(TokenizerConfig::Tiktoken { encoding: name.into() })
        }
        _ if Path::new(name).exists() => Ok(TokenizerConfig::File { path: name.into() }),
        _ => Err(TokenizerError::UnknownName {
            name: name.into(),
            known: TiktokenTokenizer::names().collect::<Vec<_>>().join(", "),
        }),
    }
}

/// A tokenizer as it is stored beside its model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SavedTokenizer {
    /// The characters in the order of their ids.
    Character { characters: String },
    /// Bytes, and the end of a text.
    Byte {},
    /// One of OpenAI's encodings, which the program contains.
    Tiktoken { encoding: String },
    /// The text of a `tokenizer.json`.
    HuggingFace { json: String, end_of_text: Option<u32> },
    /// Byte pairs in the order in which they are merged.
    Merges { merges: Vec<(u32, u32)> },
    /// Text that is token ids.
    Ids { vocab_size: usize },
}

impl SavedTokenizer {
    /// # Errors
    /// A vocabulary that contradicts itself, or an encoding that does not exist.
    pub fn restore(&self) -> Result<Box<dyn Tokenizer>, TokenizerError> {
        match self {
            Self::Character { characters } => {
                Ok(Box::new(CharacterTokenizer::from_characters(characters)?))
            }
            Self::Byte {} => Ok(Box::new(ByteTokenizer)),
            Self::Tiktoken { encoding } => Ok(Box::new(TiktokenTokenizer::new(encoding)?)),
            Self::HuggingFace { json, end_of_text } => {
                Ok(Box::new(HuggingFaceTokenizer::new(json, *end_of_text)?))
            }
            Self::Merges { merges } => Ok(Box::new(MergesTokenizer::new(merges.clone())?)),
            Self::Ids { vocab_size } => Ok(Box::new(IdTokenizer::new(*vocab_size))),
        }
    }
}

/// The number of ids that a configuration leads to, where that does not depend on a text or a
/// file.
pub fn known_vocab_size(config: &TokenizerConfig) -> Option<usize> {
    match config {
        TokenizerConfig::Byte {} => Some(ByteTokenizer.vocab_size()),
        TokenizerConfig::Tiktoken { encoding } => TiktokenTokenizer::size_of(encoding),
        // Fewer where the text has no more pairs.
        TokenizerConfig::Bpe { vocab_size, .. } => Some(*vocab_size),
        TokenizerConfig::Ids { vocab_size } => Some(*vocab_size),
        TokenizerConfig::Character {} | TokenizerConfig::File { .. } => None,
    }
}

/// The tokenizer that a configuration asks for; `texts` are what a vocabulary is built from where
/// it is built at all.
///
/// # Errors
/// An encoding that does not exist, a file that is no tokenizer, or what [`Trainer`] refuses.
pub fn build<'a>(
    config: &TokenizerConfig,
    texts: impl IntoIterator<Item = &'a String>,
) -> Result<Box<dyn Tokenizer>, TokenizerError> {
    match config {
        TokenizerConfig::Character {} => Ok(Box::new(CharacterTokenizer::train(texts))),
        TokenizerConfig::Byte {} => Ok(Box::new(ByteTokenizer)),
        TokenizerConfig::Bpe { vocab_size, split, special_tokens } => {
            let mut trainer = Trainer::new(split, special_tokens)?;
            trainer.feed(&texts.into_iter().map(String::as_str).collect::<Vec<_>>())?;
            trainer.train(*vocab_size, |_| ())?.saved.restore()
        }
        TokenizerConfig::Tiktoken { encoding } => Ok(Box::new(TiktokenTokenizer::new(encoding)?)),
        TokenizerConfig::File { path } => read(path)?.restore(),
        TokenizerConfig::Ids { vocab_size } => Ok(Box::new(IdTokenizer::new(*vocab_size))),
    }
}
