use std::path::PathBuf;

use super::bytes::{Bytes, Tally};
use super::columns::Parquet;
use super::lines::JsonLines;
use super::plain::PlainText;
use super::table::Table;
use super::{LONGEST, PIECE, Reader, SourceFile, SourceFormat, SourceOptions, Step};
use crate::data::DataError;
use crate::files::checksum;

/// A document, or a part of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Never empty.
    pub text: String,
    /// Whether the next piece is of another document.
    pub ends_document: bool,
}

/// A file that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRecord {
    pub path: PathBuf,
    /// As it lies on the disk.
    pub bytes: u64,
    /// Of those bytes, as `sha256sum` prints it.
    pub sha256: String,
}

/// The documents of files, one after the other.
pub struct Documents {
    files: std::vec::IntoIter<SourceFile>,
    options: SourceOptions,
    open: Option<Open>,
    /// What was read of the current document; before `start` it has been handed out.
    text: String,
    start: usize,
    /// The text ends where the document does.
    whole: bool,
    /// A piece of the current document has been handed out.
    begun: bool,
    /// Whether there has been a document at all.
    any: bool,
    finished: Vec<SourceRecord>,
    finished_bytes: u64,
}

/// The file that is being read.
struct Open {
    file: SourceFile,
    reader: Box<dyn Reader>,
    tally: Tally,
    /// Documents that are only white space are left out: what stands around separators.
    skip_blank: bool,
    any: bool,
}

impl Open {
    fn new(file: SourceFile, options: &SourceOptions) -> Result<Self, DataError> {
        let tally = Tally::default();
        let field = &options.field;
        let bytes = || Bytes::open(&file, &tally);
        // An empty file has no documents in whatever format.
        let format = if file.bytes == Some(0) { SourceFormat::Text } else { file.format };
        let reader: Box<dyn Reader> = match format {
            SourceFormat::Text => Box::new(PlainText::new(bytes()?, options.separator.clone())),
            SourceFormat::JsonLines => Box::new(JsonLines::new(bytes()?, field.clone())),
            SourceFormat::Csv => Box::new(Table::csv(bytes()?, field)?),
            SourceFormat::Tsv => Box::new(Table::tsv(bytes()?, field)?),
            SourceFormat::Parquet => Box::new(Parquet::open(&file.path, field)?),
        };
        let skip_blank = format == SourceFormat::Text && options.separator.is_some();
        Ok(Self { file, reader, tally, skip_blank, any: false })
    }

    /// Of the file as it lies on the disk.
    fn bytes_read(&self) -> u64 {
        match (self.reader.part_read(), self.file.bytes) {
            (Some(part), Some(bytes)) => (part * bytes as f64) as u64,
            _ => self.tally.bytes(),
        }
    }

    fn finish(self) -> Result<SourceRecord, DataError> {
        let path = self.file.path;
        if self.file.named && !self.any {
            return Err(DataError::Empty { path });
        }
        let (bytes, sha256) = match self.file.bytes {
            // Not read in order.
            Some(bytes) if self.reader.part_read().is_some() => {
                (bytes, checksum(&path).map_err(DataError::File)?)
            }
            _ => (self.tally.bytes(), self.tally.sha256()),
        };
        Ok(SourceRecord { path, bytes, sha256 })
    }
}

impl Documents {
    pub(super) fn new(files: Vec<SourceFile>, options: SourceOptions) -> Self {
        Self {
            files: files.into_iter(),
            options,
            open: None,
            text: String::new(),
            start: 0,
            whole: false,
            begun: false,
            any: false,
            finished: Vec::new(),
            finished_bytes: 0,
        }
    }

    /// The next document, or the next piece of a long one; none after the last.
    ///
    /// A document of up to 1 MiB is one piece. A longer one comes in pieces that are about that
    /// long, and together they are its text: each ends at the last place that `cut` names. `cut`
    /// gets a text that goes on, and returns the last byte offset, over 0, up to which the text
    /// can be taken by itself. Where it returns none, the piece becomes longer.
    ///
    /// # Errors
    /// A file that cannot be read or understood; 256 MiB that cannot be cut; no document at all,
    /// in all files or in one that was asked for by its name.
    pub fn next(
        &mut self,
        cut: &dyn Fn(&str) -> Option<usize>,
    ) -> Result<Option<Piece>, DataError> {
        let mut limit = PIECE;
        loop {
            if self.text.len() - self.start > limit {
                if let Some(piece) = self.cut(limit, cut) {
                    return Ok(Some(piece));
                }
                if limit >= LONGEST {
                    let path = self.open.as_ref().map(|open| open.file.path.clone());
                    return Err(DataError::Uncuttable { path: path.unwrap_or_default() });
                }
                limit *= 2;
            } else if self.whole {
                if let Some(piece) = self.rest() {
                    return Ok(Some(piece));
                }
            } else if let Some(open) = &mut self.open {
                match open.reader.next(&mut self.text)? {
                    Step::Part => {}
                    Step::DocumentEnd => self.whole = true,
                    Step::FileEnd => self.finish_file()?,
                }
            } else if let Some(file) = self.files.next() {
                self.open = Some(Open::new(file, &self.options)?);
            } else if self.any {
                return Ok(None);
            } else {
                return Err(DataError::NoDocuments);
            }
        }
    }

    /// Bytes that have been read of the files as they lie on the disk.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.finished_bytes + self.open.as_ref().map_or(0, Open::bytes_read)
    }

    /// The files that have been read to their end.
    #[must_use]
    pub fn finished(&self) -> &[SourceRecord] {
        &self.finished
    }

    /// A piece of at most `limit` bytes of a text that is longer.
    fn cut(&mut self, limit: usize, cut: &dyn Fn(&str) -> Option<usize>) -> Option<Piece> {
        let end = self.text.floor_char_boundary(self.start + limit);
        let text = &self.text[self.start..end];
        if !self.begun && self.skips_blank() && is_blank(text) {
            return None;
        }
        let length = cut(text).filter(|at| *at > 0 && text.is_char_boundary(*at))?;
        let piece = text[..length].to_string();
        self.start += length;
        // What is moved is no longer than what was handed out.
        if self.start > self.text.len() / 2 {
            self.text.drain(..self.start);
            self.text.shrink_to(2 * PIECE);
            self.start = 0;
        }
        self.note();
        self.begun = true;
        Some(Piece { text: piece, ends_document: false })
    }

    /// The end of a document; none of one that is left out.
    fn rest(&mut self) -> Option<Piece> {
        let mut text = std::mem::take(&mut self.text);
        text.drain(..std::mem::take(&mut self.start));
        let begun = std::mem::take(&mut self.begun);
        self.whole = false;
        if !begun && (text.is_empty() || self.skips_blank() && is_blank(&text)) {
            return None;
        }
        self.note();
        Some(Piece { text, ends_document: true })
    }

    fn skips_blank(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.skip_blank)
    }

    /// Notes that the file has a document.
    fn note(&mut self) {
        self.any = true;
        if let Some(open) = &mut self.open {
            open.any = true;
        }
    }

    fn finish_file(&mut self) -> Result<(), DataError> {
        if let Some(open) = self.open.take() {
            let record = open.finish()?;
            self.finished_bytes += record.bytes;
            self.finished.push(record);
        }
        Ok(())
    }
}

fn is_blank(text: &str) -> bool {
    text.trim_start().is_empty()
}
