use std::io::{self, Write};

use super::{Row, RowLogger};

/// A line a row, of training and of evaluations; a column a metric. What a row does not have is
/// empty, and what is not a number is `NaN`, `inf` or `-inf`.
pub struct CsvLogger<W> {
    output: W,
    /// After `split` and `step`. None before the first row.
    columns: Option<Vec<String>>,
}

impl<W: Write + Send> CsvLogger<W> {
    /// Goes on below the columns that the output has already, or begins with a line of columns.
    pub fn new(output: W, columns: Option<Vec<String>>) -> Self {
        let skip_fixed = |columns: Vec<String>| columns.into_iter().skip(FIXED.len()).collect();
        Self { output, columns: columns.map(skip_fixed) }
    }

    fn write(&mut self, fields: impl Iterator<Item = String>) -> io::Result<()> {
        let mut line = csv::Writer::from_writer(Vec::new());
        line.write_record(fields.map(String::into_bytes))?;
        let line = line.into_inner().map_err(|error| error.into_error())?;
        // In one piece, which a crash does not cut in two.
        self.output.write_all(&line)?;
        self.output.flush()
    }
}

const FIXED: [&str; 2] = ["split", "step"];

impl<W: Write + Send> RowLogger for CsvLogger<W> {
    fn begin(&mut self, keys: &[String]) -> io::Result<()> {
        if self.columns.is_some() {
            return Ok(());
        }
        self.columns = Some(keys.to_vec());
        self.write(FIXED.into_iter().map(String::from).chain(keys.iter().cloned()))
    }

    fn log(&mut self, row: &Row) -> io::Result<()> {
        let columns = self.columns.clone().unwrap_or_default();
        let values = columns.into_iter().map(|column| {
            let logged = row.values.iter().find(|logged| logged.key == column);
            logged.map(|logged| logged.value.to_string()).unwrap_or_default()
        });
        self.write([row.split.to_string(), row.step.to_string()].into_iter().chain(values))
    }
}
