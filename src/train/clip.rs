use burn::module::{AutodiffModule, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData, Transaction};

use crate::backend::{GptBackend, TrainBackend};

/// The Euclidean norm of all gradients together.
pub fn gradient_norm<B: TrainBackend, M: AutodiffModule<B>>(
    module: &M,
    gradients: &GradientsParams,
) -> f64 {
    let squares = sums_of_squares(module, gradients);
    squares.map_or(0.0, |squares| read(Vec::new(), Some(squares)).1)
}

/// What [`GptBackend::sums_of_squares`] makes of all gradients; nothing where there are none.
pub(super) fn sums_of_squares<B: TrainBackend, M: AutodiffModule<B>>(
    module: &M,
    gradients: &GradientsParams,
) -> Option<Tensor<B::InnerBackend, 1>> {
    let mut visitor = Flatten::<B::InnerBackend> { gradients, flat: Vec::new() };
    module.visit(&mut visitor);
    (!visitor.flat.is_empty()).then(|| B::InnerBackend::sums_of_squares(visitor.flat))
}

/// Losses, and the norm that sums of squares come to, in one transfer to the host, which waits until
/// the device has computed all of them. There is at least one tensor.
pub(super) fn read<I: Backend>(
    losses: Vec<Tensor<I, 1>>,
    squares: Option<Tensor<I, 1>>,
) -> (Vec<f64>, f64) {
    let count = losses.len();
    let wanted = losses.into_iter().chain(squares);
    let wanted = wanted.fold(Transaction::default(), Transaction::register);
    let numbers = |data: TensorData| data.iter::<f64>().collect::<Vec<f64>>();
    let found: Vec<Vec<f64>> = wanted.execute().into_iter().map(numbers).collect();
    let (losses, squares) = found.split_at(count);
    (losses.concat(), squares.concat().iter().sum::<f64>().sqrt())
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
