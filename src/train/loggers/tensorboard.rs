//! TensorBoard's event files: records of protocol buffers, each framed by its length and two
//! checksums (TensorFlow's `record_writer.h`, `event.proto`, `summary.proto`).

use prost::Message;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Row, RowLogger};

/// Scalars such as `train/loss`, by step, and the run's configuration as a text.
pub struct TensorBoardLogger<W> {
    output: W,
}

impl<W: Write + Send> TensorBoardLogger<W> {
    /// Begins a file. What other files of the folder hold of `first_step` and later steps,
    /// TensorBoard forgets. `description` is Markdown.
    ///
    /// # Errors
    /// An output that cannot be written.
    pub fn new(output: W, first_step: usize, description: &str) -> io::Result<Self> {
        let mut logger = Self { output };
        logger.write(Event { file_version: Some("brain.Event:2".into()), ..Event::now(0) })?;
        let session_log = Some(SessionLog { status: SESSION_START });
        logger.write(Event { session_log, ..Event::now(first_step) })?;
        let summary = Some(Summary { value: vec![text("config", description)] });
        logger.write(Event { summary, ..Event::now(first_step) })?;
        Ok(logger)
    }

    fn write(&mut self, event: Event) -> io::Result<()> {
        let data = event.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_crc(&length).to_le_bytes());
        record.extend_from_slice(&data);
        record.extend_from_slice(&masked_crc(&data).to_le_bytes());
        self.output.write_all(&record)?;
        self.output.flush()
    }
}

impl<W: Write + Send> RowLogger for TensorBoardLogger<W> {
    fn log(&mut self, row: &Row) -> io::Result<()> {
        let scalar = |tag: String, value: f64| Value {
            tag,
            simple_value: Some(value as f32),
            ..Value::default()
        };
        let value = row
            .values
            .iter()
            .map(|logged| scalar(format!("{}/{}", row.split, logged.key), logged.value))
            .collect();
        let summary = Some(Summary { value });
        self.write(Event { summary, ..Event::now(row.step) })
    }
}

/// What is left of an event file: whole records and, of rows, those that `stays` says of their
/// split and step.
pub fn keep_rows(file: &[u8], stays: impl Fn(&str, u64) -> bool) -> Vec<u8> {
    let (mut kept, mut rest) = (Vec::with_capacity(file.len()), file);
    while let Some((record, data)) = first_record(rest) {
        rest = &rest[record.len()..];
        let Ok(event) = Event::decode(data) else { continue };
        let tag = event.summary.as_ref().and_then(|summary| summary.value.first());
        let split = tag.and_then(|value| Some(value.tag.split_once('/')?.0));
        if split.is_none_or(|split| stays(split, event.step.unsigned_abs())) {
            kept.extend_from_slice(record);
        }
    }
    kept
}

/// The record that a file begins with, and its data; none where it is cut off or damaged.
fn first_record(file: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, _) = file.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let record = file.get(..length.checked_add(16)?)?;
    let (data, checksum) = record[12..].split_at(length);
    (checksum == masked_crc(data).to_le_bytes()).then_some((record, data))
}

/// A checksum that may be stored among the data that it is of.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// What the text plugin shows: a vector of one string.
fn text(tag: &str, text: &str) -> Value {
    let plugin_data = Some(PluginData { plugin_name: "text".into() });
    Value {
        tag: tag.into(),
        simple_value: None,
        tensor: Some(Tensor {
            dtype: DT_STRING,
            tensor_shape: Some(TensorShape { dim: vec![Dimension { size: 1 }] }),
            string_val: vec![text.as_bytes().to_vec()],
        }),
        metadata: Some(SummaryMetadata { plugin_data, data_class: DATA_CLASS_TENSOR }),
    }
}

const SESSION_START: i32 = 1;
const DT_STRING: i32 = 7;
const DATA_CLASS_TENSOR: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

impl Event {
    fn now(step: usize) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall_time: since.as_secs_f64(), step: step as i64, ..Self::default() }
    }
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "8")]
    tensor: Option<Tensor>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<SummaryMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryMetadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
    #[prost(int32, tag = "4")]
    data_class: i32,
}

#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    tensor_shape: Option<TensorShape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    string_val: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorShape {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, tag = "1")]
    size: i64,
}
