use serde_json::{Map, Value, json};
use std::io::{self, Write};

use super::{Row, RowLogger};

/// A JSON object a row; what is not a number is null.
pub struct JsonLinesLogger<W> {
    output: W,
}

impl<W: Write + Send> JsonLinesLogger<W> {
    pub fn new(output: W) -> Self {
        Self { output }
    }
}

impl<W: Write + Send> RowLogger for JsonLinesLogger<W> {
    fn log(&mut self, row: &Row) -> io::Result<()> {
        let mut line = Map::new();
        line.insert("split".into(), row.split.to_string().into());
        line.insert("step".into(), row.step.into());
        for logged in &row.values {
            let value = logged.list.clone().unwrap_or_else(|| json!(logged.value));
            line.insert(logged.key.clone(), value);
        }
        // In one piece, which a crash does not cut in two.
        let line = format!("{}\n", Value::Object(line));
        self.output.write_all(line.as_bytes())?;
        self.output.flush()
    }
}
