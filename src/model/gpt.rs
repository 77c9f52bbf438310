//! B batch, T new positions, D model width, V vocabulary

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::{Block, Cache, Initializer, LayerNorm, Linear, ModelError};
use crate::backend::GptBackend;
use crate::config::ModelConfig;

/// Standard deviation of the initial weights (Radford et al. 2019).
pub(super) const INITIAL_DEVIATION: f64 = 0.02;

/// Which positions [`Gpt::predict`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    All,
    Last,
}

/// A decoder of the GPT-2 kind.
#[derive(Module, Debug)]
pub struct Gpt<B: Backend> {
    /// Labels the model wherever it is reported.
    pub name: String,
    /// `[V, D]`
    pub token_embedding: Param<Tensor<B, 2>>,
    /// `[context_length, D]`
    pub position_embedding: Param<Tensor<B, 2>>,
    pub blocks: Vec<Block<B>>,
    pub final_norm: LayerNorm<B>,
    /// Absent where the head shares the token embedding's weights.
    pub head: Option<Linear<B>>,
    dropout: f64,
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
        let (d_model, deviation) = (config.d_model, INITIAL_DEVIATION);
        let init = &mut initializer;
        Self {
            name: name.into(),
            token_embedding: init.normal([vocab_size, d_model], deviation, device),
            position_embedding: init.normal([config.context_length, d_model], deviation, device),
            blocks: (0..config.n_layers).map(|_| Block::new(config, init, device)).collect(),
            final_norm: LayerNorm::new(d_model, config.bias, config.norm_epsilon, device),
            head: (!config.tied_head)
                .then(|| Linear::new([d_model, vocab_size], false, deviation, init, device)),
            dropout: config.dropout,
        }
    }

    /// The longest sequence the model can see.
    pub fn context_length(&self) -> usize {
        self.position_embedding.dims()[0]
    }

    pub fn vocab_size(&self) -> usize {
        self.token_embedding.dims()[0]
    }

    /// A cache for a new sequence.
    pub fn new_cache(&self) -> Cache<B> {
        Cache::new(self.blocks.len())
    }
}

impl<B: GptBackend> Gpt<B> {
    /// Next-token logits.
    ///
    /// # Shapes
    /// - `tokens` `[B, T]`, each in `0..vocab_size`, `T` at most the context length ->
    ///   logits `[B, T, V]`
    pub fn forward(&self, tokens: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        self.logits(self.hidden(tokens, None))
    }

    /// Next-token logits at all positions or at the last one only.
    ///
    /// # Shapes
    /// - `tokens` `[B, T]` -> `[B, T, V]` or `[B, 1, V]`
    pub fn predict(&self, tokens: Tensor<B, 2, Int>, positions: Positions) -> Tensor<B, 3> {
        let hidden = self.hidden(tokens, None);
        match positions {
            Positions::All => self.logits(hidden),
            Positions::Last => self.logits(last(hidden)),
        }
    }

    /// Next-token logits after the last of the new tokens, which join those in the cache.
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
        cache: &mut Cache<B>,
    ) -> Result<Tensor<B, 2>, ModelError> {
        let (seen, new) = (cache.len(), tokens.dims()[1]);
        let context_length = self.context_length();
        if seen + new > context_length {
            return Err(ModelError::ContextOverflow { seen, new, context_length });
        }
        let hidden = self.hidden(tokens, Some(cache));
        Ok(self.logits(last(hidden)).squeeze_dim(1))
    }

    /// The residual stream after the last layer, normalised: `[B, T]` -> `[B, T, D]`.
    fn hidden(&self, tokens: Tensor<B, 2, Int>, mut cache: Option<&mut Cache<B>>) -> Tensor<B, 3> {
        let t = tokens.dims()[1];
        let start = cache.as_ref().map_or(0, |cache| cache.len());
        let positions = self.position_embedding.val().narrow(0, start, t); // [T, D]
        let embedded = B::embed(self.token_embedding.val(), tokens) + positions.unsqueeze();
        let mut stream = B::dropout(embedded, self.dropout); // [B, T, D]
        for (layer, block) in self.blocks.iter().enumerate() {
            let cache = cache.as_mut().map(|cache| &mut cache.layers[layer]);
            stream = block.forward(stream, cache);
        }
        self.final_norm.forward(stream)
    }

    /// `[B, T, D]` -> `[B, T, V]`
    fn logits(&self, hidden: Tensor<B, 3>) -> Tensor<B, 3> {
        match &self.head {
            Some(head) => head.forward(hidden),
            None => B::dense(hidden, self.token_embedding.val().transpose(), None),
        }
    }
}

/// `[B, T, D]` -> `[B, 1, D]`
fn last<B: Backend>(hidden: Tensor<B, 3>) -> Tensor<B, 3> {
    let t = hidden.dims()[1];
    hidden.narrow(1, t - 1, 1)
}
