//! Cross-entropy over rows of logits, and what is minimised in its place.
//!
//! With `log Z = log Σ eˣ`, V columns, ε of label smoothing and a z-loss of weight w, the loss of a
//! row is `log Z - x_target`, what is minimised
//! `(1 - ε) (log Z - x_target) + ε (log Z - mean x) + w log² Z`, which is the loss and
//! `ε (x_target - mean x) + w log² Z`; and the slope at a logit
//! `(1 + 2 w log Z) softmax(x) - ε / V`, at the target less `1 - ε`.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use std::mem::MaybeUninit;

use super::activation::{exp, not_positive};
use super::dense::Gradients;
use super::matrix::{Base, Matrix, Product, Target, multiply_on_all};
use super::rows::{highest, sum};
use super::{team, written};
use crate::backend::{CPU_LOGITS, LossTerms};

/// The means over rows of the loss and of what is minimised, and for each row `log Z`.
pub(super) fn forward(
    logits: &[f32],
    width: usize,
    targets: &[usize],
    terms: LossTerms,
) -> ([f32; 2], Vec<f32>) {
    assert_eq!(logits.len(), width * targets.len());
    let rows = logits.chunks_exact(width).zip(targets);
    let rows = team::map(rows, |(row, target)| losses_of_row(row, *target, terms));
    let (losses, log_sums): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    (means(&losses), log_sums)
}

/// The loss of a row and what is minimised, and `log Z`.
fn losses_of_row(row: &[f32], target: usize, terms: LossTerms) -> ([f32; 2], f32) {
    let log_sum = log_sum(row);
    (losses(log_sum, row[target], smoothing(row, target, terms), terms), log_sum)
}

/// The loss of a row and what is minimised.
fn losses(log_sum: f32, of_target: f32, smoothing: f32, terms: LossTerms) -> [f32; 2] {
    let loss = log_sum - of_target;
    [loss, loss + smoothing + terms.z_loss as f32 * log_sum * log_sum]
}

/// `ε (x_target - mean x)`
#[multiversion(targets = "simd")]
fn smoothing(row: &[f32], target: usize, terms: LossTerms) -> f32 {
    match terms.label_smoothing as f32 {
        // Zero times an infinite logit would be no number.
        0.0 => 0.0,
        share => share * (row[target] - sum(row, |x| x) / row.len() as f32),
    }
}

fn means(losses: &[[f32; 2]]) -> [f32; 2] {
    [0, 1].map(|kind| {
        let total: f64 = losses.iter().map(|losses| f64::from(losses[kind])).sum();
        (total / losses.len() as f64) as f32
    })
}

/// What multiplies a row's probabilities in its slopes, and what these lose at each logit and at
/// the target: `1 + 2 w log Z`, `ε / V` and `1 - ε`.
fn slopes(width: usize, log_sum: f32, terms: LossTerms) -> [f32; 3] {
    let smoothing = terms.label_smoothing as f32;
    [1.0 + 2.0 * terms.z_loss as f32 * log_sum, smoothing / width as f32, 1.0 - smoothing]
}

/// `log Z`
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

/// The slopes of what is minimised times a factor, row by row.
pub(super) fn backward(
    logits: &[f32],
    width: usize,
    targets: &[usize],
    log_sums: &[f32],
    factor: f32,
    terms: LossTerms,
) -> Vec<f32> {
    assert_eq!(logits.len(), width * targets.len());
    assert_eq!(log_sums.len(), targets.len());
    // SAFETY: whole rows, and all of them, are written.
    unsafe {
        written(logits.len(), |room| {
            let rows = room.chunks_exact_mut(width).zip(logits.chunks_exact(width));
            let rows = rows.zip(log_sums.iter().zip(targets));
            team::for_each(rows, |((output, row), (log_sum, target))| {
                let slopes = slopes(width, *log_sum, terms);
                write_gradient(row, *target, *log_sum, factor, slopes, output);
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
    [scale, everywhere, at_target]: [f32; 3],
    output: &mut [MaybeUninit<f32>],
) {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    // Rounding can bring it above zero, where `exp` has no say.
    let slope = |x: f32| scale * exp::<FUSED>(not_positive(x - log_sum)) - everywhere;
    for (output, x) in output.iter_mut().zip(row) {
        output.write(factor * slope(*x));
    }
    output[target].write(factor * (slope(row[target]) - at_target));
}

/// Of logits that are the product of an input and a weight, the means of the loss and of what is
/// minimised; and, as far as they are wanted, the gradients of the latter with respect to the input,
/// `[N, I]`, the weight, `[I, V]`, and the bias, `[V]`. That of a weight that lies transposed is
/// `[V, I]`.
pub(super) fn of_product(
    input: Matrix,
    weight: Matrix,
    bias: Option<&[f32]>,
    targets: &[usize],
    terms: LossTerms,
    wanted: [bool; 3],
) -> ([f32; 2], Gradients) {
    let ([rows, _], [_, vocab_size]) = (input.shape(), weight.shape());
    assert_eq!(rows, targets.len());
    let block_rows = (CPU_LOGITS / vocab_size).clamp(1, rows);
    let factor = 1.0 / rows as f32;
    let base = bias.map_or(Base::Nothing, Base::Row);
    let needs_gradient = wanted.contains(&true);
    let mut gradients = Gradients::new(rows, weight, wanted);
    let mut losses = Vec::with_capacity(rows);
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
        let of_block = logits.chunks_exact_mut(vocab_size).zip(targets);
        losses.extend(team::map(of_block, |(row, target)| match needs_gradient {
            true => losses_to_gradient(row, *target, factor, terms),
            false => losses_of_row(row, *target, terms).0,
        }));
        gradients.add(input, weight, &logits);
    }
    (means(&losses), gradients)
}

/// The losses of a row of logits, in whose place its slopes come, times a factor.
#[multiversion(targets = "simd")]
fn losses_to_gradient(row: &mut [f32], target: usize, factor: f32, terms: LossTerms) -> [f32; 2] {
    const FUSED: bool = target_cfg_f!(any(target_feature = "fma", target_arch = "aarch64"));
    let (of_target, smoothing) = (row[target], smoothing(row, target, terms));
    let highest = highest(row);
    row.iter_mut().for_each(|x| *x = exp::<FUSED>(not_positive(*x - highest)));
    let sum = sum(row, |x| x);
    let log_sum = if highest.is_finite() { highest + sum.ln() } else { f32::NAN };
    let slopes = slopes(row.len(), log_sum, terms);
    let [scale, everywhere, at_target] = slopes.map(|slope| factor * slope);
    let share = scale / sum;
    row.iter_mut().for_each(|x| *x = *x * share - everywhere);
    row[target] -= at_target;
    losses(log_sum, of_target, smoothing, terms)
}
