use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{Moments, Variable, running_mean};

#[derive(Debug, Clone, Copy)]
pub(super) struct Adamw {
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) epsilon: f64,
}

/// AdamW (Loshchilov and Hutter 2019, algorithm 2), in PyTorch's order of operations.
pub(super) fn update<B: Backend>(
    settings: &Adamw,
    mut variable: Variable<B>,
) -> (Tensor<B, 1>, Moments<B>) {
    let Adamw { beta1, beta2, epsilon } = *settings;
    let gradient = variable.gradient.clone();
    let old = match std::mem::replace(&mut variable.moments, Moments::none()) {
        // Left by another algorithm: corrections for many steps would be wrong for a mean of one.
        Moments { second: None, .. } => Moments::none(),
        own => own,
    };
    let first = running_mean(old.first, gradient.clone(), beta1);
    let second = running_mean(old.second, gradient.clone() * gradient, beta2);
    let step = old.step + 1;
    let (correction1, correction2) = (1.0 - beta1.powf(step as f64), 1.0 - beta2.powf(step as f64));
    let denominator = second.clone().sqrt() / correction2.sqrt() + epsilon;
    let update = first.clone() / denominator * (variable.learning_rate / correction1);
    (variable.moved_by(update), Moments { first: Some(first), second: Some(second), step })
}
