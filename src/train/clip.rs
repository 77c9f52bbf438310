use burn::module::{AutodiffModule, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::backend::{GptBackend, TrainBackend};

/// The Euclidean norm of all gradients together.
pub fn gradient_norm<B: TrainBackend, M: AutodiffModule<B>>(
    module: &M,
    gradients: &GradientsParams,
) -> f64 {
    let mut visitor = Flatten::<B::InnerBackend> { gradients, flat: Vec::new() };
    module.visit(&mut visitor);
    B::InnerBackend::sum_of_squares(visitor.flat).sqrt()
}

/// What gradients of a norm are multiplied by, so that it becomes `most` (Pascanu, Mikolov and
/// Bengio 2013); one where it is within bounds.
pub fn clip_factor(norm: f64, most: Option<f64>) -> f64 {
    // As in PyTorch, so that trajectories can be compared.
    const EPSILON: f64 = 1e-6;
    let factor = most.map_or(1.0, |most| most / (norm + EPSILON));
    // A norm that is no number clips nothing.
    if factor < 1.0 { factor } else { 1.0 }
}

struct Flatten<'a, I: Backend> {
    gradients: &'a GradientsParams,
    /// `[N]` each.
    flat: Vec<Tensor<I, 1>>,
}

impl<B: TrainBackend> ModuleVisitor<B> for Flatten<'_, B::InnerBackend> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(gradient) = self.gradients.get::<B::InnerBackend, D>(param.id) {
            self.flat.push(gradient.flatten(0, D - 1));
        }
    }
}
