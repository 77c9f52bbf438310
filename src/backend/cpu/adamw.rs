//! AdamW in one pass over all parameters and their moments.

use multiversion::multiversion;

use super::{TASK, team};
use crate::backend::AdamwStep;

/// Numbers of a parameter, at the same places.
#[derive(Debug)]
pub(super) struct Part<'a> {
    value: &'a [f32],
    /// Becomes the value after the step.
    gradient: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    step: &'a AdamwStep,
}

impl<'a> Part<'a> {
    pub(super) fn new(
        value: &'a [f32],
        gradient: &'a mut [f32],
        [first, second]: [&'a mut [f32]; 2],
        step: &'a AdamwStep,
    ) -> Self {
        assert!([gradient.len(), first.len(), second.len()] == [value.len(); 3]);
        Self { value, gradient, first, second, step }
    }

    fn tasks(self) -> impl Iterator<Item = Self> {
        let Self { value, gradient, first, second, step } = self;
        let gradients = value.chunks(TASK).zip(gradient.chunks_mut(TASK));
        let moments = first.chunks_mut(TASK).zip(second.chunks_mut(TASK));
        gradients.zip(moments).map(move |((value, gradient), (first, second))| Part {
            value,
            gradient,
            first,
            second,
            step,
        })
    }
}

#[multiversion(targets = "simd")]
fn update_part(part: Part<'_>) {
    let Part { value, gradient, first, second, step } = part;
    let (beta1, beta2) = (step.beta1 as f32, step.beta2 as f32);
    let (rest1, rest2) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
    let [correction1, correction2] = step.corrections();
    let root = correction2.sqrt() as f32;
    let epsilon = step.epsilon as f32;
    let rate = (step.learning_rate / correction1) as f32;
    let decay = (1.0 - step.learning_rate * step.weight_decay) as f32;
    let factor = step.gradient_factor as f32;
    let moments = first.iter_mut().zip(second);
    let values = gradient.iter_mut().zip(value);
    for ((place, value), (first, second)) in values.zip(moments) {
        let gradient = *place * factor;
        *first = *first * beta1 + gradient * rest1;
        *second = *second * beta2 + gradient * gradient * rest2;
        let denominator = second.sqrt() / root + epsilon;
        *place = value * decay - *first / denominator * rate;
    }
}

/// Takes a step with all of them.
pub(super) fn update<'a>(parameters: impl Iterator<Item = Part<'a>>) {
    team::for_each(parameters.flat_map(Part::tasks), update_part);
}
