//! Positions that are computed, not learned: waves, rotations, slopes. Tables are made on the
//! host in f64, so that they are the same on every backend.
//!
//! T positions, D model width, R numbers of a head that are turned

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use std::f64::consts::TAU;
use std::ops::Range;

use crate::backend::Rotation;
use crate::config::ModelConfig;
use crate::config::PositionConfig;
use crate::config::RotaryScaling;

/// Where the new tokens of a batch stand in their sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Places {
    /// Those of every row.
    Columns(Range<usize>),
    /// Of each row the only one.
    Rows(Vec<usize>),
}

impl Places {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Columns(columns) => columns.len(),
            Self::Rows(rows) => rows.len(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        let (columns, rows) = match self {
            Self::Columns(columns) => (columns.clone(), &[][..]),
            Self::Rows(rows) => (0..0, &rows[..]),
        };
        columns.chain(rows.iter().copied())
    }
}

/// Fixed waves to add to the embeddings, `[T, D]`: a sine and a cosine for each wavelength
/// (Vaswani et al. 2017, section 3.5).
pub(super) fn sinusoidal<B: Backend>(
    positions: &Places,
    d_model: usize,
    device: &B::Device,
) -> Tensor<B, 2> {
    let shape = [positions.len(), d_model];
    let exponent = |column: usize| (column / 2 * 2) as f64 / d_model as f64;
    let scales: Vec<f64> = (0..d_model).map(|column| 10_000f64.powf(exponent(column))).collect();
    let mut table = Vec::with_capacity(shape[0] * d_model);
    for position in positions.iter() {
        table.extend(scales.iter().enumerate().map(|(column, scale)| {
            let angle = position as f64 / scale;
            (if column.is_multiple_of(2) { angle.sin() } else { angle.cos() }) as f32
        }));
    }
    Tensor::from_data(TensorData::new(table, shape), device)
}

/// The rotation of some positions; none for a model without rotary ones.
pub(super) fn rotation<B: Backend>(
    config: &ModelConfig,
    positions: &Places,
    device: &B::Device,
) -> Option<Rotation<B>> {
    let PositionConfig::Rotary { theta, pairing, scaling, .. } = config.position else {
        return None;
    };
    let frequencies = frequencies(theta, config.rotary_dim(), scaling);
    let shape = [positions.len(), frequencies.len()];
    let table = |function: fn(f64) -> f64| {
        let values = positions.iter().flat_map(|position| {
            frequencies.iter().map(move |frequency| function(position as f64 * frequency) as f32)
        });
        Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), shape), device)
    };
    Some(Rotation { cosines: table(f64::cos), sines: table(f64::sin), pairing })
}

/// Radians a position, for each of the R / 2 pairs that rotary positions turn.
pub fn frequencies(theta: f64, turned: usize, scaling: Option<RotaryScaling>) -> Vec<f64> {
    let plain = (0..turned / 2).map(|pair| theta.powf(-2.0 * pair as f64 / turned as f64));
    match scaling {
        None => plain.collect(),
        Some(RotaryScaling::Linear { factor }) => {
            plain.map(|frequency| frequency / factor).collect()
        }
        Some(RotaryScaling::Llama3 {
            factor,
            low_frequency_factor: low,
            high_frequency_factor: high,
            original_context_length,
        }) => plain
            .map(|frequency| {
                let wavelength = TAU / frequency;
                // How often the wave fits into the context that the model was trained on.
                let periods = original_context_length as f64 / wavelength;
                let kept = ((periods - low) / (high - low)).clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            })
            .collect(),
    }
}

/// The slopes of ALiBi (Press et al. 2022): a geometric sequence that ends at 2^-8; where the
/// number of heads is no power of two, every other one of the next longer sequence fills up.
pub(super) fn alibi_slopes(n_heads: usize) -> Vec<f64> {
    let sequence =
        |count: usize| (1..=count).map(move |head| 2f64.powf(-8.0 * head as f64 / count as f64));
    let whole = match n_heads.is_power_of_two() {
        true => n_heads,
        false => n_heads.next_power_of_two() / 2,
    };
    sequence(whole).chain(sequence(2 * whole).step_by(2)).take(n_heads).collect()
}
