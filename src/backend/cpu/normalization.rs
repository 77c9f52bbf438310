//! Layer and root-mean-square normalisation, row by row.

use multiversion::multiversion;
use std::borrow::Cow;
use std::mem::MaybeUninit;

use super::rows::{sum, sum_pairs};
use super::{team, written};
use crate::backend::Scaling;

/// Rows a task: the same on every machine, since partial sums of gradients are theirs.
const ROWS: usize = 64;

/// The mean of a row, if it is taken away, and the factor that brings it to scale.
#[inline(always)]
fn level_and_factor(x: &[f32], scaling: Scaling) -> (f32, f32) {
    let width = x.len() as f32;
    let mean = if scaling.centered { sum(x, |x| x) / width } else { 0.0 };
    let variance = sum(x, |x| (x - mean) * (x - mean)) / width;
    (mean, 1.0 / (variance + scaling.epsilon).sqrt())
}

/// `weight (x - mean) factor + bias`
pub(super) fn forward(
    x: &[f32],
    width: usize,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    scaling: Scaling,
) -> Vec<f32> {
    let weight = weight.map_or_else(|| Cow::Owned(vec![1.0; width]), Cow::Borrowed);
    let bias = bias.map_or_else(|| Cow::Owned(vec![0.0; width]), Cow::Borrowed);
    assert!(weight.len() == width && bias.len() == width && x.len().is_multiple_of(width));
    // SAFETY: whole rows, and all of them, are written.
    unsafe {
        written(x.len(), |room| {
            let parts = room.chunks_mut(ROWS * width).zip(x.chunks(ROWS * width));
            team::for_each(parts, |(output, x)| {
                forward_rows(x, width, [&weight, &bias], scaling, output);
            });
        })
    }
}

#[multiversion(targets = "simd")]
fn forward_rows(
    x: &[f32],
    width: usize,
    [weight, bias]: [&[f32]; 2],
    scaling: Scaling,
    output: &mut [MaybeUninit<f32>],
) {
    for (x, output) in x.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
        let (mean, factor) = level_and_factor(x, scaling);
        let numbers = output.iter_mut().zip(x);
        for ((output, x), (weight, bias)) in numbers.zip(weight.iter().zip(bias)) {
            output.write((x - mean) * factor * weight + bias);
        }
    }
}

/// The gradient of the output becomes that of `x`, in its place; also those of the weight and the
/// bias.
pub(super) fn backward(
    x: &[f32],
    width: usize,
    weight: Option<&[f32]>,
    gradient: &mut [f32],
    scaling: Scaling,
) -> (Vec<f32>, Vec<f32>) {
    assert!(weight.is_none_or(|weight| weight.len() == width));
    assert!(gradient.len() == x.len() && x.len().is_multiple_of(width));
    let parts = gradient.chunks_mut(ROWS * width).zip(x.chunks(ROWS * width));
    let sums = team::map(parts, |(gradient, x)| backward_rows(x, width, weight, gradient, scaling));
    let (mut of_weight, mut of_bias) = (vec![0.0; width], vec![0.0; width]);
    for (weight, bias) in sums {
        of_weight.iter_mut().zip(weight).for_each(|(sum, part)| *sum += part);
        of_bias.iter_mut().zip(bias).for_each(|(sum, part)| *sum += part);
    }
    (of_weight, of_bias)
}

/// The sums over these rows that are the gradients of weight and bias.
#[multiversion(targets = "simd")]
fn backward_rows(
    x: &[f32],
    width: usize,
    weight: Option<&[f32]>,
    gradient: &mut [f32],
    scaling: Scaling,
) -> (Vec<f32>, Vec<f32>) {
    let (mut of_weight, mut of_bias) = (vec![0.0; width], vec![0.0; width]);
    // The numbers of the row that it is at, normalised.
    let mut normal = vec![0.0; width];
    for (x, gradient) in x.chunks_exact(width).zip(gradient.chunks_exact_mut(width)) {
        let (mean, factor) = level_and_factor(x, scaling);
        for (normal, x) in normal.iter_mut().zip(x) {
            *normal = (x - mean) * factor;
        }
        for (sum, (gradient, normal)) in of_weight.iter_mut().zip(gradient.iter().zip(&normal)) {
            *sum += gradient * normal;
        }
        for (sum, gradient) in of_bias.iter_mut().zip(&*gradient) {
            *sum += gradient;
        }
        if let Some(weight) = weight {
            gradient.iter_mut().zip(weight).for_each(|(gradient, weight)| *gradient *= weight);
        }
        let along = sum_pairs(gradient, &normal, |a, b| a * b) / width as f32;
        let level = if scaling.centered { sum(gradient, |x| x) / width as f32 } else { 0.0 };
        for (gradient, normal) in gradient.iter_mut().zip(&normal) {
            *gradient = factor * (*gradient - level - normal * along);
        }
    }
    (of_weight, of_bias)
}
