//! B batch, S source positions, T target positions, D model width, V vocabulary

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::block::Role;
use super::gpt::go_on;
use super::pass::{Memory, Pass};
use super::position::PositionTable;
use super::{
    Cache, Embedding, Head, Initializer, ModelError, Places, Record, Routing, Rows, Stack,
};
use crate::backend::{GptBackend, KeyRanges};
use crate::config::ModelConfig;

/// The Transformer (Vaswani et al. 2017): a decoder that sees what an encoder made of a source.
/// Source, target and head share one vocabulary.
#[derive(Module, Debug)]
pub struct Seq2Seq<B: Backend> {
    /// Labels the model wherever it is reported.
    pub name: String,
    pub embedding: Embedding<B>,
    pub encoder: Stack<B>,
    pub decoder: Stack<B>,
    pub head: Head<B>,
    #[module(skip)]
    config: ModelConfig,
    #[module(skip)]
    positions: PositionTable,
}

impl<B: Backend> Seq2Seq<B> {
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
            decoder: Stack::new(config, Role::CrossDecoder, init, device),
            head: Head::new(config, vocab_size, init, device),
            config: config.clone(),
            positions: PositionTable::default(),
        }
    }

    /// The longest source and the longest target that the model can see.
    pub fn context_length(&self) -> usize {
        self.config.context_length
    }

    pub fn vocab_size(&self) -> usize {
        self.embedding.vocab_size()
    }

    /// As [`Model::quantize_int8`](super::Model::quantize_int8).
    pub fn quantize_int8(mut self) -> Self {
        self.encoder.quantize();
        self.decoder.quantize();
        self.head.quantize(&self.embedding);
        self
    }

    pub fn device(&self) -> B::Device {
        self.embedding.token.device()
    }
}

impl<B: GptBackend> Seq2Seq<B> {
    /// Next-token logits of each target, of which each sees its whole source. `lengths` are the
    /// tokens of each source that are no padding.
    ///
    /// # Shapes
    /// - `source` `[B, S]`, `target` `[B, T]` -> `[B, T, V]`
    pub fn forward(
        &self,
        source: Tensor<B, 2, Int>,
        lengths: &[usize],
        target: Tensor<B, 2, Int>,
    ) -> Tensor<B, 3> {
        self.logits(self.hidden_recorded(source, lengths, target, None, Record::Nobody).0)
    }

    /// The decoder's residual stream after its last layer, from which [`Seq2Seq::logits`] go, and
    /// how its experts were used, a layer each; none without experts. `target_lengths` are the
    /// tokens of each target that are no padding; all where absent.
    ///
    /// # Shapes
    /// - `source` `[B, S]`, `target` `[B, T]` -> `[B, T, D]`
    pub fn hidden_recorded(
        &self,
        source: Tensor<B, 2, Int>,
        lengths: &[usize],
        target: Tensor<B, 2, Int>,
        target_lengths: Option<&[usize]>,
        record: Record<B>,
    ) -> (Tensor<B, 3>, Vec<Routing<B>>) {
        let (mut memory, mut routing) = self.encode_routed(source, lengths, record);
        if let Some(tape) = record.tape() {
            memory.hidden = tape.cut(memory.hidden);
        }
        let places = Places::Columns(0..target.dims()[1]);
        let rows = Rows { lengths: target_lengths, documents: None };
        let base = Pass::with_table(&self.config, &self.positions, rows, &places, &target.device());
        let mut pass = Pass { memory: Some(&memory), record, ..base };
        let stream = self.embedding.forward(target, &places, record);
        let hidden =
            record.part("decoder", stream, |stream| self.decoder.forward(stream, &mut pass));
        routing.extend(pass.routing);
        (hidden, routing)
    }

    /// `[.., D]` -> `[.., V]`
    pub fn logits<const D: usize>(&self, hidden: Tensor<B, D>) -> Tensor<B, D> {
        self.head.forward(hidden, &self.embedding)
    }

    /// Reads the sources, once for all of their targets' tokens.
    ///
    /// # Shapes
    /// - `source` `[B, S]`
    pub fn encode(&self, source: Tensor<B, 2, Int>, lengths: &[usize]) -> Memory<B> {
        self.encode_routed(source, lengths, Record::Nobody).0
    }

    fn encode_routed(
        &self,
        source: Tensor<B, 2, Int>,
        lengths: &[usize],
        record: Record<B>,
    ) -> (Memory<B>, Vec<Routing<B>>) {
        let rows = Rows { lengths: Some(lengths), documents: None };
        let places = Places::Columns(0..source.dims()[1]);
        let base = Pass::with_table(&self.config, &self.positions, rows, &places, &source.device());
        let ranges = KeyRanges::of_lengths(lengths);
        let mut pass = Pass { ranges: Some(ranges.clone()), record, ..base };
        let stream = self.embedding.forward(source, &places, record);
        let hidden =
            record.part("encoder", stream, |stream| self.encoder.forward(stream, &mut pass));
        (Memory { hidden, lengths: lengths.to_vec(), ranges }, pass.routing)
    }

    /// A cache for new targets, a row for each of the sources, which every layer reads here once
    /// for all of the tokens to come.
    pub fn new_cache(&self, memory: &Memory<B>) -> Cache<B> {
        let layers = self.decoder.blocks.iter().filter_map(|block| block.cross_attention.as_ref());
        let sources = layers.map(|attention| attention.source(memory, Record::Nobody));
        Cache::with_sources(&self.config, &memory.lengths, sources)
    }

    /// Next-token logits after the last of the new target tokens, which join those in the cache.
    /// Rows that have seen different numbers of tokens go on by one each.
    ///
    /// # Shapes
    /// - `tokens` `[B, T]` -> `[B, V]`
    ///
    /// # Errors
    /// As [`Gpt::decode`](super::Gpt::decode).
    pub fn decode(
        &self,
        tokens: Tensor<B, 2, Int>,
        cache: &mut Cache<B>,
    ) -> Result<Tensor<B, 2>, ModelError> {
        let parts = (&self.embedding, &self.decoder);
        let hidden = go_on(&self.config, &self.positions, parts, tokens, cache)?;
        Ok(self.logits(hidden).squeeze_dim(1))
    }
}
