//! AdamW in one pass over a parameter and its moments.

use pulp::Arch;
use rayon::prelude::*;

use super::TASK;
use crate::backend::AdamwStep;

/// Moves the numbers of a parameter, and their moments.
pub(super) fn update(
    value: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    step: &AdamwStep,
) {
    let arch = Arch::new();
    let (beta1, beta2) = (step.beta1 as f32, step.beta2 as f32);
    let (rest1, rest2) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
    let [correction1, correction2] = step.corrections();
    let root = correction2.sqrt() as f32;
    let epsilon = step.epsilon as f32;
    let rate = (step.learning_rate / correction1) as f32;
    let decay = (1.0 - step.learning_rate * step.weight_decay) as f32;
    let part = |value: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]| {
        let moments = first.iter_mut().zip(second);
        for ((value, gradient), (first, second)) in value.iter_mut().zip(gradient).zip(moments) {
            *first = *first * beta1 + gradient * rest1;
            *second = *second * beta2 + gradient * gradient * rest2;
            let denominator = second.sqrt() / root + epsilon;
            *value = *value * decay - *first / denominator * rate;
        }
    };
    value
        .par_chunks_mut(TASK)
        .zip(gradient.par_chunks(TASK))
        .zip(first.par_chunks_mut(TASK).zip(second.par_chunks_mut(TASK)))
        .for_each(|((value, gradient), (first, second))| {
            arch.dispatch(|| part(value, gradient, first, second));
        });
}
