//! D model width, V vocabulary

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
    /// - `hidden` `[.., D]` -> `[.., V]`
    pub fn forward<const D: usize>(
        &self,
        hidden: Tensor<B, D>,
        embedding: &Embedding<B>,
    ) -> Tensor<B, D> {
        let weight = self.weight(embedding);
        let (hidden, weight) = (factor(hidden, self.precision), factor(weight, self.precision));
        let logits = B::dense(hidden, weight, self.bias.as_ref().map(Param::val));
        match self.soft_cap {
            Some(cap) => B::soft_cap(logits, cap),
            None => logits,
        }
    }

    /// The weight `[D, V]` and the bias `[V]` where logits are their product and sum with what is
    /// hidden, in f32, and nothing else.
    pub fn linear(&self, embedding: &Embedding<B>) -> Option<(Tensor<B, 2>, Option<Tensor<B, 1>>)> {
        let is_linear = self.soft_cap.is_none() && self.precision == Precision::F32;
        is_linear.then(|| (self.weight(embedding), self.bias.as_ref().map(Param::val)))
    }

    fn weight(&self, embedding: &Embedding<B>) -> Tensor<B, 2> {
        match &self.weight {
            Some(weight) => weight.val(),
            None => embedding.token.val().transpose(),
        }
    }
}
