//! A folder of token files: what `prepare` writes and training reads.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

use super::token_stream::{INDEX_WIDTH, Shard, map};
use super::{DataError, SourceRecord, TokenStream, TokenType};
use crate::files::{self, FileError};
use crate::tokenizer::{self, SavedTokenizer, Tokenizer};

pub(super) const META: &str = "meta.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
/// Of the layout that this module reads and writes.
pub(super) const FORMAT: u32 = 1;
/// Bytes that are checked at a time.
const CHUNK: usize = 1 << 20;

/// What a folder of token files holds, as its `meta.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    pub format: u32,
    pub tokenizer: TokenizerMeta,
    pub token_type: TokenType,
    pub split: SplitRule,
    pub train: SplitMeta,
    pub validation: SplitMeta,
    /// Files that the text came from.
    pub sources: Vec<SourceRecord>,
    /// Training documents that were left out since they are validation documents as well.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// Tells one preparation from another.
    pub job: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Whose ids these are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerMeta {
    pub name: String,
    /// [`tokenizer::fingerprint`]
    pub fingerprint: String,
    pub vocab_size: usize,
    pub end_of_text: Option<u32>,
}

/// Which documents are kept for validation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SplitRule {
    /// All text is one, and its last characters are: nanoGPT's rule.
    Characters { validation_fraction: f64 },
    /// Those whose hash lies below the threshold. A document and its copies are always on the same
    /// side.
    Documents { validation_fraction: f64, threshold: u64, seed: u64 },
    /// Those of files of their own.
    Files {},
}

/// One side of the split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitMeta {
    pub tokens: u64,
    pub documents: u64,
    /// Of text.
    pub bytes: u64,
    /// Of text.
    pub characters: u64,
    pub shards: Vec<ShardMeta>,
}

impl SplitMeta {
    /// Tells its tokens from all others: by their checksums, which are checked when they are opened.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        for shard in &self.shards {
            hasher.update(&shard.sha256);
            hasher.update(&shard.index_sha256);
        }
        files::hexadecimal(hasher)
    }
}

/// Two files: token ids, and where documents begin among them, as little-endian `u64`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardMeta {
    pub file: String,
    pub tokens: u64,
    pub sha256: String,
    pub index: String,
    pub documents: u64,
    pub index_sha256: String,
}

/// A folder that was prepared.
#[derive(Debug)]
pub struct Prepared {
    folder: PathBuf,
    meta: Meta,
    tokenizer: SavedTokenizer,
}

impl Prepared {
    /// Whether a path is such a folder.
    pub fn is_at(path: &Path) -> bool {
        path.join(META).is_file()
    }

    /// Reads what the folder says of itself.
    ///
    /// # Errors
    /// A folder that was not prepared, or whose tokenizer is not the one that it names.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        if !Self::is_at(folder) {
            return Err(DataError::NotPrepared { path: folder.into() });
        }
        let meta: Meta = files::read_json(&folder.join(META))?;
        if meta.format != FORMAT {
            let found = meta.format;
            return Err(DataError::Format { path: folder.into(), found, known: FORMAT });
        }
        let tokenizer: SavedTokenizer = files::read_json(&folder.join(TOKENIZER))?;
        let prepared = Self { folder: folder.into(), meta, tokenizer };
        let tokenizer = prepared.tokenizer()?;
        let TokenizerMeta { fingerprint, vocab_size, end_of_text, .. } = &prepared.meta.tokenizer;
        if tokenizer::fingerprint(tokenizer.as_ref()) != *fingerprint
            || tokenizer.vocab_size() != *vocab_size
            || tokenizer.end_of_text() != *end_of_text
        {
            return Err(damaged(&folder.join(TOKENIZER), "it is not the tokenizer of these files"));
        }
        Ok(prepared)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// # Errors
    /// A tokenizer that contradicts itself.
    pub fn tokenizer(&self) -> Result<Box<dyn Tokenizer>, DataError> {
        Ok(self.tokenizer.restore()?)
    }

    /// That the ids mean to a tokenizer what they mean here.
    ///
    /// # Errors
    /// [`DataError::OtherTokenizer`]
    pub fn check_tokenizer(&self, tokenizer: &dyn Tokenizer) -> Result<(), DataError> {
        if tokenizer::fingerprint(tokenizer) == self.meta.tokenizer.fingerprint {
            return Ok(());
        }
        let TokenizerMeta { name, vocab_size, .. } = &self.meta.tokenizer;
        Err(DataError::OtherTokenizer {
            path: self.folder.clone(),
            name: name.clone(),
            vocab_size: *vocab_size,
            wanted: tokenizer.vocab_size(),
        })
    }

    /// The tokens for training and for validation, after every file has been checked: its length,
    /// its checksum, its ids, and the order of its documents.
    ///
    /// # Errors
    /// [`FileError::Damaged`], with the file's name.
    pub fn tokens(&self) -> Result<(TokenStream, TokenStream), DataError> {
        Ok((self.stream(&self.meta.train)?, self.validation()?))
    }

    /// The tokens for validation alone, checked in the same way.
    ///
    /// # Errors
    /// As for [`Prepared::tokens`].
    pub fn validation(&self) -> Result<TokenStream, DataError> {
        self.stream(&self.meta.validation)
    }

    fn stream(&self, split: &SplitMeta) -> Result<TokenStream, DataError> {
        let sum = |count: fn(&ShardMeta) -> u64| {
            split.shards.iter().map(count).fold(0, u64::saturating_add)
        };
        let whole = sum(|shard| shard.tokens) == split.tokens
            && sum(|shard| shard.documents) == split.documents
            && split.shards.iter().all(|shard| shard.tokens > 0 && shard.documents > 0)
            && split.tokens > 1;
        if !whole {
            return Err(damaged(&self.folder.join(META), "its counts contradict each other"));
        }
        let shards = split
            .shards
            .par_iter()
            .map(|shard| self.shard(shard))
            .collect::<Result<Vec<Shard>, DataError>>()?;
        let stream = TokenStream::new(shards);
        Ok(match self.meta.tokenizer.end_of_text {
            Some(_) => stream,
            None => stream.without_ends(),
        })
    }

    fn shard(&self, shard: &ShardMeta) -> Result<Shard, DataError> {
        let ids = self.path_of(&shard.file)?;
        let starts = self.path_of(&shard.index)?;
        let token_type = self.meta.token_type;
        let vocab_size = self.meta.tokenizer.vocab_size;
        let length = |count: u64, width: usize| count.saturating_mul(width as u64);
        check(&ids, length(shard.tokens, token_type.width()), &shard.sha256, |bytes| {
            let largest = token_type.read(bytes).max().unwrap_or(0) as usize;
            (largest >= vocab_size).then(|| {
                format!("it has the id {largest}, but the vocabulary has {vocab_size} tokens")
            })
        })?;
        let mut before = None;
        check(&starts, length(shard.documents, INDEX_WIDTH), &shard.index_sha256, |bytes| {
            for place in
                bytes.as_chunks::<INDEX_WIDTH>().0.iter().map(|place| u64::from_le_bytes(*place))
            {
                let expected = match before {
                    None => place == 0,
                    Some(before) => before < place && place < shard.tokens,
                };
                if !expected {
                    return Some(format!("a document begins at {place}, out of order"));
                }
                before = Some(place);
            }
            None
        })?;
        Ok(Shard::open(&ids, token_type, &starts)?)
    }

    /// A file of this folder, whatever `meta.json` calls it.
    fn path_of(&self, name: &str) -> Result<PathBuf, DataError> {
        let plain = Path::new(name).file_name().is_some_and(|file| file == name);
        if !plain {
            return Err(damaged(&self.folder.join(META), &format!("`{name}` is no file name")));
        }
        Ok(self.folder.join(name))
    }
}

/// Reads a file to its end and compares it with what is known of it.
fn check(
    path: &Path,
    length: u64,
    sha256: &str,
    mut content: impl FnMut(&[u8]) -> Option<String>,
) -> Result<(), DataError> {
    let (bytes, _) = map(path)?;
    if bytes.len() as u64 != length {
        let reason = format!("it has {} bytes and should have {length}", bytes.len());
        return Err(damaged(path, &reason));
    }
    let mut hasher = Sha256::new();
    let mut wrong = None;
    for chunk in bytes.chunks(CHUNK) {
        hasher.update(chunk);
        wrong = wrong.or_else(|| content(chunk));
    }
    // First: in a file that is not what was written, anything may be wrong.
    if files::hexadecimal(hasher) != sha256 {
        return Err(damaged(path, "its checksum is not the one in meta.json"));
    }
    match wrong {
        Some(reason) => Err(damaged(path, &reason)),
        None => Ok(()),
    }
}

fn damaged(path: &Path, reason: &str) -> DataError {
    FileError::Damaged { path: path.into(), reason: reason.into() }.into()
}
