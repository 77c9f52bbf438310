//! Positions that are computed, not learned: waves, rotations. Tables are made on the
//! host in f64, so that they are the same on every backend.
//!
//! T positions, D model width, R numbers of a head that are turned

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use std::f64::consts::TAU;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

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

/// What positions are told apart by, computed once and kept for all passes: thousands of sines take
/// longer than a GPU needs for a layer, and it has nothing to do meanwhile. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct PositionTable {
    /// Of the positions from the first one on, as far as any was asked for.
    rows: Arc<Mutex<Vec<f32>>>,
}

impl PositionTable {
    /// The rows of some positions, of a width that is always the same, as `row` makes them.
    fn of<R: IntoIterator<Item = f64>>(
        &self,
        positions: &Places,
        width: usize,
        row: impl Fn(usize) -> R,
    ) -> Vec<f32> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let known = rows.len() / width.max(1);
        let end = positions.iter().max().map_or(0, |last| last + 1);
        for position in known..end {
            rows.extend(row(position).into_iter().map(|number| number as f32));
        }
        positions.iter().flat_map(|position| &rows[position * width..][..width]).copied().collect()
    }
}

/// Fixed waves to add to the embeddings, `[T, D]`: a sine and a cosine for each wavelength
/// (Vaswani et al. 2017, section 3.5).
pub(super) fn sinusoidal<B: Backend>(
    table: &PositionTable,
    positions: &Places,
    d_model: usize,
    device: &B::Device,
) -> Tensor<B, 2> {
    let exponent = |column: usize| (column / 2 * 2) as f64 / d_model as f64;
    let scales: Vec<f64> = (0..d_model).map(|column| 10_000f64.powf(exponent(column))).collect();
    let waves = table.of(positions, d_model, |position| {
        scales.iter().enumerate().map(move |(column, scale)| {
            let angle = position as f64 / scale;
            if column.is_multiple_of(2) { angle.sin() } else { angle.cos() }
        })
    });
    Tensor::from_data(TensorData::new(waves, [positions.len(), d_model]), device)
}

/// The rotation of some positions; none for a model without rotary ones.
pub(super) fn rotation<B: Backend>(
    config: &ModelConfig,
    table: &PositionTable,
    positions: &Places,
    device: &B::Device,
) -> Option<Rotation<B>> {
    let PositionConfig::Rotary { theta, pairing, scaling, .. } = config.position else {
        return None;
    };
    let half = config.rotary_dim() / 2;
    // A row is the cosines of a position, then the sines.
    let frequencies = frequencies(theta, 2 * half, scaling);
    let rows = table.of(positions, 2 * half, |position| {
        let angles = frequencies.iter().map(move |frequency| position as f64 * frequency);
        angles.clone().map(f64::cos).chain(angles.map(f64::sin))
    });
    let part = |first: usize| {
        let numbers = rows.chunks_exact((2 * half).max(1)).flat_map(|row| &row[first..][..half]);
        let shape = [positions.len(), half];
        Tensor::from_data(TensorData::new(numbers.copied().collect::<Vec<f32>>(), shape), device)
    };
    Some(Rotation { cosines: part(0), sines: part(half), pairing })
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
