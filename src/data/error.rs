use std::path::PathBuf;

use super::{DownloadError, GrammarError, ManifestError};
use crate::tokenizer::TokenizerError;

/// Why there is no data to train or evaluate on.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("there is no file {}; give the path of a UTF-8 text", .path.display())]
    NotFound { path: PathBuf },
    #[error("{} is a folder; give a UTF-8 text file", .path.display())]
    IsFolder { path: PathBuf },
    #[error("cannot read {}: {reason}", .path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{} is empty; give a file with some text", .path.display())]
    Empty { path: PathBuf },
    #[error(
        "{} is not UTF-8 (byte {offset} and after); convert it, for example with iconv -t UTF-8",
        .path.display()
    )]
    NotUtf8 { path: PathBuf, offset: usize },
    #[error("this configuration names no text; give one with --data FILE")]
    NoPath,
    #[error(
        "the {split} text has {found} tokens, but a window of model.context_length = {context_length} needs {}; give a longer text or lower the context length", .context_length + 1
    )]
    TooShort { split: &'static str, found: usize, context_length: usize },
    #[error("{}, line {line}: {reason}", .path.display())]
    Pair { path: PathBuf, line: u64, reason: String },
    #[error("{} has too few pairs to split off some for validation; give more, or --eval-data FILE", .path.display())]
    TooFewPairs { path: PathBuf },
    #[error("pairs need a model that reads a source: model.architecture = encoder-decoder")]
    PairsWithoutSource,
    #[error("pair {number} of the file, in the {split} data, has an empty source")]
    EmptySource { split: &'static str, number: usize },
    #[error(
        "pair {number} of the file, in the {split} data, needs {needed} positions, but model.context_length = {context_length}; leave it out or raise the context length"
    )]
    LongPair { split: &'static str, number: usize, needed: usize, context_length: usize },
    #[error("the {split} text cannot be encoded")]
    Encode { split: &'static str, source: TokenizerError },
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Download(#[from] DownloadError),
}
