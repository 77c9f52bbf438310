use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Cursor, ErrorKind, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::{CHUNK, Compression, SourceFile};
use crate::data::DataError;
use crate::data::text::MARK;
use crate::files::hexadecimal;

/// What has been read of a file as it lies on the disk.
#[derive(Clone, Default)]
pub(super) struct Tally(Arc<Mutex<(Sha256, u64)>>);

impl Tally {
    fn add(&self, bytes: &[u8]) {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tally.0.update(bytes);
        tally.1 += bytes.len() as u64;
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// As `sha256sum` prints it.
    pub(super) fn sha256(&self) -> String {
        hexadecimal(self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone())
    }
}

/// Hashes and counts what it reads.
struct Tallied<R> {
    inner: R,
    tally: Tally,
}

impl<R: Read> Read for Tallied<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.tally.add(&buffer[..read]);
        Ok(read)
    }
}

/// The bytes of a file, decompressed and without a byte-order mark.
pub(super) struct Bytes {
    inner: Box<dyn Read + Send>,
    path: PathBuf,
    compressed: bool,
    /// Bytes of the mark that was left out.
    pub(super) mark: usize,
}

impl Bytes {
    pub(super) fn open(file: &SourceFile, tally: &Tally) -> Result<Self, DataError> {
        let raw: Box<dyn Read + Send> = if file.standard_input {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(&file.path).map_err(|error| match error.kind() {
                ErrorKind::NotFound => DataError::NotFound { path: file.path.clone() },
                _ => DataError::Unreadable { path: file.path.clone(), reason: error.to_string() },
            })?)
        };
        let tallied = Tallied { inner: raw, tally: tally.clone() };
        let tallied = io::BufReader::with_capacity(CHUNK, tallied);
        let unread = |error: io::Error| DataError::Unreadable {
            path: file.path.clone(),
            reason: error.to_string(),
        };
        // Nothing at all is no compressed stream, but no damage either.
        let compression = if file.bytes == Some(0) { Compression::None } else { file.compression };
        let inner: Box<dyn Read + Send> = match compression {
            Compression::None => Box::new(tallied),
            Compression::Gzip => Box::new(MultiGzDecoder::new(tallied)),
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(tallied).map_err(unread)?),
        };
        let compressed = compression != Compression::None;
        let mut bytes = Self { inner, path: file.path.clone(), compressed, mark: 0 };
        bytes.skip_mark()?;
        Ok(bytes)
    }

    fn skip_mark(&mut self) -> Result<(), DataError> {
        let mut first = Vec::new();
        let read = (&mut self.inner).take(MARK.len() as u64).read_to_end(&mut first);
        read.map_err(|error| self.failure(&error))?;
        if first == MARK.as_bytes() {
            self.mark = first.len();
        } else {
            let rest = std::mem::replace(&mut self.inner, Box::new(io::empty()));
            self.inner = Box::new(Cursor::new(first).chain(rest));
        }
        Ok(())
    }

    pub(super) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// What an error of reading says about the file.
    pub(super) fn failure(&self, error: &io::Error) -> DataError {
        let (path, reason) = (self.path(), error.to_string());
        // The system's own errors come from the disk, all others from decompressing.
        if self.compressed && error.raw_os_error().is_none() {
            DataError::Damaged { path, reason }
        } else {
            DataError::Unreadable { path, reason }
        }
    }
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}
