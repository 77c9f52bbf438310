use burn::tensor::Tensor;

use super::{Moments, Variable};
use crate::backend::{AdamwStep, AdamwUpdate, GptBackend};

#[derive(Debug, Clone, Copy)]
pub(super) struct Adamw {
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) epsilon: f64,
}

/// AdamW (Loshchilov and Hutter 2019, algorithm 2), which a backend does for all parameters at once.
pub(super) fn prepare<B: GptBackend>(
    settings: &Adamw,
    variable: Variable<B>,
) -> AdamwUpdate<Tensor<B, 1>> {
    let Adamw { beta1, beta2, epsilon } = *settings;
    let Variable { value, gradient, gradient_factor, moments, learning_rate, weight_decay } =
        variable;
    let (moments, before) = match moments {
        Moments { first: Some(first), second: Some(second), step } => (Some([first, second]), step),
        // Left by another algorithm: corrections for many steps would be wrong for a mean of one.
        _ => (None, 0),
    };
    let step = before + 1;
    let step =
        AdamwStep { learning_rate, weight_decay, beta1, beta2, epsilon, step, gradient_factor };
    AdamwUpdate { value, gradient, moments, step }
}
