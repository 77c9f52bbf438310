use burn::module::{AutodiffModule, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{ElementConversion, Tensor};
use std::marker::PhantomData;

/// The Euclidean norm of all gradients together.
pub fn gradient_norm<B: AutodiffBackend, M: AutodiffModule<B>>(
    module: &M,
    gradients: &GradientsParams,
) -> f64 {
    let mut visitor = SumOfSquares::<B> { gradients, total: None };
    module.visit(&mut visitor);
    let total = visitor.total.map_or(0.0, |total| total.into_scalar().elem::<f64>());
    total.sqrt()
}

/// Scales all gradients by one factor, so that their norm is at most `max_norm` (Pascanu, Mikolov
/// and Bengio 2013). Returns the norm before, which is not touched where it is within bounds.
pub fn clip_gradients<B: AutodiffBackend, M: AutodiffModule<B>>(
    module: &M,
    gradients: &mut GradientsParams,
    max_norm: Option<f64>,
) -> f64 {
    let norm = gradient_norm::<B, M>(module, gradients);
    // As in PyTorch, so that trajectories can be compared.
    const EPSILON: f64 = 1e-6;
    let factor = max_norm.map_or(1.0, |max_norm| max_norm / (norm + EPSILON));
    if factor < 1.0 {
        module.visit(&mut Scale::<B> { gradients, factor, backend: PhantomData });
    }
    norm
}

struct SumOfSquares<'a, B: AutodiffBackend> {
    gradients: &'a GradientsParams,
    total: Option<Tensor<B::InnerBackend, 1>>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for SumOfSquares<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(gradient) = self.gradients.get::<B::InnerBackend, D>(param.id) {
            let squares = (gradient.clone() * gradient).sum();
            self.total = Some(match self.total.take() {
                Some(total) => total + squares,
                None => squares,
            });
        }
    }
}

struct Scale<'a, B: AutodiffBackend> {
    gradients: &'a mut GradientsParams,
    factor: f64,
    backend: PhantomData<B>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Scale<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(gradient) = self.gradients.remove::<B::InnerBackend, D>(param.id) {
            self.gradients.register(param.id, gradient * self.factor);
        }
    }
}
