//! B batch, T time, D model width, V vocabulary

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{Embedding, Initializer};
use crate::backend::{GptBackend, factor};
use crate::config::ModelConfig;
use crate::config::Precision;

/// The projection to the vocabulary.
#[derive(Module, Debug)]
pub struct Head<B: Backend> {
    /// `[D, V]`; absent where the token embedding's weights are shared.
    pub weight: Option<Param<Tensor<B, 2>>>,
    /// `[V]`
    pub bias: Option<Param<Tensor<B, 1>>>,
    #[module(skip)]
    soft_cap: Option<f64>,
    #[module(skip)]
    precision: Precision,
}

impl<B: Backend> Head<B> {
    pub fn new(
        config: &ModelConfig,
        vocab_size: usize,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        let shape = [config.d_model, vocab_size];
        Self {
            weight: (!config.tied_head)
                .then(|| initializer.normal(shape, super::init::DEVIATION, device)),
            bias: config.head_bias.then(|| Initializer::constant([vocab_size], 0.0, device)),
            soft_cap: config.logit_soft_cap,
            precision: Precision::F32,
        }
    }

    /// Of the matrix product.
    pub(super) fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }
}

impl<B: GptBackend> Head<B> {
    /// # Shapes
    /// - `hidden` `[B, T, D]` -> `[B, T, V]`
    pub fn forward(&self, hidden: Tensor<B, 3>, embedding: &Embedding<B>) -> Tensor<B, 3> {
        let weight = match &self.weight {
            Some(weight) => weight.val(),
            None => embedding.token.val().transpose(),
        };
        let (hidden, weight) = (factor(hidden, self.precision), factor(weight, self.precision));
        let logits = B::dense(hidden, weight, self.bias.as_ref().map(Param::val));
        match self.soft_cap {
            Some(cap) => B::soft_cap(logits, cap),
            None => logits,
        }
    }
}
