//! Cross-entropy over rows of logits.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use std::mem::MaybeUninit;

use super::activation::{exp, not_positive};
use super::dense::Gradients;
use super::matrix::{Base, Matrix, Product, Target, multiply_on_all};
use super::rows::{highest, sum};
use super::{team, written};
use crate::backend::CPU_LOGITS;

/// The mean over rows of `log Σ eˣ - x_target`, and for each row `log Σ eˣ`.
pub(super) fn forward(logits: &[f32], width: usize, targets: &[usize]) -> (f32, Vec<f32>) {
    assert_eq!(logits.len(), width * targets.len());
    let log_sums = team::map(logits.chunks_exact(width), log_sum);
    let rows = logits.chunks_exact(width).zip(&log_sums).zip(targets);
    let total: f64 = rows.map(|((row, log_sum), target)| f64::from(log_sum - row[*target])).sum();
    ((total / targets.len() as f64) as f32, log_sums)
}

/// `log Σ eˣ`
#[multiversion(targets = "simd")]
fn log_sum(row: &[f32]) -> f32 {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    let highest = highest(row);
    // The row of an infinity or of what is not a number has no loss either.
    if !highest.is_finite() {
        return f32::NAN;
    }
    highest + sum(row, |x| exp::<FUSED>(x - highest)).ln()
}

/// `factor (softmax(x) - 1 at the target)`, row by row.
pub(super) fn backward(
    logits: &[f32],
    width: usize,
    targets: &[usize],
    log_sums: &[f32],
    factor: f32,
) -> Vec<f32> {
    assert_eq!(logits.len(), width * targets.len());
    assert_eq!(log_sums.len(), targets.len());
    // SAFETY: whole rows, and all of them, are written.
    unsafe {
        written(logits.len(), |room| {
            let rows = room.chunks_exact_mut(width).zip(logits.chunks_exact(width));
            let rows = rows.zip(log_sums.iter().zip(targets));
            team::for_each(rows, |((output, row), (log_sum, target))| {
                write_gradient(row, *target, *log_sum, factor, output);
            });
        })
    }
}

#[multiversion(targets = "simd")]
fn write_gradient(
    row: &[f32],
    target: usize,
    log_sum: f32,
    factor: f32,
    output: &mut [MaybeUninit<f32>],
) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    for (output, x) in output.iter_mut().zip(row) {
        // Rounding can bring it above zero, where `exp` has no say.
        output.write(factor * exp::<FUSED>(not_positive(x - log_sum)));
    }
    output[target].write(factor * (exp::<FUSED>(not_positive(row[target] - log_sum)) - 1.0));
}

/// Of logits that are the product of an input and a weight, the mean loss; and, as far as they are
/// wanted, its gradients with respect to the input, `[N, I]`, the weight, `[I, V]`, and the bias,
/// `[V]`. That of a weight that lies transposed is `[V, I]`.
pub(super) fn of_product(
    input: Matrix,
    weight: Matrix,
    bias: Option<&[f32]>,
    targets: &[usize],
    wanted: [bool; 3],
) -> (f32, Gradients) {
    let ([rows, _], [_, vocab_size]) = (input.shape(), weight.shape());
    assert_eq!(rows, targets.len());
    let block_rows = (CPU_LOGITS / vocab_size).clamp(1, rows);
    let factor = 1.0 / rows as f32;
    let base = bias.map_or(Base::Nothing, Base::Row);
    let needs_gradient = wanted.contains(&true);
    let mut gradients = Gradients::new(rows, weight, wanted);
    let mut total = 0.0;
    let mut logits: Vec<f32> = Vec::with_capacity(block_rows * vocab_size);
    for (number, targets) in targets.chunks(block_rows).enumerate() {
        let (start, count) = (number * block_rows, targets.len());
        let input = input.rows(start..start + count);
        logits.clear();
        let room = &mut logits.spare_capacity_mut()[..count * vocab_size];
        let target = Target::of_room(room, vocab_size);
        multiply_on_all([Product { target, base, a: input, b: weight }]);
        // SAFETY: the product has been written.
        unsafe { logits.set_len(count * vocab_size) };
        let losses =
            team::map(logits.chunks_exact_mut(vocab_size).zip(targets), |(row, target)| {
                match needs_gradient {
                    true => loss_to_gradient(row, *target, factor),
                    false => log_sum(row) - row[*target],
                }
            });
        total += losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
        gradients.add(input, weight, &logits);
    }
    ((total / rows as f64) as f32, gradients)
}

/// The loss of a row of logits, in whose place its gradient comes, times a factor.
#[multiversion(targets = "simd")]
fn loss_to_gradient(row: &mut [f32], target: usize, factor: f32) -> f32 {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    let of_target = row[target];
    let highest = highest(row);
    row.iter_mut().for_each(|x| *x = exp::<FUSED>(not_positive(*x - highest)));
    let sum = sum(row, |x| x);
    let share = factor / sum;
    row.iter_mut().for_each(|x| *x *= share);
    row[target] -= factor;
    if highest.is_finite() { highest + sum.ln() - of_target } else { f32::NAN }
}
