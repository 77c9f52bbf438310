use serde_json::Value;
use std::path::Path;

use super::{DataError, read_text};

/// A text and what it becomes, before they are tokenized.
pub(super) type TextPair = (String, String);

/// Reads pairs of texts: a file that ends in `.jsonl` has an object a line, any other a source
/// and a target in each line with a tab between them.
///
/// # Errors
/// A file that cannot be read, or a line without a pair, by its number.
pub(super) fn read_pairs(
    path: &Path,
    source_field: &str,
    target_field: &str,
) -> Result<Vec<TextPair>, DataError> {
    let text = read_text(path)?;
    let malformed = |line: u64, reason: String| DataError::Pair { path: path.into(), line, reason };
    let json = path.extension().is_some_and(|extension| extension == "jsonl");
    let pairs = if json {
        let parse = |(index, line): (usize, &str)| {
            object_pair(line, source_field, target_field)
                .map_err(|reason| malformed(index as u64 + 1, reason))
        };
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines.map(parse).collect::<Result<Vec<_>, _>>()?
    } else {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(b'\t')
            .has_headers(false)
            .quoting(false)
            .flexible(true)
            .from_reader(text.as_bytes());
        let parse = |record: Result<csv::StringRecord, csv::Error>| {
            let record = record.map_err(|error| malformed(0, error.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            match (record.get(0), record.get(1)) {
                (Some(source), Some(target)) if record.len() == 2 => {
                    Ok((source.to_string(), target.to_string()))
                }
                _ => {
                    let tabs = record.len().saturating_sub(1);
                    let reason =
                        format!("expected a source, a tab and a target; it has {tabs} tabs");
                    Err(malformed(line, reason))
                }
            }
        };
        reader.records().map(parse).collect::<Result<Vec<_>, _>>()?
    };
    if pairs.is_empty() {
        return Err(DataError::Empty { path: path.into() });
    }
    Ok(pairs)
}

fn object_pair(line: &str, source_field: &str, target_field: &str) -> Result<TextPair, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let field = |name: &str| match value.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("`{name}` is not a string")),
        None => Err(format!(
            "there is no `{name}`; name its keys with data.source_field and data.target_field"
        )),
    };
    Ok((field(source_field)?, field(target_field)?))
}
