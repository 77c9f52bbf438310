use parquet::basic::Type;
use parquet::column::page::{Page, PageReader};
use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{SerializedFileReader, SerializedPageReader};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pages::{Dictionary, Layout, ValuePage};
use super::{Reader, Step};
use crate::data::DataError;

/// A column of a parquet file, a page at a time.
pub(super) struct Parquet {
    path: PathBuf,
    field: String,
    file: SerializedFileReader<File>,
    chunks: Arc<File>,
    column: usize,
    max_level: i16,
    /// Row groups that have been begun.
    groups: usize,
    /// Rows of the current group that are in pages to come.
    rows_left: u64,
    pages: Option<SerializedPageReader<File>>,
    dictionary: Option<Dictionary>,
    page: Option<ValuePage>,
    rows_read: u64,
}

impl Parquet {
    pub(super) fn open(path: &Path, field: &str) -> Result<Self, DataError> {
        let (file, chunks) = open(path)?;
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
            max_level: description.max_def_level(),
            file,
            chunks,
            column,
            groups: 0,
            rows_left: 0,
            pages: None,
            dictionary: None,
            page: None,
            rows_read: 0,
        })
    }

    /// Appends the next text that is not null; false after the last.
    fn read(&mut self, text: &mut String) -> Result<bool, Failure> {
        loop {
            if let Some(page) = &mut self.page {
                if let Some(found) = page.next(self.dictionary.as_ref())? {
                    text.push_str(std::str::from_utf8(found).map_err(|_| Failure::NotUtf8)?);
                    return Ok(true);
                }
                self.page = None;
            } else if let Some(pages) = &mut self.pages {
                match pages.get_next_page()? {
                    Some(page @ Page::DictionaryPage { .. }) => {
                        self.dictionary = Some(Dictionary::new(&page, Layout::Text)?);
                    }
                    Some(page) => {
                        let rows = u64::from(page.num_values());
                        self.rows_left =
                            self.rows_left.checked_sub(rows).ok_or_else(rows_differ)?;
                        self.rows_read += rows;
                        self.page = Some(ValuePage::new(&page, self.max_level)?);
                    }
                    None if self.rows_left > 0 => return Err(rows_differ().into()),
                    None => self.pages = None,
                }
            } else if self.groups < self.file.metadata().num_row_groups() {
                self.begin_group()?;
            } else {
                return Ok(false);
            }
        }
    }

    fn begin_group(&mut self) -> Result<(), ParquetError> {
        let (pages, rows) = chunk_pages(&self.file, &self.chunks, self.groups, self.column)?;
        self.pages = Some(pages);
        self.rows_left = rows as u64;
        self.dictionary = None;
        self.groups += 1;
        Ok(())
    }
}

/// A file's structure, and the file.
pub(super) fn open(path: &Path) -> Result<(SerializedFileReader<File>, Arc<File>), DataError> {
    let unreadable = |error: std::io::Error| DataError::Unreadable {
        path: path.into(),
        reason: error.to_string(),
    };
    let opened = File::open(path).map_err(unreadable)?;
    let chunks = Arc::new(opened.try_clone().map_err(unreadable)?);
    let file = SerializedFileReader::new(opened).map_err(|error| damaged(path, &error))?;
    Ok((file, chunks))
}

/// The pages of a column in a row group, and the group's rows.
pub(super) fn chunk_pages(
    file: &SerializedFileReader<File>,
    chunks: &Arc<File>,
    group: usize,
    column: usize,
) -> Result<(SerializedPageReader<File>, usize), ParquetError> {
    let group = file.metadata().row_group(group);
    let places = |message: &str| ParquetError::General(message.into());
    let chunk = group.columns().get(column).ok_or_else(|| places("a column is missing"))?;
    let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
    if start < 0 || chunk.compressed_size() < 0 {
        return Err(places("a column has no place"));
    }
    let rows = usize::try_from(group.num_rows())?;
    Ok((SerializedPageReader::new(Arc::clone(chunks), chunk, rows, None)?, rows))
}

pub(super) enum Failure {
    NotUtf8,
    Parquet(ParquetError),
}

impl From<ParquetError> for Failure {
    fn from(error: ParquetError) -> Self {
        Self::Parquet(error)
    }
}

pub(super) fn rows_differ() -> ParquetError {
    ParquetError::General("the pages of a row group do not have its rows".into())
}

pub(super) fn damaged(path: &Path, error: &ParquetError) -> DataError {
    let reason = error.to_string().replace('\n', " ");
    DataError::Damaged { path: path.into(), reason }
}

impl Reader for Parquet {
    fn next(&mut self, text: &mut String) -> Result<Step, DataError> {
        match self.read(text) {
            Ok(true) => Ok(Step::DocumentEnd),
            Ok(false) => Ok(Step::FileEnd),
            Err(Failure::Parquet(error)) => Err(damaged(&self.path, &error)),
            Err(Failure::NotUtf8) => {
                Err(DataError::NotUtf8Column { path: self.path.clone(), field: self.field.clone() })
            }
        }
    }

    fn part_read(&self) -> Option<f64> {
        let rows = self.file.metadata().file_metadata().num_rows().max(1);
        Some((self.rows_read as f64 / rows as f64).min(1.0))
    }
}
