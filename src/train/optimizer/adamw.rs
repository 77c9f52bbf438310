use burn::tensor::Tensor;

use super::{Moments, Variable};
use crate::backend::{AdamwStep, GptBackend};

#[derive(Debug, Clone, Copy)]
pub(super) struct Adamw {
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) epsilon: f64,
}

/// AdamW (Loshchilov and Hutter 2019, algorithm 2).
pub(super) fn update<B: GptBackend>(
    settings: &Adamw,
    variable: Variable<B>,
) -> (Tensor<B, 1>, Moments<B>) {
    let Adamw { beta1, beta2, epsilon } = *settings;
    let Variable { value, gradient, moments, learning_rate, weight_decay } = variable;
    let (moments, before) = match moments {
        Moments { first: Some(first), second: Some(second), step } => (Some([first, second]), step),
        // Left by another algorithm: corrections for many steps would be wrong for a mean of one.
        _ => (None, 0),
    };
    let step = AdamwStep { learning_rate, weight_decay, beta1, beta2, epsilon, step: before + 1 };
    let [value, first, second] = B::adamw(value, gradient, moments, &step);
    (value, Moments { first: Some(first), second: Some(second), step: before + 1 })
}
