//! B batch, T new positions, S all positions, H heads, K head width, D model width

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{Initializer, LayerCache, Linear};
use crate::backend::{AttentionOptions, GptBackend};
use crate::config::ModelConfig;

/// Multi-head causal self-attention (Vaswani et al. 2017), in training and in cached decoding.
#[derive(Module, Debug)]
pub struct CausalAttention<B: Backend> {
    /// Queries, keys and values of all heads in one projection, `[D, 3 D]`.
    pub qkv: Linear<B>,
    pub output: Linear<B>,
    n_heads: usize,
    dropout: f64,
}

impl<B: Backend> CausalAttention<B> {
    pub fn new(
        config: &ModelConfig,
        residual_deviation: f64,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        let (d_model, bias) = (config.d_model, config.bias);
        let deviation = super::gpt::INITIAL_DEVIATION;
        Self {
            qkv: Linear::new([d_model, 3 * d_model], bias, deviation, initializer, device),
            output: Linear::new([d_model, d_model], bias, residual_deviation, initializer, device),
            n_heads: config.n_heads,
            dropout: config.dropout,
        }
    }
}

impl<B: GptBackend> CausalAttention<B> {
    /// Attends from the new positions to themselves and to those in the cache, which grows.
    ///
    /// # Shapes
    /// - `input` `[B, T, D]` -> `[B, T, D]`
    pub fn forward(&self, input: Tensor<B, 3>, cache: Option<&mut LayerCache<B>>) -> Tensor<B, 3> {
        let [b, t, d] = input.dims();
        let (h, k) = (self.n_heads, d / self.n_heads);

        let joined = self.qkv.forward(input).reshape([b, t, 3 * h, k]);
        let heads = joined.swap_dims(1, 2); // [B, 3 H, T, K]
        let part = |first: usize| heads.clone().narrow(1, first * h, h); // [B, H, T, K]
        let (query, key, value) = (part(0), part(1), part(2));
        let (key, value) = match cache {
            Some(cache) => cache.extend(key, value), // [B, H, S, K]
            None => (key, value),
        };
        let options = AttentionOptions { scale: (k as f64).powf(-0.5), dropout: self.dropout };
        let attended = B::causal_attention(query, key, value, options); // [B, H, T, K]
        let joined = attended.swap_dims(1, 2).reshape([b, t, d]);
        B::dropout(self.output.forward(joined), self.dropout)
    }
}
