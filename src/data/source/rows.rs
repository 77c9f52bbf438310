use parquet::basic::{ConvertedType, Type};
use parquet::column::page::{Page, PageReader};
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::schema::types::ColumnDescriptor;
use serde_json::{Map, Value};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::columns::{Failure, chunk_pages, damaged, open, rows_differ};
use super::pages::{Dictionary, Layout, ValuePage};
use crate::data::DataError;

/// The rows of a small parquet file as JSON: a text for a column of texts, a number for one of
/// integers, null where there is none, and an array for one of lists of either. Columns of anything
/// else, among them days, times and decimals, are left out.
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
            let (Some(kind), Some(keys)) = (Kind::of(column), keys(column)) else { continue };
            let column = Column { number, description: column, kind };
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

/// The keys under which a column stands; of lists, without what the format puts between a list and
/// its elements. None of a column of lists of lists.
fn keys(column: &ColumnDescriptor) -> Option<Vec<String>> {
    let parts = column.path().parts();
    let own = match column.max_rep_level() {
        0 => parts.len(),
        // `NAME.list.element`, and what older writers have instead of these words.
        1 if parts.len() > 2 => parts.len() - 2,
        _ => return None,
    };
    Some(parts[..own].to_vec())
}

/// What the values of a column are.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// Of so many bytes.
    Integer {
        width: usize,
        is_signed: bool,
    },
}

impl Kind {
    /// None of a column that is left out.
    fn of(column: &ColumnDescriptor) -> Option<Self> {
        use ConvertedType::{
            BSON, DECIMAL, INT_8, INT_16, INT_32, INT_64, NONE, UINT_8, UINT_16, UINT_32, UINT_64,
        };
        let width = match column.physical_type() {
            Type::BYTE_ARRAY if matches!(column.converted_type(), BSON | DECIMAL) => return None,
            Type::BYTE_ARRAY => return Some(Self::Text),
            Type::INT32 => 4,
            Type::INT64 => 8,
            _ => return None,
        };
        let is_signed = match column.converted_type() {
            INT_8 | INT_16 | INT_32 | INT_64 => true,
            UINT_8 | UINT_16 | UINT_32 | UINT_64 => false,
            NONE if column.logical_type_ref().is_none() => true,
            _ => return None,
        };
        Some(Self::Integer { width, is_signed })
    }

    fn layout(self) -> Layout {
        match self {
            Self::Text => Layout::Text,
            Self::Integer { width, .. } => Layout::Integer(width),
        }
    }

    fn json(self, bytes: &[u8]) -> Result<Value, Failure> {
        match self {
            Self::Text => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(text.into()),
                Err(_) => Err(Failure::NotUtf8),
            },
            Self::Integer { is_signed, .. } => {
                integer(bytes, is_signed).ok_or_else(|| rows_differ().into())
            }
        }
    }
}

/// Of four or eight bytes, the lowest first.
fn integer(bytes: &[u8], is_signed: bool) -> Option<Value> {
    Some(match (bytes.try_into().ok(), is_signed) {
        (Some(four), true) => i32::from_le_bytes(four).into(),
        (Some(four), false) => u32::from_le_bytes(four).into(),
        (None, true) => i64::from_le_bytes(bytes.try_into().ok()?).into(),
        (None, false) => u64::from_le_bytes(bytes.try_into().ok()?).into(),
    })
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
    kind: Kind,
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
                Page::DictionaryPage { .. } => {
                    dictionary = Some(Dictionary::new(&page, self.kind.layout())?);
                }
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
        let (mut found, places) = ValuePage::nested(page, self.kind.layout(), repeats, max_level)?;
        for (repetition, is_there) in places {
            let value = match is_there {
                true => match found.next(dictionary)? {
                    Some(bytes) => self.kind.json(bytes)?,
                    None => return Err(rows_differ().into()),
                },
                false => Value::Null,
            };
            if repeats == 0 {
                values.push(value);
                continue;
            }
            if repetition == 0 {
                values.push(Value::Array(Vec::new()));
            }
            let Some(Value::Array(list)) = values.last_mut() else {
                return Err(rows_differ().into());
            };
            // A list without elements has a place without a value.
            if is_there {
                list.push(value);
            }
        }
        Ok(())
    }
}
