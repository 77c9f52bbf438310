//! Token ids one after the other, in memory or in files, and where the documents among them begin.

use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files::{FileError, read_error};

/// How a file holds token ids: little-endian, one after the other, and nothing else, as nanoGPT
/// has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenType {
    U16,
    U32,
}

impl TokenType {
    /// The smallest type that has room for all ids of a vocabulary.
    pub fn for_vocabulary(vocab_size: usize) -> Self {
        if vocab_size <= 1 << u16::BITS { Self::U16 } else { Self::U32 }
    }

    /// Bytes of an id.
    pub fn width(self) -> usize {
        match self {
            Self::U16 => size_of::<u16>(),
            Self::U32 => size_of::<u32>(),
        }
    }

    /// Appends ids as bytes.
    pub(super) fn write(self, ids: &[u32], bytes: &mut Vec<u8>) {
        match self {
            // The vocabulary has been seen to fit.
            Self::U16 => bytes.extend(ids.iter().flat_map(|id| (*id as u16).to_le_bytes())),
            Self::U32 => bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes())),
        }
    }

    /// The ids that some bytes are.
    pub(super) fn read(self, bytes: &[u8]) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            Self::U16 => Box::new(
                bytes.as_chunks::<2>().0.iter().map(|id| u32::from(u16::from_le_bytes(*id))),
            ),
            Self::U32 => {
                Box::new(bytes.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)))
            }
        }
    }
}

/// Bytes of a document's place in an index.
pub(super) const INDEX_WIDTH: usize = size_of::<u64>();

/// A sequence of token ids, and of the documents that they belong to. A clone shares it.
#[derive(Debug, Clone)]
pub struct TokenStream {
    shards: Arc<[Shard]>,
    tokens: usize,
    documents: usize,
    ended: bool,
}

/// A part of it. No document lies in two.
#[derive(Debug)]
pub(super) struct Shard {
    first_token: usize,
    first_document: usize,
    ids: Ids,
    starts: Starts,
}

#[derive(Debug)]
enum Ids {
    Memory(Arc<[u32]>),
    File(MappedFile, TokenType),
}

/// Where documents begin, counted from the beginning of the shard.
#[derive(Debug)]
enum Starts {
    Memory(Vec<u64>),
    File(Mmap),
}

impl Shard {
    /// Maps files of token ids and of `u64` places; what they hold must have been checked.
    pub(super) fn open(
        ids: &Path,
        token_type: TokenType,
        starts: &Path,
    ) -> Result<Self, FileError> {
        Ok(Self {
            first_token: 0,
            first_document: 0,
            ids: Ids::File(MappedFile::open(ids)?, token_type),
            starts: Starts::File(map(starts)?.0),
        })
    }

    fn tokens(&self) -> usize {
        match &self.ids {
            Ids::Memory(ids) => ids.len(),
            Ids::File(file, token_type) => file.bytes.len() / token_type.width(),
        }
    }

    fn documents(&self) -> usize {
        match &self.starts {
            Starts::Memory(starts) => starts.len(),
            Starts::File(bytes) => bytes.len() / INDEX_WIDTH,
        }
    }

    /// Where a document of this shard begins.
    fn start(&self, document: usize) -> usize {
        match &self.starts {
            Starts::Memory(starts) => starts[document] as usize,
            Starts::File(bytes) => {
                let (places, _) = bytes.as_chunks::<INDEX_WIDTH>();
                u64::from_le_bytes(places[document]) as usize
            }
        }
    }

    /// Appends the ids at some places of this shard.
    fn read(&self, range: Range<usize>, out: &mut Vec<u32>) {
        match &self.ids {
            Ids::Memory(ids) => out.extend_from_slice(&ids[range]),
            Ids::File(file, token_type) => {
                let width = token_type.width();
                out.extend(token_type.read(&file.bytes[range.start * width..range.end * width]));
            }
        }
    }
}

/// A file of token ids that is read for hours.
#[derive(Debug)]
struct MappedFile {
    bytes: Mmap,
    file: File,
    path: PathBuf,
}

impl MappedFile {
    fn open(path: &Path) -> Result<Self, FileError> {
        let (bytes, file) = map(path)?;
        Ok(Self { bytes, file, path: path.into() })
    }

    /// That it is still as long as it was.
    fn check(&self) -> Result<(), FileError> {
        let found = self.file.metadata().map_err(read_error(&self.path))?.len();
        let expected = self.bytes.len() as u64;
        if found == expected {
            return Ok(());
        }
        let reason = format!("it had {expected} bytes when it was opened and has {found} now");
        Err(FileError::Damaged { path: self.path.clone(), reason })
    }
}

/// The bytes of a file, read as they are needed, and the file.
pub(super) fn map(path: &Path) -> Result<(Mmap, File), FileError> {
    let file = File::open(path).map_err(read_error(path))?;
    // SAFETY: a mapped slice is only sound while nothing writes to the file. Prepared files appear
    // whole under their name and no part of this program ever writes to one again; removing or
    // replacing one leaves the mapping as it was. A foreign program that cuts one short while a
    // run reads it is found out by `MappedFile::check` before the next batch; where it comes
    // between the two, the system ends the run, whose checkpoints stay as they are.
    let bytes = unsafe { Mmap::map(&file) }.map_err(read_error(path))?;
    Ok((bytes, file))
}

impl TokenStream {
    /// Ids in memory that are one document.
    pub fn of_text(ids: impl Into<Arc<[u32]>>) -> Self {
        Self::of_documents(ids, vec![0])
    }

    /// Ids in memory, and the places where documents begin: ascending, the first at zero.
    pub fn of_documents(ids: impl Into<Arc<[u32]>>, starts: Vec<u64>) -> Self {
        Self::new(vec![Shard {
            first_token: 0,
            first_document: 0,
            ids: Ids::Memory(ids.into()),
            starts: Starts::Memory(starts),
        }])
    }

    pub(super) fn new(mut shards: Vec<Shard>) -> Self {
        let (mut tokens, mut documents) = (0, 0);
        for shard in &mut shards {
            (shard.first_token, shard.first_document) = (tokens, documents);
            tokens += shard.tokens();
            documents += shard.documents();
        }
        Self { shards: shards.into(), tokens, documents, ended: true }
    }

    /// The same tokens, of a tokenizer without a token that ends a document.
    pub fn without_ends(self) -> Self {
        Self { ended: false, ..self }
    }

    /// Tokens.
    pub fn len(&self) -> usize {
        self.tokens
    }

    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    pub fn documents(&self) -> usize {
        self.documents
    }

    /// Whether a token of its own ends each document, so that the next one begins after it.
    pub fn has_ends(&self) -> bool {
        self.ended
    }

    /// The tokens at some places, which must lie within the stream.
    pub fn read(&self, range: Range<usize>) -> Vec<u32> {
        let mut ids = Vec::with_capacity(range.len());
        assert!(range.end <= self.tokens, "{range:?} of {} tokens", self.tokens);
        let mut at = range.start;
        while at < range.end {
            let number = self.shards.partition_point(|shard| shard.first_token <= at) - 1;
            let shard = &self.shards[number];
            let end = range.end.min(shard.first_token + shard.tokens());
            shard.read(at - shard.first_token..end - shard.first_token, &mut ids);
            at = end;
        }
        ids
    }

    /// That files which are read as they are needed are still there in full.
    ///
    /// # Errors
    /// [`FileError::Damaged`], with the file's name.
    pub fn check(&self) -> Result<(), FileError> {
        self.shards.iter().try_for_each(|shard| match &shard.ids {
            Ids::Memory(_) => Ok(()),
            Ids::File(file, _) => file.check(),
        })
    }

    /// The places of a document's tokens.
    pub fn document(&self, number: usize) -> Range<usize> {
        let shard = self.shard_of_document(number);
        let within = number - shard.first_document;
        let end = match within + 1 < shard.documents() {
            true => shard.start(within + 1),
            false => shard.tokens(),
        };
        shard.first_token + shard.start(within)..shard.first_token + end
    }

    /// The document that the token at a place belongs to.
    pub fn document_at(&self, place: usize) -> usize {
        let number = self.shards.partition_point(|shard| shard.first_token <= place) - 1;
        let shard = &self.shards[number];
        let place = place - shard.first_token;
        let (mut before, mut after) = (0, shard.documents());
        // The last document that begins at or before the place.
        while after - before > 1 {
            let middle = (before + after) / 2;
            if shard.start(middle) <= place {
                before = middle;
            } else {
                after = middle;
            }
        }
        shard.first_document + before
    }

    fn shard_of_document(&self, number: usize) -> &Shard {
        let place = self.shards.partition_point(|shard| shard.first_document <= number) - 1;
        &self.shards[place]
    }
}
