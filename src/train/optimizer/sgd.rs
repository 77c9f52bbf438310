use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{Moments, Variable};

#[derive(Debug, Clone, Copy)]
pub(super) struct Sgd {
    pub(super) momentum: f64,
    pub(super) nesterov: bool,
}

/// Gradient descent as PyTorch has it: the momentum is a decaying sum, `b = m b + g`, and with
/// Nesterov's the step is along `g + m b`.
pub(super) fn update<B: Backend>(
    settings: &Sgd,
    mut variable: Variable<B>,
) -> (Tensor<B, 1>, Moments<B>) {
    let Sgd { momentum, nesterov } = *settings;
    let gradient = variable.gradient.clone();
    let step = variable.moments.step + 1;
    let (direction, first) = if momentum == 0.0 {
        (gradient, None)
    } else {
        let sum = match variable.moments.first.take() {
            Some(old) => old * momentum + gradient.clone(),
            None => gradient.clone(),
        };
        let direction = if nesterov { gradient + sum.clone() * momentum } else { sum.clone() };
        (direction, Some(sum))
    };
    let update = direction * variable.learning_rate;
    (variable.moved_by(update), Moments { first, second: None, step })
}
