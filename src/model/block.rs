use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{CausalAttention, FeedForward, Initializer, LayerCache, LayerNorm};
use crate::backend::GptBackend;
use crate::config::ModelConfig;

/// One layer: attention, then the feed-forward network, each normalised before and added to the
/// residual stream.
#[derive(Module, Debug)]
pub struct Block<B: Backend> {
    pub attention_norm: LayerNorm<B>,
    pub attention: CausalAttention<B>,
    pub feed_forward_norm: LayerNorm<B>,
    pub feed_forward: FeedForward<B>,
}

impl<B: Backend> Block<B> {
    pub fn new(config: &ModelConfig, initializer: &mut Initializer, device: &B::Device) -> Self {
        let norm = || LayerNorm::new(config.d_model, config.bias, config.norm_epsilon, device);
        // Two branches a layer add to the residual stream; GPT-2 keeps its variance in bounds
        // by shrinking what they start with (Radford et al. 2019, section 2.3).
        let residual_deviation =
            super::gpt::INITIAL_DEVIATION / (2.0 * config.n_layers as f64).sqrt();
        Self {
            attention_norm: norm(),
            attention: CausalAttention::new(config, residual_deviation, initializer, device),
            feed_forward_norm: norm(),
            feed_forward: FeedForward::new(config, residual_deviation, initializer, device),
        }
    }
}

impl<B: GptBackend> Block<B> {
    /// # Shapes
    /// - `input` `[B, T, D]` -> `[B, T, D]`
    pub fn forward(&self, input: Tensor<B, 3>, cache: Option<&mut LayerCache<B>>) -> Tensor<B, 3> {
        let normed = self.attention_norm.forward(input.clone());
        let input = input + self.attention.forward(normed, cache);
        let normed = self.feed_forward_norm.forward(input.clone());
        input + self.feed_forward.forward(normed)
    }
}
