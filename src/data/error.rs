use std::path::PathBuf;

use super::{DownloadError, GrammarError, ManifestError};
use crate::files::FileError;
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
    #[error("prepared data has no text any more; give the text that it was made of")]
    NoText,
    #[error(
        "the {split} text has {found} tokens, but a window of model.context_length = {context_length} needs {}; give a longer text or lower the context length", .context_length + 1
    )]
    TooShort { split: &'static str, found: usize, context_length: usize },
    #[error("the {split} text has no token that another comes before; give a longer text")]
    NothingToPredict { split: &'static str },
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
    #[error("there is nothing to read; give a file, a folder, or - for standard input")]
    NoSources,
    #[error("standard input can only be read once; give - once")]
    StandardInputTwice,
    #[error("the separator of documents is empty; give what stands between them")]
    EmptySeparator,
    #[error("{} has no file to read, which ends in one of {extensions}; name the files", .path.display())]
    NothingInFolder { path: PathBuf, extensions: String },
    #[error("`{pattern}` is no pattern of files: {reason}")]
    Pattern { pattern: String, reason: String },
    #[error("there is no file {pattern}, and none that matches it as a pattern")]
    NoMatch { pattern: String },
    #[error("{} is parquet in another compression; decompress it first", .path.display())]
    CompressedParquet { path: PathBuf },
    #[error("{} is damaged or cut off ({reason}); get it again", .path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{}, line {line}: {reason}", .path.display())]
    Record { path: PathBuf, line: u64, reason: String },
    #[error("{} has no column `{field}`; its columns are: {columns}", .path.display())]
    NoColumn { path: PathBuf, field: String, columns: String },
    #[error("column `{field}` of {} has no texts; name one that has", .path.display())]
    NotTextColumn { path: PathBuf, field: String },
    #[error("column `{field}` of {} is not UTF-8; convert it", .path.display())]
    NotUtf8Column { path: PathBuf, field: String },
    #[error(
        "{} has a text of over 256 MiB that the tokenizer cannot cut; split it into documents, for example with --separator",
        .path.display()
    )]
    Uncuttable { path: PathBuf },
    #[error("the files have no documents; give files with some text")]
    NoDocuments,
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the {split} text cannot be encoded")]
    Encode { split: &'static str, source: TokenizerError },
    #[error("document {number} of its side of the split cannot be encoded")]
    EncodeDocument { number: u64, source: TokenizerError },
    #[error(
        "{documents} different documents are too few to keep one for validation; give more, --validation PATH, or --split characters"
    )]
    TooFewDocuments { documents: usize },
    #[error(
        "nothing is left for the {split} split; change --validation-fraction, or give --validation PATH"
    )]
    EmptySplit { split: &'static str },
    #[error("{} holds something else already; remove it, or choose another folder with --out", .path.display())]
    FolderTaken { path: PathBuf },
    #[error(
        "{} is an unfinished preparation of other text or with other settings; go on with those, remove it, or choose another folder with --out", .path.display()
    )]
    OtherUnfinished { path: PathBuf },
    #[error("a source was changed while it was read; run the same command again")]
    Changed,
    #[error("standard input and pipes can only be read once; keep them in a file first")]
    ReadOnce,
    #[error(
        "{} is one text and has no documents to put into rows; take data.packing = stream, or prepare it with --split documents", .path.display()
    )]
    NoDocumentsToPack { path: PathBuf },
    #[error("another program is preparing {} at this moment", .path.display())]
    Busy { path: PathBuf },
    #[error("{} holds no prepared data; make some with `emberlm prepare`", .path.display())]
    NotPrepared { path: PathBuf },
    #[error(
        "{} was prepared in format {found}, this program reads format {known}; prepare it again", .path.display()
    )]
    Format { path: PathBuf, found: u32, known: u32 },
    #[error(
        "{} was prepared with the tokenizer {name} of {vocab_size} tokens, not with the one of {wanted} tokens that is asked for; prepare it again with that one", .path.display()
    )]
    OtherTokenizer { path: PathBuf, name: String, vocab_size: usize, wanted: usize },
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Download(#[from] DownloadError),
}
