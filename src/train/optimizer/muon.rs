use burn::tensor::Tensor;

use super::{Moments, Variable, running_mean};
use crate::backend::GptBackend;

/// Muon's settings for one matrix.
#[derive(Debug, Clone)]
pub(super) struct Muon {
    pub(super) momentum: f64,
    pub(super) nesterov: bool,
    /// R
    pub(super) rows: usize,
    /// Columns of each of the matrices that lie side by side in this one, C together.
    pub(super) parts: Vec<usize>,
}

/// Of the iteration `a X + b (X X^T) X + c (X X^T)^2 X`, in which small singular values grow
/// fastest: after five, all that were not tiny are between about 0.7 and 1.2.
const COEFFICIENTS: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
const ITERATIONS: usize = 5;
/// Keeps a gradient of zero from being divided by zero.
const EPSILON: f64 = 1e-7;
/// Root mean square of AdamW's usual updates, before the learning rate.
const ADAMW_RMS: f64 = 0.2;

/// Muon (Jordan et al. 2024): the momentum of a matrix, turned into the nearest orthogonal one.
///
/// Such a matrix has root mean square `1 / sqrt(max(R, C))`, so it is scaled by
/// `0.2 sqrt(max(R, C))` (Liu et al. 2025, equation 4): the learning rate and the decay of AdamW
/// fit it as they are. Matrices that are only stored side by side, as queries, keys and values, are
/// orthogonalised and scaled each by itself; together, a large gradient of one would leave the
/// others a small update.
pub(super) fn update<B: GptBackend>(
    settings: &Muon,
    mut variable: Variable<B>,
) -> (Tensor<B, 1>, Moments<B>) {
    let Muon { momentum, nesterov, rows, parts } = settings;
    let gradient = variable.gradient.clone();
    let count = gradient.dims()[0];
    let step = variable.moments.step + 1;
    let first = running_mean(variable.moments.first.take(), gradient.clone(), *momentum);
    let direction = match nesterov {
        true => running_mean(Some(first.clone()), gradient, *momentum),
        false => first.clone(),
    };
    let direction = direction.reshape([*rows, count / rows]); // [R, C]
    let mut start = 0;
    let mut turned = Vec::with_capacity(parts.len());
    for columns in parts {
        let part = direction.clone().narrow(1, start, *columns);
        let scale = ADAMW_RMS * (*rows.max(columns) as f64).sqrt();
        turned.push(orthogonalized(part) * (variable.learning_rate * scale));
        start += columns;
    }
    let update = Tensor::cat(turned, 1).reshape([count]);
    (variable.moved_by(update), Moments { first: Some(first), second: None, step })
}

/// About `U V^T` of a matrix `U S V^T`, by products of matrices alone (Newton and Schulz).
///
/// # Shapes
/// - `matrix` `[R, C]` -> `[R, C]`
fn orthogonalized<B: GptBackend>(matrix: Tensor<B, 2>) -> Tensor<B, 2> {
    let [rows, columns] = matrix.dims();
    // The product with itself is of the shorter side.
    let tall = rows > columns;
    let matrix = if tall { matrix.transpose() } else { matrix };
    // Not `sum`, for which a GPU may choose atomic additions, each time in another order.
    let squares = (matrix.clone() * matrix.clone()).sum_dim(1).sum_dim(0); // [1, 1]
    let mut x = matrix / squares.sqrt().clamp_min(EPSILON);
    let (a, b, c) = COEFFICIENTS;
    for _ in 0..ITERATIONS {
        let gram = B::dense(x.clone(), x.clone().transpose(), None);
        let polynomial = gram.clone() * b + B::dense(gram.clone(), gram, None) * c;
        x = x.clone() * a + B::dense(polynomial, x, None);
    }
    if tall { x.transpose() } else { x }
}
