//! B batch, T new positions, D model width, V vocabulary

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::block::Role;
use super::pass::Pass;
use super::position::PositionTable;
use super::{
    Cache, Embedding, Head, Initializer, ModelError, Places, Record, Routing, Rows, Stack,
};
use crate::backend::GptBackend;
use crate::config::ModelConfig;

/// Which positions [`Gpt::predict`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    All,
    Last,
}

/// A decoder: it predicts each token from those before it.
#[derive(Module, Debug)]
pub struct Gpt<B: Backend> {
    /// Labels the model wherever it is reported.
    pub name: String,
    pub embedding: Embedding<B>,
    pub decoder: Stack<B>,
    pub head: Head<B>,
    #[module(skip)]
    config: ModelConfig,
    #[module(skip)]
    positions: PositionTable,
}

impl<B: Backend> Gpt<B> {
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
            decoder: Stack::new(config, Role::Decoder, init, device),
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
        self.decoder.quantize();
        self.head.quantize(&self.embedding);
        self
    }

    pub fn device(&self) -> B::Device {
        self.embedding.token.device()
    }

    /// A cache for a new sequence.
    pub fn new_cache(&self) -> Cache<B> {
        Cache::new(&self.config)
    }
}

impl<B: GptBackend> Gpt<B> {
    /// Next-token logits.
    ///
    /// # Shapes
    /// - `tokens` `[B, T]`, each in `0..vocab_size`, `T` at most the context length ->
    ///   logits `[B, T, V]`
    pub fn forward(&self, tokens: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        self.forward_routed(tokens, Rows::default()).0
    }

    /// [`Gpt::forward`], and how its experts were used, a layer each; none without experts.
    pub fn forward_routed(
        &self,
        tokens: Tensor<B, 2, Int>,
        rows: Rows,
    ) -> (Tensor<B, 3>, Vec<Routing<B>>) {
        let (hidden, routing) = self.hidden_recorded(tokens, rows, Record::Nobody);
        (self.logits(hidden), routing)
    }

    /// The residual stream after the last layer, from which [`Gpt::logits`] go, and how the
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
            record.part("decoder", stream, |stream| self.decoder.forward(stream, &mut pass));
        (hidden, pass.routing)
    }

    /// Next-token logits at all positions or at the last one only.
    ///
    /// # Shapes
    /// - `tokens` `[B, T]` -> `[B, T, V]` or `[B, 1, V]`
    pub fn predict(&self, tokens: Tensor<B, 2, Int>, positions: Positions) -> Tensor<B, 3> {
        let (hidden, _) = self.hidden_recorded(tokens, Rows::default(), Record::Nobody);
        match positions {
            Positions::All => self.logits(hidden),
            Positions::Last => self.logits(last(hidden)),
        }
    }

    /// Next-token logits after the last of the new tokens, which join those in the cache. Rows
    /// that have seen different numbers of tokens go on by one each.
    ///
    /// # Shapes
    /// - `tokens` `[B, T]` -> `[B, V]`
    ///
    /// # Errors
    /// [`ModelError::ContextOverflow`] where cached and new tokens exceed the context length, and
    /// where the batch is not of the cache's rows; the cache is left as it was.
    pub fn decode(
        &self,
        tokens: Tensor<B, 2, Int>,
        cache: &mut Cache<B>,
    ) -> Result<Tensor<B, 2>, ModelError> {
        let parts = (&self.embedding, &self.decoder);
        let hidden = go_on(&self.config, &self.positions, parts, tokens, cache)?;
        Ok(self.logits(hidden).squeeze_dim(1))
    }

    /// `[.., D]` -> `[.., V]`
    pub fn logits<const D: usize>(&self, hidden: Tensor<B, D>) -> Tensor<B, D> {
        self.head.forward(hidden, &self.embedding)
    }
}

/// What a decoder makes of the last of new tokens, which join those in the cache.
///
/// # Shapes
/// - `tokens` `[B, T]` -> `[B, 1, D]`
pub(super) fn go_on<B: GptBackend>(
    config: &ModelConfig,
    positions: &PositionTable,
    (embedding, decoder): (&Embedding<B>, &Stack<B>),
    tokens: Tensor<B, 2, Int>,
    cache: &mut Cache<B>,
) -> Result<Tensor<B, 3>, ModelError> {
    let new = tokens.dims()[1];
    let places = cache.places(tokens.dims())?;
    let base = Pass::with_table(config, positions, Rows::default(), &places, &tokens.device());
    let stream = embedding.forward(tokens, &places, Record::Nobody);
    let mut pass = Pass { cache: Some(&mut *cache), ..base };
    let hidden = decoder.forward(stream, &mut pass);
    cache.advance(new);
    Ok(last(hidden))
}

/// `[B, T, D]` -> `[B, 1, D]`
fn last<B: Backend>(hidden: Tensor<B, 3>) -> Tensor<B, 3> {
    let t = hidden.dims()[1];
    hidden.narrow(1, t - 1, 1)
}
