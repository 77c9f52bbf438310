use rayon::prelude::*;
use serde::Serialize;

use super::spectral::spectral_norm;

/// Columns of a histogram.
const BINS: usize = 24;
/// The shares of the numbers below the quantiles that are told.
const QUANTILES: [f64; 7] = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99];

/// How the numbers of a parameter are distributed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeightSummary {
    pub name: String,
    pub shape: Vec<usize>,
    pub mean: f64,
    /// Of the numbers as they are, not of what they might be a sample of.
    pub std: f64,
    pub min: f64,
    pub max: f64,
    pub quantiles: Vec<Quantile>,
    pub histogram: Histogram,
    /// The root of the sum of the squares.
    pub norm: f64,
    /// The largest singular value; none of what is no matrix.
    pub spectral_norm: Option<f64>,
    /// Numbers that are none, or infinite; nothing above counts them, and a matrix that has some
    /// has no spectral norm.
    pub not_finite: usize,
}

/// The number below which a share of all lie, between two of them in proportion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantile {
    pub share: f64,
    pub value: f64,
}

/// Counts in bins of one width, from the least number to the largest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Histogram {
    pub counts: Vec<usize>,
}

/// # Shapes
/// - `values` as many as `shape` has places, row by row
pub fn summarize(name: &str, shape: &[usize], values: &[f32]) -> WeightSummary {
    let mut sorted: Vec<f32> = values.par_iter().copied().filter(|x| x.is_finite()).collect();
    let not_finite = values.len() - sorted.len();
    let count = sorted.len() as f64;
    let mean = sorted.iter().copied().map(f64::from).sum::<f64>() / count;
    let square = |x: f64| x * x;
    let squares = |centre: f64| sorted.iter().map(|x| square(f64::from(*x) - centre)).sum::<f64>();
    let (std, norm) = ((squares(mean) / count).sqrt(), squares(0.0).sqrt());
    let spectral_norm = match shape {
        [_, columns] if not_finite == 0 => Some(spectral_norm(values, *columns)),
        _ => None,
    };
    sorted.par_sort_unstable_by(f32::total_cmp);
    let end = |value: Option<&f32>| value.map_or(f64::NAN, |value| f64::from(*value));
    let quantile = |share| Quantile { share, value: quantile(&sorted, share) };
    WeightSummary {
        name: name.into(),
        shape: shape.to_vec(),
        mean,
        std,
        min: end(sorted.first()),
        max: end(sorted.last()),
        quantiles: QUANTILES.map(quantile).to_vec(),
        histogram: Histogram::of_sorted(&sorted),
        norm,
        spectral_norm,
        not_finite,
    }
}

/// As NumPy's: between the two nearest, in proportion. Not a number where there are none.
fn quantile(sorted: &[f32], share: f64) -> f64 {
    let place = share * sorted.len().saturating_sub(1) as f64;
    let at = |place: f64| sorted.get(place as usize).map_or(f64::NAN, |value| f64::from(*value));
    let (low, high) = (at(place.floor()), at(place.ceil()));
    low + (high - low) * place.fract()
}

impl Histogram {
    fn of_sorted(sorted: &[f32]) -> Self {
        let mut counts = vec![0; BINS];
        if let (Some(first), Some(last)) = (sorted.first(), sorted.last()) {
            let (low, width) = (f64::from(*first), f64::from(*last) - f64::from(*first));
            for value in sorted {
                let place = (f64::from(*value) - low) / width * BINS as f64;
                // The largest belongs to the last bin; where all are equal there is no width.
                let bin = if width > 0.0 { (place as usize).min(BINS - 1) } else { BINS / 2 };
                counts[bin] += 1;
            }
        }
        Self { counts }
    }
}
