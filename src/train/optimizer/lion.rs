use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{Moments, Variable, running_mean};

#[derive(Debug, Clone, Copy)]
pub(super) struct Lion {
    pub(super) beta1: f64,
    pub(super) beta2: f64,
}

/// Lion (Chen et al. 2023, algorithm 2): the sign of a mean that leans on the new gradient more
/// than the mean that is kept. Zero has no sign, and moves nothing.
pub(super) fn update<B: Backend>(
    settings: &Lion,
    mut variable: Variable<B>,
) -> (Tensor<B, 1>, Moments<B>) {
    let Lion { beta1, beta2 } = *settings;
    let gradient = variable.gradient.clone();
    let step = variable.moments.step + 1;
    let old = variable.moments.first.take();
    let direction = running_mean(old.clone(), gradient.clone(), beta1).sign();
    let first = running_mean(old, gradient, beta2);
    let update = direction * variable.learning_rate;
    (variable.moved_by(update), Moments { first: Some(first), second: None, step })
}
