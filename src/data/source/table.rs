use csv::{ByteRecord, ErrorKind, Position};
use std::io::{self, Read};

use super::bytes::Bytes;
use super::lines::too_long;
use super::{CHUNK, LONGEST, Reader, Step};
use crate::data::DataError;

/// Records with a header before them; a column has the documents.
pub(super) struct Table {
    records: csv::Reader<Limited>,
    record: ByteRecord,
    /// None of an empty file.
    column: Option<usize>,
    field: String,
}

/// Does not let a quote that never ends take all of a file into memory.
struct Limited {
    bytes: Bytes,
    left: usize,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let read = self.bytes.read(buffer)?;
        self.left = self.left.saturating_sub(read);
        Ok(read)
    }
}

impl Table {
    /// Quotes as in RFC 4180.
    pub(super) fn csv(bytes: Bytes, field: &str) -> Result<Self, DataError> {
        Self::new(bytes, field, csv::ReaderBuilder::new().delimiter(b','))
    }

    /// Tabs are always between fields, and line breaks between records.
    pub(super) fn tsv(bytes: Bytes, field: &str) -> Result<Self, DataError> {
        Self::new(bytes, field, csv::ReaderBuilder::new().delimiter(b'\t').quoting(false))
    }

    fn new(bytes: Bytes, field: &str, builder: &mut csv::ReaderBuilder) -> Result<Self, DataError> {
        let limited = Limited { bytes, left: LONGEST };
        let records = builder.buffer_capacity(CHUNK).from_reader(limited);
        let field = field.to_string();
        let mut table = Self { records, record: ByteRecord::new(), column: None, field };
        let header = match table.records.byte_headers() {
            Ok(header) => header.clone(),
            Err(error) => return Err(table.failure(error)),
        };
        table.column = header.iter().position(|name| name == table.field.as_bytes());
        if table.column.is_none() && !header.is_empty() {
            let names: Vec<_> = header.iter().map(String::from_utf8_lossy).collect();
            return Err(DataError::NoColumn {
                path: table.records.get_ref().bytes.path(),
                field: table.field,
                columns: names.join(", "),
            });
        }
        Ok(table)
    }

    fn malformed(&self, position: Option<&Position>, reason: String) -> DataError {
        let path = self.records.get_ref().bytes.path();
        DataError::Record { path, line: position.map_or(0, Position::line), reason }
    }

    fn failure(&self, error: csv::Error) -> DataError {
        let reason = error.to_string();
        match error.into_kind() {
            ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                let reason = format!("{}, or its quote has no end", too_long("record"));
                self.malformed(Some(self.records.position()), reason)
            }
            ErrorKind::Io(error) => self.records.get_ref().bytes.failure(&error),
            ErrorKind::UnequalLengths { pos, expected_len, len } => {
                let reason = format!("it has {len} fields, but the header has {expected_len}");
                self.malformed(pos.as_ref(), reason)
            }
            _ => self.malformed(Some(self.records.position()), reason),
        }
    }
}

impl Reader for Table {
    fn next(&mut self, text: &mut String) -> Result<Step, DataError> {
        let Some(column) = self.column else { return Ok(Step::FileEnd) };
        self.records.get_mut().left = LONGEST;
        match self.records.read_byte_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => return Ok(Step::FileEnd),
            Err(error) => return Err(self.failure(error)),
        }
        let field = self.record.get(column).unwrap_or_default();
        match std::str::from_utf8(field) {
            Ok(field) => text.push_str(field),
            Err(_) => {
                let reason = format!("`{}` is not UTF-8", self.field);
                return Err(self.malformed(self.record.position(), reason));
            }
        }
        Ok(Step::DocumentEnd)
    }
}
