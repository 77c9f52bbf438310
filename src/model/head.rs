//! D model width, V vocabulary

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{Embedding, Initializer, Int8Weight, Weight};
use crate::backend::{GptBackend, factor, without_keeping};
use crate::config::ModelConfig;
use crate::config::Precision;

/// The projection to the vocabulary.
#[derive(Module, Debug)]
pub struct Head<B: Backend> {
    /// `[D, V]`; absent where the token embedding's weights are shared.
    pub weight: Option<Weight<B>>,
    /// `[V]`
    pub bias: Option<Param<Tensor<B, 1>>>,
    #[module(skip)]
    soft_cap: Option<f64>,
    #[module(skip)]
    precision: Precision,
}

/// A head that multiplies what is hidden by a weight and adds a bias.
#[derive(Debug)]
pub struct LinearHead<B: Backend> {
    /// `[D, V]`
    pub weight: Tensor<B, 2>,
    /// `[V]`
    pub bias: Option<Tensor<B, 1>>,
    /// Of the product.
    pub precision: Precision,
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
                .then(|| Weight::Float(initializer.normal(shape, super::init::DEVIATION, device))),
            bias: config.head_bias.then(|| Initializer::constant([vocab_size], 0.0, device)),
            soft_cap: config.logit_soft_cap,
            precision: Precision::F32,
        }
    }

    /// Of the matrix product.
    pub(super) fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// Stores weights in a byte each; of shared ones a copy, since vectors of tokens stay as they
    /// are.
    pub(super) fn quantize(&mut self, embedding: &Embedding<B>) {
        match &mut self.weight {
            Some(weight) => weight.quantize(),
            None => {
                let shared = embedding.token.val().transpose();
                let weight = without_keeping(|| Int8Weight::new(shared));
                self.weight = Some(Weight::Int8(weight));
            }
        }
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
        let bias = self.bias.as_ref().map(Param::val);
        let logits = match &self.weight {
            Some(weight) => weight.multiply(hidden, bias, self.precision),
            None => {
                let weight = factor(embedding.token.val().transpose(), self.precision);
                B::dense(factor(hidden, self.precision), weight, bias)
            }
        };
        match self.soft_cap {
            Some(cap) => B::soft_cap(logits, cap),
            None => logits,
        }
    }

    /// What logits are made with, where that is a product and a sum and nothing else.
    pub fn linear(&self, embedding: &Embedding<B>) -> Option<LinearHead<B>> {
        if self.soft_cap.is_some() {
            return None;
        }
        let weight = match &self.weight {
            Some(Weight::Float(weight)) => weight.val(),
            Some(Weight::Int8(_)) => return None,
            None => embedding.token.val().transpose(),
        };
        let bias = self.bias.as_ref().map(Param::val);
        Some(LinearHead { weight, bias, precision: self.precision })
    }
}
