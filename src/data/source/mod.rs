//! Documents as a stream, from files of any size and from standard input.
//!
//! Memory: a file is read in chunks of 128 KiB, and at most a piece of a document is held, of about
//! 1 MiB or, where the caller finds no place to cut a text, of 256 MiB. A format adds what has to be
//! whole to be understood: a line of JSON or a record of a table (256 MiB at most), a page and the
//! dictionary of a column of parquet (as large as their writer made them, most often 1 MiB).

mod bytes;
mod columns;
mod documents;
mod find;
mod lines;
mod pages;
mod plain;
mod rows;
mod table;

pub use documents::{Documents, Piece, SourceRecord};
pub use find::{Compression, SourceFile, SourceFormat, Sources};
pub use rows::read_rows;

/// How documents are found in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceOptions {
    /// Key of JSON lines, column of tables and of parquet; `message.text` is `text` in `message`.
    pub field: String,
    /// What stands between the documents of a plain text; a line break right after it belongs to
    /// it. Without one, a file is a document.
    pub separator: Option<String>,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self { field: "text".into(), separator: None }
    }
}

/// Bytes that are read at once.
const CHUNK: usize = 128 << 10;
/// Bytes of a piece, where its document goes on and can be cut.
const PIECE: usize = 1 << 20;
/// Bytes of the longest text that is held: a piece that cannot be cut, a line, a record.
const LONGEST: usize = 256 << 20;

/// What a format's reader has appended.
enum Step {
    /// Some of a document, which goes on; perhaps nothing.
    Part,
    /// The rest of a document.
    DocumentEnd,
    /// Nothing: the file has ended, and so had its last document.
    FileEnd,
}

/// Reads the documents of one file in order.
trait Reader: Send {
    /// Appends some more of the current document to `text`.
    fn next(&mut self, text: &mut String) -> Result<Step, super::DataError>;

    /// Which part of the file has been read, from 0 to 1, where bytes are not read in order.
    fn part_read(&self) -> Option<f64> {
        None
    }
}
