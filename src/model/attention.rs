//! B batch, T new positions, S all positions, H heads, G key/value heads, K head width, D model
//! width

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::pass::{Memory, Pass};
use super::record::{Heads as SeenHeads, Record};
use super::{Initializer, Linear, Norm};
use crate::backend::{AttentionOptions, Dropout, GptBackend, Rotation};
use crate::config::ModelConfig;
use crate::config::PositionConfig;
use crate::config::Precision;

/// Attention of a sequence to itself, in training and in cached decoding.
#[derive(Module, Debug)]
pub struct SelfAttention<B: Backend> {
    /// Queries of all heads, then keys, then values, in one projection: `[D, (H + 2 G) K]`.
    pub qkv: Linear<B>,
    /// On each head's queries, `[K]`.
    pub query_norm: Option<Norm<B>>,
    /// On each head's keys, `[K]`.
    pub key_norm: Option<Norm<B>>,
    /// `[H K, D]`
    pub output: Linear<B>,
    #[module(skip)]
    heads: Heads,
    #[module(skip)]
    causal: bool,
    #[module(skip)]
    window: Option<usize>,
    #[module(skip)]
    alibi: bool,
}

/// Attention of a sequence to an encoder's output (Vaswani et al. 2017, section 3.2.3).
#[derive(Module, Debug)]
pub struct CrossAttention<B: Backend> {
    /// `[D, H K]`
    pub query: Linear<B>,
    /// Keys of all heads, then values: `[D, 2 G K]`.
    pub key_value: Linear<B>,
    pub query_norm: Option<Norm<B>>,
    pub key_norm: Option<Norm<B>>,
    /// `[H K, D]`
    pub output: Linear<B>,
    #[module(skip)]
    heads: Heads,
}

/// What both kinds of attention know of their heads.
#[derive(Debug, Clone, Copy)]
struct Heads {
    queries: usize,
    keys: usize,
    width: usize,
    scale: f64,
    soft_cap: Option<f64>,
    dropout: f64,
    residual_dropout: f64,
    precision: Precision,
}

impl Heads {
    fn new(config: &ModelConfig) -> Self {
        let width = config.head_dim();
        Self {
            queries: config.n_heads,
            keys: config.n_kv_heads(),
            width,
            scale: config.attention.scale.unwrap_or((width as f64).powf(-0.5)),
            soft_cap: config.attention.soft_cap,
            dropout: config.attention_dropout(),
            residual_dropout: config.residual_dropout(),
            precision: Precision::F32,
        }
    }

    fn options<B: Backend>(&self, device: &B::Device) -> AttentionOptions {
        AttentionOptions {
            soft_cap: self.soft_cap,
            dropout: Dropout::draw::<B>(self.dropout, device),
            precision: self.precision,
            ..AttentionOptions::full(self.scale)
        }
    }

    /// `[B, T, n K]` -> `[B, n, T, K]`
    fn split<B: Backend>(&self, joined: Tensor<B, 3>) -> Tensor<B, 4> {
        let [b, t, width] = joined.dims();
        joined.reshape([b, t, width / self.width, self.width]).swap_dims(1, 2)
    }

    /// What all heads together add to the stream: their rows side by side, projected, with dropout.
    ///
    /// # Shapes
    /// - `heads` `[B, H, T, K]` -> `[B, T, D]`
    fn project<B: GptBackend>(
        &self,
        record: Record<B>,
        heads: Tensor<B, 4>,
        output: &Linear<B>,
    ) -> Tensor<B, 3> {
        let [b, h, t, k] = heads.dims();
        let joined = heads.swap_dims(1, 2).reshape([b, t, h * k]);
        let output = record.part("output", joined, |joined| output.forward(joined));
        B::dropout(output, self.residual_dropout)
    }

    fn norm<B: Backend>(&self, config: &ModelConfig, device: &B::Device) -> Option<Norm<B>> {
        config.attention.qk_norm.map(|norm| Norm::new(self.width, &norm, config, device))
    }
}

impl<B: Backend> SelfAttention<B> {
    pub fn new(
        config: &ModelConfig,
        layer: usize,
        causal: bool,
        residual_deviation: f64,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        let heads = Heads::new(config);
        let deviation = super::init::DEVIATION;
        let (d_model, width) = (config.d_model, heads.width);
        let qkv = [d_model, (heads.queries + 2 * heads.keys) * width];
        let output = [heads.queries * width, d_model];
        Self {
            qkv: Linear::new(qkv, config.qkv_bias(), deviation, initializer, device),
            query_norm: heads.norm(config, device),
            key_norm: heads.norm(config, device),
            output: Linear::new(
                output,
                config.output_bias(),
                residual_deviation,
                initializer,
                device,
            ),
            heads,
            causal,
            window: config.window(layer),
            alibi: matches!(config.position, PositionConfig::Alibi {}),
        }
    }

    /// Of all matrix products.
    pub(super) fn set_precision(&mut self, precision: Precision) {
        self.qkv.set_precision(precision);
        self.output.set_precision(precision);
        self.heads.precision = precision;
    }
}

impl<B: GptBackend> SelfAttention<B> {
    /// Attends from the new positions to themselves and to those in the cache, which grows.
    ///
    /// # Shapes
    /// - `input` `[B, T, D]` -> `[B, T, D]`
    pub fn forward(&self, input: Tensor<B, 3>, layer: usize, pass: &mut Pass<B>) -> Tensor<B, 3> {
        let (h, g) = (self.heads.queries, self.heads.keys);
        let record = pass.record;
        // Without norms between, queries and keys are turned at once, where they lie.
        let stays = self.query_norm.is_none() && self.key_norm.is_none();
        let is_joined = stays && pass.cache.is_none();
        // What the products of attention and the one behind it round anyway, for kernels to write it so.
        // What is observed is in f32.
        let precision = self.heads.precision;
        let rounds = is_joined
            && B::has_kernels_in(precision)
            && self.output.input_precision() == precision
            && !record.is_observed();
        let precision = if rounds { precision } else { Precision::F32 };
        let joined = record.part("qkv", input, |input| match pass.rotation {
            None if precision == self.heads.precision => self.qkv.rounded(input),
            _ => self.qkv.forward(input),
        });
        let joined = self.heads.split(joined); // [B, H + 2 G, T, K]
        let options = AttentionOptions {
            causal: self.causal,
            window: self.window,
            alibi: self.alibi,
            ranges: pass.ranges.clone(),
            ..self.heads.options::<B>(&pass.device)
        };
        let by_row = pass.cache.as_ref().is_some_and(|cache| cache.is_ragged());
        let rotation = pass.rotation.as_ref().map(|rotation| (rotation, by_row));
        let (at_once, apart) = if stays { (rotation, None) } else { (None, rotation) };
        let joined = turn(record, "rotation", joined, h + g, at_once, precision);
        if is_joined {
            let seen = record.is_observed().then(|| B::separate(joined.clone(), [h, g]));
            let attend = |joined| B::attend_joined(joined, [h, g], &options);
            let attended = show(record, seen, &options, &self.output, joined, attend);
            return self.heads.project(record, attended, &self.output); // [B, H, T, K] -> [B, T, D]
        }
        let [query, key, value] = B::separate(joined, [h, g]); // [B, H, T, K], [B, G, T, K] twice
        let query = place(record, QUERY_PARTS, query, &self.query_norm, apart);
        let key = place(record, KEY_PARTS, key, &self.key_norm, apart);
        let attended = match &mut pass.cache {
            Some(cache) => cache.attend(layer, query, [key, value], &options),
            None => attend(record, [query, key, value], &options, &self.output),
        }; // [B, H, T, K]
        self.heads.project(record, attended, &self.output)
    }
}

/// What the norm and the rotation of a kind of heads are called.
type PlacingParts = [&'static str; 2];

const QUERY_PARTS: PlacingParts = ["query_norm", "query_rotation"];
const KEY_PARTS: PlacingParts = ["key_norm", "key_rotation"];

/// `[B, H, T, K]` and twice `[B, G, S, K]` -> `[B, H, T, K]`
fn attend<B: GptBackend>(
    record: Record<B>,
    [query, key, value]: [Tensor<B, 4>; 3],
    options: &AttentionOptions,
    projection: &Linear<B>,
) -> Tensor<B, 4> {
    let seen = record.is_observed().then(|| [&query, &key, &value].map(Tensor::clone));
    let attend = |query| B::attend(query, key, value, options);
    show(record, seen, options, projection, query, attend)
}

/// Attends, before the eyes of whoever looks on; `seen` are queries, keys and values then.
fn show<B: GptBackend>(
    record: Record<B>,
    seen: Option<[Tensor<B, 4>; 3]>,
    options: &AttentionOptions,
    projection: &Linear<B>,
    input: Tensor<B, 4>,
    attend: impl FnOnce(Tensor<B, 4>) -> Tensor<B, 4>,
) -> Tensor<B, 4> {
    let attended = record.part("attend", input, attend);
    if let Some([query, key, value]) = seen {
        let attended = attended.clone();
        record.attention(SeenHeads { query, key, value, options, attended, projection });
    }
    attended
}

/// Normalises heads and turns them by their positions, as far as the model does either.
fn place<B: GptBackend>(
    record: Record<B>,
    [norm_part, rotation_part]: PlacingParts,
    heads: Tensor<B, 4>,
    norm: &Option<Norm<B>>,
    rotation: Option<(&Rotation<B>, bool)>,
) -> Tensor<B, 4> {
    let heads = match norm {
        Some(norm) => record.part(norm_part, heads, |heads| norm.forward(heads)),
        None => heads,
    };
    let count = heads.dims()[1];
    turn(record, rotation_part, heads, count, rotation, Precision::F32)
}

/// Turns the first heads by their positions, where there is a rotation: those of the columns, or by
/// row, where that is said. What is turned is rounded to a precision.
fn turn<B: GptBackend>(
    record: Record<B>,
    part: &'static str,
    heads: Tensor<B, 4>,
    count: usize,
    rotation: Option<(&Rotation<B>, bool)>,
    precision: Precision,
) -> Tensor<B, 4> {
    match rotation {
        Some((rotation, false)) => {
            record.part(part, heads, |heads| B::rotate(heads, count, rotation, precision))
        }
        Some((rotation, true)) => {
            B::rotate(heads.swap_dims(0, 2), count, rotation, precision).swap_dims(0, 2)
        }
        None => heads,
    }
}

impl<B: Backend> CrossAttention<B> {
    pub fn new(
        config: &ModelConfig,
        residual_deviation: f64,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        let heads = Heads::new(config);
        let deviation = super::init::DEVIATION;
        let (d_model, bias) = (config.d_model, config.qkv_bias());
        let [query, key_value] = [heads.queries * heads.width, 2 * heads.keys * heads.width];
        Self {
            query: Linear::new([d_model, query], bias, deviation, initializer, device),
            key_value: Linear::new([d_model, key_value], bias, deviation, initializer, device),
            query_norm: heads.norm(config, device),
            key_norm: heads.norm(config, device),
            output: Linear::new(
                [query, d_model],
                config.output_bias(),
                residual_deviation,
                initializer,
                device,
            ),
            heads,
        }
    }

    /// Of all matrix products.
    pub(super) fn set_precision(&mut self, precision: Precision) {
        self.query.set_precision(precision);
        self.key_value.set_precision(precision);
        self.output.set_precision(precision);
        self.heads.precision = precision;
    }
}

impl<B: GptBackend> CrossAttention<B> {
    /// Attends from the new positions to the source that the pass or its cache carries.
    ///
    /// # Shapes
    /// - `input` `[B, T, D]` -> `[B, T, D]`
    pub(super) fn forward(
        &self,
        input: Tensor<B, 3>,
        layer: usize,
        pass: &Pass<B>,
    ) -> Tensor<B, 3> {
        let record = pass.record;
        let query = record.part("query", input, |input| self.query.forward(input));
        let query = self.heads.split(query);
        let query = place(record, QUERY_PARTS, query, &self.query_norm, None); // [B, H, T, K]
        let options = self.heads.options::<B>(&pass.device);
        let attended = match &pass.cache {
            Some(cache) => cache.attend_source(layer, query, options),
            None => {
                let memory = pass.memory.expect("a decoder beside an encoder is given a source");
                let [key, value] = self.source(memory, record);
                let options = AttentionOptions { ranges: Some(memory.ranges.clone()), ..options };
                attend(record, [query, key, value], &options, &self.output)
            }
        };
        self.heads.project(record, attended, &self.output)
    }

    /// Keys and values of the source, each `[B, G, S, K]`.
    pub(super) fn source(&self, memory: &Memory<B>, record: Record<B>) -> [Tensor<B, 4>; 2] {
        let joined = record
            .part("key_value", memory.hidden.clone(), |source| self.key_value.forward(source));
        let joined = self.heads.split(joined);
        let g = self.heads.keys;
        let key = joined.clone().narrow(1, 0, g);
        let key = place(record, KEY_PARTS, key, &self.key_norm, None);
        [key, joined.narrow(1, g, g)]
    }
}
