use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{Initializer, Linear};
use crate::backend::GptBackend;
use crate::config::{Activation, ModelConfig};

/// Two projections with a non-linearity between them, the same at every position.
#[derive(Module, Debug)]
pub struct FeedForward<B: Backend> {
    pub up: Linear<B>,
    pub down: Linear<B>,
    #[module(skip)]
    activation: Activation,
    dropout: f64,
}

impl<B: Backend> FeedForward<B> {
    pub fn new(
        config: &ModelConfig,
        residual_deviation: f64,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        let (d_model, d_ff, bias) = (config.d_model, config.d_ff(), config.bias);
        let deviation = super::gpt::INITIAL_DEVIATION;
        Self {
            up: Linear::new([d_model, d_ff], bias, deviation, initializer, device),
            down: Linear::new([d_ff, d_model], bias, residual_deviation, initializer, device),
            activation: config.activation,
            dropout: config.dropout,
        }
    }
}

impl<B: GptBackend> FeedForward<B> {
    /// # Shapes
    /// - `input` `[B, T, D]` -> `[B, T, D]`
    pub fn forward(&self, input: Tensor<B, 3>) -> Tensor<B, 3> {
        let hidden = B::activation(self.up.forward(input), self.activation); // [B, T, d_ff]
        B::dropout(self.down.forward(hidden), self.dropout)
    }
}
