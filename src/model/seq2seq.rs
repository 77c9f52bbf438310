//! B batch, S source positions, T target positions, D model width, V vocabulary

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::block::Role;
use super::gpt::last;
use super::pass::{Memory, Pass};
use super::{Cache, Embedding, Head, Initializer, ModelError, Routing, Rows, Stack, Tape};
use crate::backend::GptBackend;
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

    /// A cache for a new target.
    pub fn new_cache(&self) -> Cache<B> {
        Cache::new(self.decoder.blocks.len(), self.context_length())
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
        self.logits(self.hidden_recorded(source, lengths, target, None, None).0)
    }

    /// The decoder's residual stream after its last layer, from which [`Seq2Seq::logits`] go, and
    /// how its experts were used, a layer each; none without experts. `target_lengths` are the
    /// tokens of each target that are no padding; all where absent. With a tape, in training, the
    /// layers keep no more than their input.
    ///
    /// # Shapes
    /// - `source` `[B, S]`, `target` `[B, T]` -> `[B, T, D]`
    pub fn hidden_recorded(
        &self,
        source: Tensor<B, 2, Int>,
        lengths: &[usize],
        target: Tensor<B, 2, Int>,
        target_lengths: Option<&[usize]>,
        tape: Option<&Tape<B>>,
    ) -> (Tensor<B, 3>, Vec<Routing<B>>) {
        let (mut memory, mut routing) = self.encode_routed(source, lengths, tape);
        if let Some(tape) = tape {
            memory.hidden = tape.cut(memory.hidden);
        }
        let (hidden, more) = self.hidden(target, target_lengths, &memory, None, tape);
        routing.extend(more);
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
        self.encode_routed(source, lengths, None).0
    }

    fn encode_routed(
        &self,
        source: Tensor<B, 2, Int>,
        lengths: &[usize],
        tape: Option<&Tape<B>>,
    ) -> (Memory<B>, Vec<Routing<B>>) {
        let rows = Rows { lengths: Some(lengths), documents: None };
        let base = Pass::new(&self.config, rows, 0..source.dims()[1], &source.device());
        let mut pass = Pass { tape, ..base };
        let stream = self.embedding.forward(source, 0);
        let hidden = self.encoder.forward(stream, &mut pass);
        (Memory { hidden, lengths: lengths.to_vec() }, pass.routing)
    }

    /// Next-token logits after the last of the new target tokens, which join those in the cache.
    ///
    /// # Shapes
    /// - `tokens` `[B, T]` -> `[B, V]`
    ///
    /// # Errors
    /// [`ModelError::ContextOverflow`] where cached and new tokens exceed the context length;
    /// the cache is left as it was.
    pub fn decode(
        &self,
        tokens: Tensor<B, 2, Int>,
        memory: &Memory<B>,
        cache: &mut Cache<B>,
    ) -> Result<Tensor<B, 2>, ModelError> {
        cache.check_room(tokens.dims()[1], self.context_length())?;
        let (hidden, _) = self.hidden(tokens, None, memory, Some(cache), None);
        Ok(self.logits(last(hidden)).squeeze_dim(1))
    }

    fn hidden(
        &self,
        tokens: Tensor<B, 2, Int>,
        lengths: Option<&[usize]>,
        memory: &Memory<B>,
        cache: Option<&mut Cache<B>>,
        tape: Option<&Tape<B>>,
    ) -> (Tensor<B, 3>, Vec<Routing<B>>) {
        let start = cache.as_ref().map_or(0, |cache| cache.len());
        let positions = start..start + tokens.dims()[1];
        let rows = Rows { lengths, documents: None };
        let base = Pass::new(&self.config, rows, positions, &tokens.device());
        let mut pass = Pass { memory: Some(memory), cache, tape, ..base };
        let stream = self.embedding.forward(tokens, start);
        (self.decoder.forward(stream, &mut pass), pass.routing)
    }
}
