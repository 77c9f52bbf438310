use serde_json::Value;
use std::io::{BufRead, BufReader, Read};

use super::bytes::Bytes;
use super::{CHUNK, LONGEST, Reader, Step};
use crate::data::DataError;

/// A JSON object in each line, with a string that is a document.
pub(super) struct JsonLines {
    bytes: BufReader<Bytes>,
    field: String,
    line: Vec<u8>,
    /// Of the line, from 1 on.
    number: u64,
    /// Of the line's start in the decompressed file.
    offset: usize,
}

impl JsonLines {
    pub(super) fn new(bytes: Bytes, field: String) -> Self {
        let offset = bytes.mark;
        let bytes = BufReader::with_capacity(CHUNK, bytes);
        Self { bytes, field, line: Vec::new(), number: 0, offset }
    }

    fn malformed(&self, reason: String) -> DataError {
        DataError::Record { path: self.bytes.get_ref().path(), line: self.number, reason }
    }
}

impl Reader for JsonLines {
    fn next(&mut self, text: &mut String) -> Result<Step, DataError> {
        self.offset += self.line.len();
        self.line.clear();
        self.line.shrink_to(CHUNK);
        self.number += 1;
        let read = (&mut self.bytes).take(LONGEST as u64).read_until(b'\n', &mut self.line);
        match read.map_err(|error| self.bytes.get_ref().failure(&error))? {
            0 => return Ok(Step::FileEnd),
            LONGEST => return Err(self.malformed(too_long("line"))),
            _ => {}
        }
        let line = std::str::from_utf8(&self.line).map_err(|error| {
            let offset = self.offset + error.valid_up_to();
            DataError::NotUtf8 { path: self.bytes.get_ref().path(), offset }
        })?;
        if line.trim().is_empty() {
            return Ok(Step::Part);
        }
        let value = serde_json::from_str(line)
            .map_err(|error| self.malformed(format!("it is not JSON: {}", in_line(&error))))?;
        match string_at(&value, &self.field) {
            Ok(found) => text.push_str(found),
            Err(reason) => return Err(self.malformed(reason)),
        }
        Ok(Step::DocumentEnd)
    }
}

pub(super) fn too_long(what: &str) -> String {
    format!("the {what} is longer than {} MiB; split it into documents", LONGEST >> 20)
}

/// Without the line, which is always the first.
fn in_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

fn string_at<'a>(value: &'a Value, field: &str) -> Result<&'a str, String> {
    let Value::Object(object) = value else { return Err("it is not an object".into()) };
    // A key may have dots itself.
    let parts = field.split_once('.').filter(|_| !object.contains_key(field));
    let (key, rest) = parts.map_or((field, None), |(key, rest)| (key, Some(rest)));
    match (object.get(key), rest) {
        (Some(inner), Some(rest)) => {
            string_at(inner, rest).map_err(|reason| format!("in `{key}`: {reason}"))
        }
        (Some(Value::String(text)), None) => Ok(text),
        (Some(_), None) => Err(format!("`{key}` is not a string")),
        (None, _) => {
            let keys: Vec<&str> = object.keys().map(String::as_str).collect();
            Err(format!("there is no `{key}`; its keys are: {}", keys.join(", ")))
        }
    }
}
