use parquet::basic::Type;
use parquet::column::page::{Page, PageReader};
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::schema::types::ColumnDescriptor;
use serde_json::{Map, Value};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::columns::{Failure, chunk_pages, damaged, open, rows_differ};
use super::pages::{Dictionary, TextPage};
use crate::data::DataError;

/// The rows of a small parquet file as JSON: a text for a column of texts, null where there is
/// none, and an array for one of lists of texts. Columns of anything else are left out.
///
/// # Errors
/// A file that cannot be read, or is damaged.
pub fn read_rows(path: &Path) -> Result<Vec<Value>, DataError> {
    let (file, chunks) = open(path)?;
    let metadata = file.metadata();
    let columns = metadata.file_metadata().schema_descr().columns();
    let mut rows: Vec<Value> = Vec::new();
    for group in 0..metadata.num_row_groups() {
        let before = rows.len();
        let count = metadata.row_group(group).num_rows();
        for (number, column) in columns.iter().enumerate() {
            let Some(keys) = keys(column) else { continue };
            let column = Column { number, description: column };
            let values = match column.values(&file, &chunks, group) {
                Ok(values) if values.len() as i64 == count => values,
                Ok(_) => return Err(damaged(path, &rows_differ())),
                Err(Failure::Parquet(error)) => return Err(damaged(path, &error)),
                Err(Failure::NotUtf8) => {
                    let field = keys.join(".");
                    return Err(DataError::NotUtf8Column { path: path.into(), field });
                }
            };
            rows.resize(before + values.len(), Value::Object(Map::new()));
            for (row, value) in rows[before..].iter_mut().zip(values) {
                put(row, &keys, value);
            }
        }
    }
    Ok(rows)
}

/// The keys under which a column of texts stands; of lists, without what the format puts between a
/// list and its elements. None of a column of anything else.
fn keys(column: &ColumnDescriptor) -> Option<Vec<String>> {
    let parts = column.path().parts();
    let own = match (column.physical_type(), column.max_rep_level()) {
        (Type::BYTE_ARRAY, 0) => parts.len(),
        // `NAME.list.element`, and what older writers have instead of these words.
        (Type::BYTE_ARRAY, 1) if parts.len() > 2 => parts.len() - 2,
        _ => return None,
    };
    Some(parts[..own].to_vec())
}

/// Puts a value into objects within objects. What is there already stays, where the names of two
/// columns contradict each other.
fn put(row: &mut Value, keys: &[String], value: Value) {
    let (Some((first, rest)), Value::Object(object)) = (keys.split_first(), row) else { return };
    if rest.is_empty() {
        object.entry(first.as_str()).or_insert(value);
    } else {
        put(object.entry(first.as_str()).or_insert(Value::Object(Map::new())), rest, value);
    }
}

struct Column<'a> {
    number: usize,
    description: &'a ColumnDescriptor,
}

impl Column<'_> {
    /// Of the rows of a group.
    fn values(
        &self,
        file: &SerializedFileReader<File>,
        chunks: &Arc<File>,
        group: usize,
    ) -> Result<Vec<Value>, Failure> {
        let (mut pages, _) = chunk_pages(file, chunks, group, self.number)?;
        let (mut values, mut dictionary) = (Vec::new(), None);
        while let Some(page) = pages.get_next_page()? {
            match page {
                Page::DictionaryPage { .. } => dictionary = Some(Dictionary::new(&page)?),
                page => self.read(&page, dictionary.as_ref(), &mut values)?,
            }
        }
        Ok(values)
    }

    fn read(
        &self,
        page: &Page,
        dictionary: Option<&Dictionary>,
        values: &mut Vec<Value>,
    ) -> Result<(), Failure> {
        let max_level = self.description.max_def_level();
        let repeats = self.description.max_rep_level();
        let (mut texts, places) = TextPage::nested(page, repeats, max_level)?;
        for (repetition, is_there) in places {
            let text = match is_there {
                true => match texts.next(dictionary)? {
                    Some(bytes) => {
                        Value::from(std::str::from_utf8(bytes).map_err(|_| Failure::NotUtf8)?)
                    }
                    None => return Err(rows_differ().into()),
                },
                false => Value::Null,
            };
            if repeats == 0 {
                values.push(text);
                continue;
            }
            if repetition == 0 {
                values.push(Value::Array(Vec::new()));
            }
            let Some(Value::Array(list)) = values.last_mut() else {
                return Err(rows_differ().into());
            };
            // A list without elements has a place without a text.
            if is_there {
                list.push(text);
            }
        }
        Ok(())
    }
}
