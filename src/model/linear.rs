use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::Initializer;
use crate::backend::{GptBackend, factor};
use crate::config::Precision;

/// A projection of the last dimension.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    /// `[d_input, d_output]`
    pub weight: Param<Tensor<B, 2>>,
    /// `[d_output]`
    pub bias: Option<Param<Tensor<B, 1>>>,
    #[module(skip)]
    precision: Precision,
}

impl<B: Backend> Linear<B> {
    /// Normal weights of the given deviation, zero biases.
    pub fn new(
        [d_input, d_output]: [usize; 2],
        bias: bool,
        deviation: f64,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        Self {
            weight: initializer.normal([d_input, d_output], deviation, device),
            bias: bias.then(|| Initializer::constant([d_output], 0.0, device)),
            precision: Precision::F32,
        }
    }

    /// Of the matrix product.
    pub(super) fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }
}

impl<B: GptBackend> Linear<B> {
    /// # Shapes
    /// - `input` `[.., d_input]` -> `[.., d_output]`
    pub fn forward<const D: usize>(&self, input: Tensor<B, D>) -> Tensor<B, D> {
        let (input, weight) =
            (factor(input, self.precision), factor(self.weight.val(), self.precision));
        B::dense(input, weight, self.bias.as_ref().map(Param::val))
    }
}
