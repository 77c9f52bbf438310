use std::io::ErrorKind;
use std::path::Path;

use super::DataError;

/// The byte-order mark that some programs write before UTF-8.
pub(super) const MARK: &str = "\u{feff}";

/// Reads a whole UTF-8 text, without the byte-order mark that some programs put before it.
///
/// # Errors
/// A file that is missing, a folder, unreadable, empty or not UTF-8.
pub fn read_text(path: &Path) -> Result<String, DataError> {
    let path_buf = || path.to_path_buf();
    if path.is_dir() {
        return Err(DataError::IsFolder { path: path_buf() });
    }
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => DataError::NotFound { path: path_buf() },
        _ => DataError::Unreadable { path: path_buf(), reason: error.to_string() },
    })?;
    let mut text = String::from_utf8(bytes).map_err(|error| DataError::NotUtf8 {
        path: path_buf(),
        offset: error.utf8_error().valid_up_to(),
    })?;
    if text.starts_with(MARK) {
        text.drain(..MARK.len());
    }
    match text.is_empty() {
        true => Err(DataError::Empty { path: path_buf() }),
        false => Ok(text),
    }
}
