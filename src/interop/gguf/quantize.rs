//! Numbers as ggml stores them.

use burn::tensor::f16;
use std::fmt;
use std::io::{self, Write};

/// Values of a `Q8_0` block, which share a scale.
pub(super) const BLOCK: usize = 32;

/// How the weights of a GGUF file are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// Exact, 4 bytes a weight.
    F32,
    /// 11 significant bits, 2 bytes a weight.
    F16,
    /// 8-bit integers with an f16 scale for each 32 weights, 34 bytes together.
    Q8_0,
}

impl DataType {
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Q8_0];

    /// The name that llama.cpp's tools use.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// `enum ggml_type` in ggml.h.
    pub(super) fn tensor_code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 8,
        }
    }

    /// `enum llama_ftype` in llama.h: what most tensors of a file are.
    pub(super) fn file_code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
        }
    }

    /// Bytes of so many values, whole blocks of them.
    pub(super) fn size(self, values: usize) -> usize {
        match self {
            Self::F32 => 4 * values,
            Self::F16 => 2 * values,
            Self::Q8_0 => values / BLOCK * (2 + BLOCK),
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The first value that a data type cannot express.
pub(super) fn inexpressible(values: &[f32], data_type: DataType) -> Option<f32> {
    let largest = match data_type {
        DataType::F32 => return None,
        DataType::F16 => f16::MAX.to_f32(),
        DataType::Q8_0 => f16::MAX.to_f32() * 127.0,
    };
    // Neither comparison holds for NaN.
    values.iter().copied().find(|value| !(-largest..=largest).contains(value))
}

/// Writes values that are not [`inexpressible`], whole blocks of them, little-endian.
///
/// # Errors
/// Those of `out`.
pub(super) fn write(values: &[f32], data_type: DataType, out: &mut impl Write) -> io::Result<()> {
    match data_type {
        DataType::F32 => values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())),
        DataType::F16 => {
            values.iter().try_for_each(|value| out.write_all(&f16::from_f32(*value).to_le_bytes()))
        }
        DataType::Q8_0 => {
            values.chunks_exact(BLOCK).try_for_each(|block| out.write_all(&q8_0(block)))
        }
    }
}

/// A scale `d` and integers `q` with `value ≈ d q`, of which the largest is ±127; bit for bit what
/// `quantize_row_q8_0_ref` of ggml-quants.c makes.
fn q8_0(block: &[f32]) -> [u8; 2 + BLOCK] {
    let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    // The integers come from the scale before it is rounded to f16, as in ggml.
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut bytes = [0; 2 + BLOCK];
    bytes[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (byte, value) in bytes[2..].iter_mut().zip(block) {
        *byte = (value * inverse).round() as i8 as u8;
    }
    bytes
}
