//! M rows, N columns

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

/// Relative change of the norm by a step below which no more steps are taken.
const TOLERANCE: f64 = 1e-10;
/// By then even spectra without a gap at their top are known to more digits than are printed.
const MOST_STEPS: usize = 128;
/// Rows that are multiplied on one thread.
const ROWS: usize = 512;

/// The largest factor by which a matrix stretches a vector: its largest singular value.
///
/// Power iteration that forgets nothing: each step multiplies by the matrix and its transpose, and
/// the norm is the best over the space of all vectors so far (Golub and Kahan 1965), which takes
/// tens of steps where the last vector alone takes thousands. In f64; exact after as many steps as
/// the matrix has rows or columns.
///
/// # Shapes
/// - `matrix` `M N` finite numbers, row by row
pub fn spectral_norm(matrix: &[f32], columns: usize) -> f64 {
    let largest = matrix.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    if largest == 0.0 || columns == 0 {
        return 0.0;
    }
    let rows = matrix.len() / columns;
    let matrix = Matrix { values: matrix, columns, scale: 1.0 / f64::from(largest) };
    // Bidiagonal: `alphas` on its diagonal, `betas` above it.
    let (mut alphas, mut betas) = (Vec::new(), Vec::new());
    let (mut lefts, mut rights): (Vec<Vec<f64>>, Vec<Vec<f64>>) = (Vec::new(), Vec::new());
    let mut right = normal(columns);
    normalize(&mut right);
    let mut norm = 0.0;
    for _ in 0..MOST_STEPS.min(rows).min(columns) {
        let mut left = matrix.times(&right);
        rights.push(right);
        orthogonalize(&mut left, &lefts);
        alphas.push(normalize(&mut left));
        right = matrix.transposed_times(&left);
        lefts.push(left);
        orthogonalize(&mut right, &rights);
        betas.push(normalize(&mut right));
        let before = norm;
        norm = bidiagonal_norm(&alphas, &betas);
        // More steps would tell nothing new: of a space that the matrix does not leave there are none.
        if norm - before <= TOLERANCE * norm {
            break;
        }
    }
    norm * f64::from(largest)
}

struct Matrix<'a> {
    values: &'a [f32],
    columns: usize,
    /// So that squares neither overflow nor vanish.
    scale: f64,
}

impl Matrix<'_> {
    /// `[N]` -> `[M]`
    fn times(&self, vector: &[f64]) -> Vec<f64> {
        let rows = self.values.par_chunks(self.columns).with_min_len(ROWS);
        let product = |row: &[f32]| {
            row.iter().zip(vector).map(|(a, b)| f64::from(*a) * b).sum::<f64>() * self.scale
        };
        rows.map(product).collect()
    }

    /// `[M]` -> `[N]`
    fn transposed_times(&self, vector: &[f64]) -> Vec<f64> {
        let parts = self.values.par_chunks(self.columns * ROWS).zip(vector.par_chunks(ROWS));
        let sums: Vec<Vec<f64>> = parts
            .map(|(rows, factors)| {
                let mut sum = vec![0.0; self.columns];
                for (row, factor) in rows.chunks(self.columns).zip(factors) {
                    sum.iter_mut().zip(row).for_each(|(sum, a)| *sum += f64::from(*a) * factor);
                }
                sum
            })
            .collect();
        let mut total = vec![0.0; self.columns];
        for sum in sums {
            total.iter_mut().zip(sum).for_each(|(total, part)| *total += part * self.scale);
        }
        total
    }
}

/// Always the same numbers, of no direction that a matrix could be blind to.
fn normal(length: usize) -> Vec<f64> {
    let rng = ChaCha8Rng::seed_from_u64(0);
    Distribution::<f64>::sample_iter(StandardNormal, rng).take(length).collect()
}

/// To length one, unless it is zero; returns the length it had.
fn normalize(vector: &mut [f64]) -> f64 {
    let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
    length
}

/// Takes out what lies in the directions of the others, twice, since once leaves roundings.
fn orthogonalize(vector: &mut [f64], others: &[Vec<f64>]) {
    for other in others.iter().chain(others) {
        let share: f64 = vector.iter().zip(other).map(|(a, b)| a * b).sum();
        vector.iter_mut().zip(other).for_each(|(a, b)| *a -= share * b);
    }
}

/// The largest singular value: the root of the largest eigenvalue of the tridiagonal matrix that
/// it is times its transpose, by bisection. There is one more column than rows, and so as many
/// `betas` as `alphas`.
fn bidiagonal_norm(alphas: &[f64], betas: &[f64]) -> f64 {
    let diagonal: Vec<f64> =
        alphas.iter().zip(betas).map(|(alpha, beta)| alpha * alpha + beta * beta).collect();
    let beside: Vec<f64> =
        alphas.iter().skip(1).zip(betas).map(|(alpha, beta)| alpha * beta).collect();
    // Gershgorin: no eigenvalue is beyond a row's sum.
    let reach = |place: usize| {
        let sides = [place.checked_sub(1), Some(place)].into_iter().flatten();
        diagonal[place] + sides.filter_map(|side| beside.get(side)).map(|x| x.abs()).sum::<f64>()
    };
    let mut high = (0..diagonal.len()).map(reach).fold(0.0, f64::max);
    let mut low = 0.0;
    while high - low > f64::EPSILON * high {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        if is_above_all(&diagonal, &beside, middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high.sqrt()
}

/// Whether all eigenvalues of a symmetric tridiagonal matrix are below a number: then, and only
/// then, all pivots of the matrix less that number are negative (Sylvester's law of inertia).
fn is_above_all(diagonal: &[f64], beside: &[f64], number: f64) -> bool {
    let mut pivot = 1.0;
    for (place, value) in diagonal.iter().enumerate() {
        let side = if place == 0 { 0.0 } else { beside[place - 1] };
        pivot = value - number - side * side / pivot;
        if pivot >= 0.0 {
            return false;
        }
    }
    true
}
