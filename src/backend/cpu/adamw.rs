//! AdamW in one pass over a parameter and its moments.

use pulp::Arch;
use rayon::prelude::*;
use std::mem::MaybeUninit;

use super::{TASK, written};
use crate::backend::AdamwStep;

/// The numbers of a parameter after a step; its moments are changed where they are.
pub(super) fn update(
    value: &[f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    step: &AdamwStep,
) -> Vec<f32> {
    let arch = Arch::new();
    let (beta1, beta2) = (step.beta1 as f32, step.beta2 as f32);
    let (rest1, rest2) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
    let [correction1, correction2] = step.corrections();
    let root = correction2.sqrt() as f32;
    let epsilon = step.epsilon as f32;
    let rate = (step.learning_rate / correction1) as f32;
    let decay = (1.0 - step.learning_rate * step.weight_decay) as f32;
    let part = |new: &mut [MaybeUninit<f32>],
                value: &[f32],
                gradient: &[f32],
                first: &mut [f32],
                second: &mut [f32]| {
        let moments = first.iter_mut().zip(second);
        let values = new.iter_mut().zip(value);
        for (((new, value), gradient), (first, second)) in values.zip(gradient).zip(moments) {
            *first = *first * beta1 + gradient * rest1;
            *second = *second * beta2 + gradient * gradient * rest2;
            let denominator = second.sqrt() / root + epsilon;
            new.write(value * decay - *first / denominator * rate);
        }
    };
    assert!([gradient.len(), first.len(), second.len()] == [value.len(); 3]);
    // SAFETY: every part is written, since all are equally long.
    unsafe {
        written(value.len(), |new| {
            new.par_chunks_mut(TASK)
                .zip(value.par_chunks(TASK).zip(gradient.par_chunks(TASK)))
                .zip(first.par_chunks_mut(TASK).zip(second.par_chunks_mut(TASK)))
                .for_each(|((new, (value, gradient)), (first, second))| {
                    arch.dispatch(|| part(new, value, gradient, first, second));
                });
        })
    }
}
