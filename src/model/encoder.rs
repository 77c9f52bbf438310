//! B batch, T time, D model width, V vocabulary

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::block::Role;
use super::pass::Pass;
use super::position::PositionTable;
use super::{Embedding, Head, Initializer, Places, Record, Routing, Rows, Stack};
use crate::backend::GptBackend;
use crate::config::ModelConfig;

/// A bidirectional encoder (Devlin et al. 2019): it predicts each token from all the others.
#[derive(Module, Debug)]
pub struct Encoder<B: Backend> {
    /// Labels the model wherever it is reported.
    pub name: String,
    pub embedding: Embedding<B>,
    pub encoder: Stack<B>,
    pub head: Head<B>,
    #[module(skip)]
    config: ModelConfig,
    #[module(skip)]
    positions: PositionTable,
}

impl<B: Backend> Encoder<B> {
    /// A new model of a checked configuration.
    pub fn new(
        name: &str,
        config: &ModelConfig,
        vocab_size: usize,
        mut initializer: Initializer,
        device: &B::Device,
    ) -> Self {
        let init = &mut initializer;
        Self {
            name: name.into(),
            embedding: Embedding::new(config, vocab_size, init, device),
            encoder: Stack::new(config, Role::Encoder, init, device),
            head: Head::new(config, vocab_size, init, device),
            config: config.clone(),
            positions: PositionTable::default(),
        }
    }

    /// The longest sequence the model can see.
    pub fn context_length(&self) -> usize {
        self.config.context_length
    }

    pub fn vocab_size(&self) -> usize {
        self.embedding.vocab_size()
    }

    /// As [`Model::quantize_int8`](super::Model::quantize_int8).
    pub fn quantize_int8(mut self) -> Self {
        self.encoder.quantize();
        self.head.quantize(&self.embedding);
        self
    }

    pub fn device(&self) -> B::Device {
        self.embedding.token.device()
    }
}

impl<B: GptBackend> Encoder<B> {
    /// Logits of the token at each place. `lengths` are the tokens of each row that are no
    /// padding; all where absent.
    ///
    /// # Shapes
    /// - `tokens` `[B, T]` -> `[B, T, V]`
    pub fn forward(&self, tokens: Tensor<B, 2, Int>, lengths: Option<&[usize]>) -> Tensor<B, 3> {
        self.forward_routed(tokens, Rows { lengths, documents: None }).0
    }

    /// [`Encoder::forward`], and how its experts were used, a layer each; none without experts.
    pub fn forward_routed(
        &self,
        tokens: Tensor<B, 2, Int>,
        rows: Rows,
    ) -> (Tensor<B, 3>, Vec<Routing<B>>) {
        let (hidden, routing) = self.hidden_recorded(tokens, rows, Record::Nobody);
        (self.logits(hidden), routing)
    }

    /// The residual stream after the last layer, from which [`Encoder::logits`] go, and how the
    /// experts were used.
    ///
    /// # Shapes
    /// - `tokens` `[B, T]` -> `[B, T, D]`
    pub fn hidden_recorded(
        &self,
        tokens: Tensor<B, 2, Int>,
        rows: Rows,
        record: Record<B>,
    ) -> (Tensor<B, 3>, Vec<Routing<B>>) {
        let places = Places::Columns(0..tokens.dims()[1]);
        let base = Pass::with_table(&self.config, &self.positions, rows, &places, &tokens.device());
        let mut pass = Pass { record, ..base };
        let stream = self.embedding.forward(tokens, &places, record);
        let hidden =
            record.part("encoder", stream, |stream| self.encoder.forward(stream, &mut pass));
        (hidden, pass.routing)
    }

    /// `[.., D]` -> `[.., V]`
    pub fn logits<const D: usize>(&self, hidden: Tensor<B, D>) -> Tensor<B, D> {
        self.head.forward(hidden, &self.embedding)
    }
}
