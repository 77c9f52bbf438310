//! Cross-entropy over rows of logits.

use pulp::Arch;
use rayon::prelude::*;

use super::activation::{exp, not_positive};
use super::rows::{highest, sum};
use super::written;

/// The mean over rows of `log Σ eˣ - x_target`, and for each row `log Σ eˣ`.
pub(super) fn forward(logits: &[f32], width: usize, targets: &[usize]) -> (f32, Vec<f32>) {
    let arch = Arch::new();
    assert_eq!(logits.len(), width * targets.len());
    let log_sum = |row: &[f32]| {
        let highest = highest(row);
        // The row of an infinity or of what is not a number has no loss either.
        if !highest.is_finite() {
            return f32::NAN;
        }
        highest + sum(row, |x| exp(x - highest)).ln()
    };
    let log_sums: Vec<f32> =
        logits.par_chunks_exact(width).map(|row| arch.dispatch(|| log_sum(row))).collect();
    let rows = logits.chunks_exact(width).zip(&log_sums).zip(targets);
    let total: f64 = rows.map(|((row, log_sum), target)| f64::from(log_sum - row[*target])).sum();
    ((total / targets.len() as f64) as f32, log_sums)
}

/// `factor (softmax(x) - 1 at the target)`, row by row.
pub(super) fn backward(
    logits: &[f32],
    width: usize,
    targets: &[usize],
    log_sums: &[f32],
    factor: f32,
) -> Vec<f32> {
    let arch = Arch::new();
    assert_eq!(logits.len(), width * targets.len());
    assert_eq!(log_sums.len(), targets.len());
    // SAFETY: whole rows, and all of them, are written.
    unsafe {
        written(logits.len(), |room| {
            room.par_chunks_exact_mut(width)
                .zip(logits.par_chunks_exact(width))
                .zip(log_sums.par_iter().zip(targets))
                .for_each(|((output, row), (log_sum, target))| {
                    arch.dispatch(|| {
                        for (output, x) in output.iter_mut().zip(row) {
                            // Rounding can bring it above zero, where `exp` has no say.
                            output.write(factor * exp(not_positive(x - log_sum)));
                        }
                    });
                    // Written a moment ago.
                    *output[*target].assume_init_mut() -= factor;
                });
        })
    }
}
