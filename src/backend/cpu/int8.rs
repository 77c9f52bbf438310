//! Products with weights of a byte each, which become f32 in registers, or in a block at a time
//! where many rows share it.

use multiversion::multiversion;

use super::matrix::{Base, LEAST, Matrix, Target, multiply, parts};
use super::team;
use super::vector::{FEW, Weight, WeightRows, add_sums_on_all};

/// Outputs whose weights are f32 at a time.
const BLOCK: usize = 128;

/// Weights `[d_input, d_output]`, or some columns of them, in units of each column's scale.
#[derive(Debug, Clone, Copy)]
pub(super) struct Int8<'a> {
    values: &'a [i8],
    /// `[d_output]`
    scales: &'a [f32],
    d_input: usize,
    stride: usize,
}

impl<'a> Int8<'a> {
    pub(super) fn new(values: &'a [i8], scales: &'a [f32], d_input: usize) -> Self {
        let stride = scales.len();
        assert_eq!(values.len(), stride * d_input);
        Self { values, scales, d_input, stride }
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (scales, more) = self.scales.split_at(at);
        (Self { scales, ..self }, Self { values: &self.values[at..], scales: more, ..self })
    }

    fn rows(self) -> WeightRows<'a, i8> {
        WeightRows::new(self.values, self.scales.len(), self.stride)
    }
}

/// `bias + a weight`, rows one after the other.
pub(super) fn product(a: Matrix, weight: Int8, bias: Option<&[f32]>) -> Vec<f32> {
    let [rows, d_input] = a.shape();
    let d_output = weight.scales.len();
    assert_eq!(d_input, weight.d_input);
    let write = |target: Target| match rows {
        ..=FEW => multiply_few(target, a, weight, bias),
        _ => {
            let parts = parts([rows, d_input, d_output]);
            multiply_parts(target, a, weight, bias, parts);
        }
    };
    // SAFETY: every column of every row is in a part, and written.
    unsafe { super::written(rows * d_output, |room| write(Target::of_room(room, d_output))) }
}

/// Each part has columns of its own.
fn multiply_parts(
    mut target: Target,
    a: Matrix,
    mut weight: Int8,
    mut bias: Option<&[f32]>,
    parts: usize,
) {
    let width = weight.scales.len().div_ceil(parts).next_multiple_of(LEAST);
    let mut tasks = Vec::with_capacity(parts);
    while !weight.scales.is_empty() {
        let count = width.min(weight.scales.len());
        let (columns, rest) = target.split_columns(count);
        let (now, later) = weight.split(count);
        let (bias_now, bias_later) = bias.map(|bias| bias.split_at(count)).unzip();
        tasks.push((columns, now, bias_now));
        (target, weight, bias) = (rest, later, bias_later);
    }
    team::for_each(tasks.into_iter(), |(target, weight, bias)| {
        multiply_many(target, a, weight, bias);
    });
}

fn multiply_few(mut target: Target, a: Matrix, weight: Int8, bias: Option<&[f32]>) {
    target.clear();
    add_sums_on_all(&mut target, a, weight.rows(), |columns, target| {
        let (scales, bias) = (&weight.scales[columns.clone()], bias.map(|bias| &bias[columns]));
        for number in 0..target.shape()[0] {
            let y = target.row(number);
            y.iter_mut().zip(scales).for_each(|(y, scale)| *y *= scale);
            if let Some(bias) = bias {
                y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
        }
    });
}

fn multiply_many(mut target: Target, a: Matrix, mut weight: Int8, mut bias: Option<&[f32]>) {
    let mut block = vec![0.0; BLOCK.min(weight.scales.len()) * weight.d_input];
    while !weight.scales.is_empty() {
        let count = BLOCK.min(weight.scales.len());
        let (now, later) = weight.split(count);
        let block = &mut block[..count * now.d_input];
        widen(now, block);
        let (bias_now, bias_later) = bias.map(|bias| bias.split_at(count)).unzip();
        let (columns, rest) = target.split_columns(count);
        let base = bias_now.map_or(Base::Nothing, Base::Row);
        multiply(columns, base, 1.0, a, Matrix::of_rows(block, count));
        (target, weight, bias) = (rest, later, bias_later);
    }
}

/// The weights as floats, row by row.
#[multiversion(targets = "simd")]
fn widen(weight: Int8<'_>, floats: &mut [f32]) {
    for (number, row) in floats.chunks_exact_mut(weight.scales.len()).enumerate() {
        let values = weight.rows().row(number).iter().zip(weight.scales);
        row.iter_mut().zip(values).for_each(|(x, (value, scale))| *x = value.number() * scale);
    }
}
