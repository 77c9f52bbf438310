//! The container: a header, metadata, a list of tensors, then their bytes, each tensor's at a
//! multiple of [`ALIGNMENT`]; all numbers are little-endian. This is version 3 of
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::io::{self, Write};

use super::quantize::DataType;

/// What a reader assumes where `general.alignment` is absent.
const ALIGNMENT: usize = 32;

/// What a metadata key can hold, as far as models like ours need it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    I32s(Vec<i32>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

/// A tensor as its readers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorInfo {
    pub name: String,
    /// The slowest dimension first, as everywhere here; the file has them the other way round.
    pub shape: Vec<usize>,
    pub data_type: DataType,
}

impl TensorInfo {
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }

    fn size(&self) -> usize {
        self.data_type.size(self.values())
    }
}

/// Writes all that comes before the first tensor's bytes.
///
/// # Errors
/// Those of `out`.
pub(super) fn write_header<'a>(
    out: &mut impl Write,
    metadata: &[(String, Value)],
    tensors: impl ExactSizeIterator<Item = &'a TensorInfo>,
) -> io::Result<()> {
    // In memory first, since its length decides the padding; the vocabulary is most of it.
    let mut header = Vec::new();
    header.extend(b"GGUF");
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_string(&mut header, key);
        put_value(&mut header, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        put_string(&mut header, &tensor.name);
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        for length in tensor.shape.iter().rev() {
            header.extend((*length as u64).to_le_bytes());
        }
        header.extend(tensor.data_type.tensor_code().to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        offset += tensor.size().next_multiple_of(ALIGNMENT);
    }
    out.write_all(&header)?;
    pad(out, header.len())
}

/// Fills up to the next tensor's place after one's bytes.
///
/// # Errors
/// Those of `out`.
pub(super) fn pad_after(out: &mut impl Write, tensor: &TensorInfo) -> io::Result<()> {
    pad(out, tensor.size())
}

fn pad(out: &mut impl Write, length: usize) -> io::Result<()> {
    out.write_all(&[0; ALIGNMENT][..length.next_multiple_of(ALIGNMENT) - length])
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The type's code, then the value; an array has its elements' code and their number in between.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    const U32: u32 = 4;
    const I32: u32 = 5;
    const F32: u32 = 6;
    const BOOL: u32 = 7;
    const STRING: u32 = 8;
    const ARRAY: u32 = 9;
    match value {
        Value::U32(value) => {
            out.extend(U32.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        Value::F32(value) => {
            out.extend(F32.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        Value::Bool(value) => {
            out.extend(BOOL.to_le_bytes());
            out.push(u8::from(*value));
        }
        Value::String(text) => {
            out.extend(STRING.to_le_bytes());
            put_string(out, text);
        }
        Value::Strings(texts) => {
            out.extend([ARRAY, STRING].map(u32::to_le_bytes).as_flattened());
            out.extend((texts.len() as u64).to_le_bytes());
            texts.iter().for_each(|text| put_string(out, text));
        }
        Value::I32s(values) => {
            out.extend([ARRAY, I32].map(u32::to_le_bytes).as_flattened());
            out.extend((values.len() as u64).to_le_bytes());
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
}
