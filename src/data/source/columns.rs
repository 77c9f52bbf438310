use parquet::basic::Type;
use parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{SerializedFileReader, SerializedPageReader};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Reader, Step};
use crate::data::DataError;

/// Documents that are decoded at once; they share the memory of their pages.
const BATCH: usize = 64;

/// A column of a parquet file.
pub(super) struct Parquet {
    path: PathBuf,
    field: String,
    file: SerializedFileReader<File>,
    chunks: Arc<File>,
    column: usize,
    /// Of the next row group.
    group: usize,
    pages: Option<ColumnReaderImpl<ByteArrayType>>,
    /// In reverse.
    documents: Vec<ByteArray>,
    levels: Vec<i16>,
    rows_read: u64,
}

impl Parquet {
    pub(super) fn open(path: &Path, field: &str) -> Result<Self, DataError> {
        let unreadable = |error: std::io::Error| DataError::Unreadable {
            path: path.into(),
            reason: error.to_string(),
        };
        let opened = File::open(path).map_err(unreadable)?;
        let chunks = Arc::new(opened.try_clone().map_err(unreadable)?);
        let file = SerializedFileReader::new(opened).map_err(|error| damaged(path, &error))?;
        let schema = file.metadata().file_metadata().schema_descr();
        let columns = schema.columns();
        let column = columns.iter().position(|column| column.path().string() == field);
        let Some(column) = column else {
            let names: Vec<String> = columns.iter().map(|column| column.path().string()).collect();
            return Err(DataError::NoColumn {
                path: path.into(),
                field: field.into(),
                columns: names.join(", "),
            });
        };
        let description = &columns[column];
        if description.physical_type() != Type::BYTE_ARRAY || description.max_rep_level() > 0 {
            return Err(DataError::NotTextColumn { path: path.into(), field: field.into() });
        }
        Ok(Self {
            path: path.into(),
            field: field.into(),
            file,
            chunks,
            column,
            group: 0,
            pages: None,
            documents: Vec::new(),
            levels: Vec::new(),
            rows_read: 0,
        })
    }

    /// Decodes the next documents; false after the last.
    fn fill(&mut self) -> Result<bool, ParquetError> {
        loop {
            let Some(pages) = &mut self.pages else {
                let metadata = self.file.metadata();
                if self.group == metadata.num_row_groups() {
                    return Ok(false);
                }
                let group = metadata.row_group(self.group);
                let chunk = group.column(self.column);
                let rows = usize::try_from(group.num_rows())
                    .map_err(|_| ParquetError::General("a row group has no rows".into()))?;
                let pages = SerializedPageReader::new(Arc::clone(&self.chunks), chunk, rows, None)?;
                let description = group.schema_descr().column(self.column);
                let reader = get_column_reader(description, Box::new(pages));
                self.pages = Some(get_typed_column_reader(reader));
                self.group += 1;
                continue;
            };
            self.levels.clear();
            let (records, _, _) =
                pages.read_records(BATCH, Some(&mut self.levels), None, &mut self.documents)?;
            self.rows_read += records as u64;
            if !self.documents.is_empty() {
                self.documents.reverse();
                return Ok(true);
            }
            if records == 0 {
                self.pages = None;
            }
        }
    }
}

fn damaged(path: &Path, error: &ParquetError) -> DataError {
    let reason = error.to_string().replace('\n', " ");
    DataError::Damaged { path: path.into(), reason }
}

impl Reader for Parquet {
    fn next(&mut self, text: &mut String) -> Result<Step, DataError> {
        if self.documents.is_empty() && !self.fill().map_err(|error| damaged(&self.path, &error))? {
            return Ok(Step::FileEnd);
        }
        let Some(document) = self.documents.pop() else { return Ok(Step::FileEnd) };
        let found = std::str::from_utf8(document.data()).map_err(|_| DataError::NotUtf8Column {
            path: self.path.clone(),
            field: self.field.clone(),
        })?;
        text.push_str(found);
        Ok(Step::DocumentEnd)
    }

    fn part_read(&self) -> Option<f64> {
        let rows = self.file.metadata().file_metadata().num_rows().max(1);
        Some((self.rows_read as f64 / rows as f64).min(1.0))
    }
}
