use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::Initializer;
use crate::backend::GptBackend;
use crate::config::ModelConfig;
use crate::config::NormConfig;
use crate::config::Precision;

/// A normalisation of the last dimension.
#[derive(Module, Debug)]
pub struct Norm<B: Backend> {
    /// `[D]`
    pub weight: Option<Param<Tensor<B, 1>>>,
    /// `[D]`
    pub bias: Option<Param<Tensor<B, 1>>>,
    #[module(skip)]
    config: NormConfig,
}

impl<B: Backend> Norm<B> {
    /// Weights of one, biases of zero.
    pub fn new(width: usize, norm: &NormConfig, model: &ModelConfig, device: &B::Device) -> Self {
        let constant = |value| Initializer::constant([width], value, device);
        Self {
            weight: norm.affine.then(|| constant(1.0)),
            bias: model.norm_bias(norm).then(|| constant(0.0)),
            config: *norm,
        }
    }
}

impl<B: GptBackend> Norm<B> {
    /// # Shapes
    /// - `input` `[.., D]` -> `[.., D]`
    pub fn forward<const D: usize>(&self, input: Tensor<B, D>) -> Tensor<B, D> {
        self.rounded(input, Precision::F32)
    }

    /// [`Norm::forward`], rounded to a precision.
    ///
    /// # Shapes
    /// - `input` `[.., D]` -> `[.., D]`
    pub fn rounded<const D: usize>(
        &self,
        input: Tensor<B, D>,
        precision: Precision,
    ) -> Tensor<B, D> {
        let weight = self.weight.as_ref().map(Param::val);
        let bias = self.bias.as_ref().map(Param::val);
        let NormConfig { kind, epsilon, .. } = self.config;
        B::normalization(input, weight, bias, kind, epsilon, precision)
    }
}
