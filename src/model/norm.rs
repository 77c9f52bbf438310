use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::Initializer;
use crate::backend::GptBackend;

/// Layer normalisation over the model width.
#[derive(Module, Debug)]
pub struct LayerNorm<B: Backend> {
    /// `[D]`
    pub weight: Param<Tensor<B, 1>>,
    /// `[D]`
    pub bias: Option<Param<Tensor<B, 1>>>,
    epsilon: f64,
}

impl<B: Backend> LayerNorm<B> {
    pub fn new(d_model: usize, bias: bool, epsilon: f64, device: &B::Device) -> Self {
        Self {
            weight: Initializer::constant([d_model], 1.0, device),
            bias: bias.then(|| Initializer::constant([d_model], 0.0, device)),
            epsilon,
        }
    }
}

impl<B: GptBackend> LayerNorm<B> {
    /// # Shapes
    /// - `input` `[.., D]` -> `[.., D]`
    pub fn forward<const D: usize>(&self, input: Tensor<B, D>) -> Tensor<B, D> {
        let bias = self.bias.as_ref().map(Param::val);
        B::layer_normalization(input, self.weight.val(), bias, self.epsilon)
    }
}
