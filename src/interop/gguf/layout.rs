//! Which of llama.cpp's architectures a model is, and where its parameters are there.
//!
//! D d_model, H n_heads, G n_kv_heads, K head_dim, F d_ff, V vocab_size, C context_length

use serde::Serialize;
use std::ops::Range;

use super::quantize::{BLOCK, DataType};
use super::writer::{TensorInfo, Value};
use super::{GgufError, Note};
use crate::config::{
    Activation, Architecture, ModelConfig, NormConfig, NormKind, NormPlacement, PositionConfig,
    Residual, RotaryPairing, RotaryScaling,
};
use crate::model::frequencies;

/// One of llama.cpp's architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Gpt2,
    Llama,
    Qwen2,
    Qwen3,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// How llama.cpp pairs a head's numbers to rotate them (`llama_model_rope_type`).
    fn pairing(self) -> RotaryPairing {
        match self {
            Self::Llama => RotaryPairing::Interleaved,
            Self::Gpt2 | Self::Qwen2 | Self::Qwen3 => RotaryPairing::Half,
        }
    }
}

/// A tensor of the file and what it is made of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub info: TensorInfo,
    pub source: Source,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source {
    /// One of our parameters, of this shape: all of it as it is, or some columns as rows.
    Parameter {
        name: String,
        shape: Vec<usize>,
        columns: Option<Columns>,
    },
    /// What a layer without the parameter computes with.
    Constant(f32),
    Values(Vec<f32>),
}

/// Columns of a weight, or numbers of a vector, in the order in which they become rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Columns {
    range: Range<usize>,
    /// The order within each group of so many; a group of one has none.
    order: Vec<usize>,
}

impl Columns {
    fn in_order(range: Range<usize>) -> Self {
        Self { range, order: vec![0] }
    }

    fn source(&self, row: usize) -> usize {
        let width = self.order.len();
        self.range.start + row - row % width + self.order[row % width]
    }

    /// # Shapes
    /// - `values` `[d_input, d_output]` -> `[columns, d_input]`
    /// - `values` `[d_output]` -> `[columns]`
    pub fn transpose(&self, values: &[f32], shape: &[usize]) -> Vec<f32> {
        let d_output = shape[shape.len() - 1];
        let d_input = values.len() / d_output;
        let mut rows = vec![0.0; self.range.len() * d_input];
        // A few columns at a time, so that each line of the cache is read once.
        for (tile, rows) in rows.chunks_mut(16 * d_input).enumerate() {
            for (input, values) in values.chunks_exact(d_output).enumerate() {
                for (row, output) in rows.chunks_exact_mut(d_input).enumerate() {
                    output[input] = values[self.source(16 * tile + row)];
                }
            }
        }
        rows
    }
}

/// A model as one of llama.cpp's.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    config: &'a ModelConfig,
    family: Family,
    vocab_size: usize,
    data_type: DataType,
}

impl<'a> Layout<'a> {
    /// # Errors
    /// [`GgufError::Option`]: the first option that the nearest architecture does not have.
    pub fn new(
        config: &'a ModelConfig,
        vocab_size: usize,
        data_type: DataType,
    ) -> Result<Self, GgufError> {
        let family = match config.position {
            PositionConfig::Learned {} => Family::Gpt2,
            PositionConfig::Rotary { .. } => rotary_family(config),
            _ => {
                return Err(GgufError::Option {
                    layout: "gpt2 or llama layout",
                    option: "model.position",
                    found: json(&config.position),
                    accepted: "learned positions (gpt2) or rotary ones (llama)",
                });
            }
        };
        let layout = Self { config, family, vocab_size, data_type };
        layout.check_common()?;
        match family {
            Family::Gpt2 => layout.check_gpt2()?,
            _ => layout.check_llama()?,
        }
        Ok(layout)
    }

    pub fn architecture(&self) -> &'static str {
        self.family.name()
    }

    pub fn notes(&self) -> Vec<Note> {
        let is_exact = self.config.feed_forward.activation == Activation::Gelu;
        is_exact.then_some(Note::GeluApproximated).into_iter().collect()
    }

    fn check<T: Serialize>(
        &self,
        option: &'static str,
        found: &T,
        is_accepted: bool,
        accepted: &'static str,
    ) -> Result<(), GgufError> {
        if is_accepted {
            return Ok(());
        }
        let layout = match self.family {
            Family::Gpt2 => "gpt2 layout",
            Family::Llama => "llama layout",
            Family::Qwen2 => "qwen2 layout",
            Family::Qwen3 => "qwen3 layout (the one with norms on queries and keys)",
        };
        Err(GgufError::Option { layout, option, found: json(found), accepted })
    }

    fn check_common(&self) -> Result<(), GgufError> {
        let config = self.config;
        let attention = &config.attention;
        let is_decoder = config.architecture == Architecture::Decoder;
        self.check("model.architecture", &config.architecture, is_decoder, "decoder")?;
        let scaled = config.scale_embedding;
        self.check("model.scale_embedding", &scaled, !scaled, "false")?;
        let normed = config.embedding_norm;
        self.check("model.embedding_norm", &normed, !normed, "false")?;
        let placement = config.norm_placement;
        let is_pre = placement == NormPlacement::Pre;
        self.check("model.norm_placement", &placement, is_pre, "pre")?;
        self.check("model.final_norm", &config.final_norm, config.has_final_norm(), "true")?;
        let is_sequential = config.residual == Residual::Sequential;
        self.check("model.residual", &config.residual, is_sequential, "sequential")?;
        let sees_all = |window: Option<usize>| window.is_none_or(|w| w >= config.context_length);
        let is_full = (0..config.n_layers).all(|layer| sees_all(config.window(layer)));
        self.check("model.attention.window", &attention.window, is_full, "none")?;
        let has_cap = attention.soft_cap.is_some();
        self.check("model.attention.soft_cap", &attention.soft_cap, !has_cap, "none")?;
        let usual = 1.0 / (config.head_dim() as f64).sqrt();
        let is_usual = attention.scale.is_none_or(|scale| (scale / usual - 1.0).abs() < 1e-6);
        self.check("model.attention.scale", &attention.scale, is_usual, "1 / sqrt(head_dim)")?;
        let experts = &config.feed_forward.experts;
        self.check("model.feed_forward.experts", experts, experts.is_none(), "none")?;
        self.check("model.head_bias", &config.head_bias, !config.head_bias, "false")?;
        let cap = config.logit_soft_cap;
        self.check("model.logit_soft_cap", &cap, cap.is_none(), "none")
    }

    fn check_gpt2(&self) -> Result<(), GgufError> {
        let config = self.config;
        let is_layer = config.norm.kind == NormKind::Layer;
        self.check("model.norm.kind", &config.norm.kind, is_layer, "layer")?;
        let head_dim = config.head_dim();
        let fills = head_dim * config.n_heads == config.d_model;
        self.check("model.head_dim", &head_dim, fills, "d_model / n_heads")?;
        let qk_norm = &config.attention.qk_norm;
        self.check("model.attention.qk_norm", qk_norm, qk_norm.is_none(), "none")?;
        let feed_forward = &config.feed_forward;
        self.check("model.feed_forward.gated", &feed_forward.gated, !feed_forward.gated, "false")?;
        let activation = feed_forward.activation;
        let is_gelu = matches!(activation, Activation::Gelu | Activation::GeluTanh);
        self.check("model.feed_forward.activation", &activation, is_gelu, "gelu-tanh or gelu")
    }

    fn check_llama(&self) -> Result<(), GgufError> {
        let config = self.config;
        let norm = &config.norm;
        self.check("model.norm.kind", &norm.kind, norm.kind == NormKind::Rms, "rms")?;
        self.check("model.norm.bias", &norm.bias, !config.norm_bias(norm), "false")?;
        let (fraction, scaling) = match config.position {
            PositionConfig::Rotary { fraction, scaling, .. } => (fraction, scaling),
            _ => (0.0, None),
        };
        let turns_all = config.rotary_dim() == config.head_dim();
        self.check("model.position.fraction", &fraction, turns_all, "1")?;
        let feed_forward = &config.feed_forward;
        self.check("model.feed_forward.gated", &feed_forward.gated, feed_forward.gated, "true")?;
        let activation = feed_forward.activation;
        let is_silu = activation == Activation::Silu;
        self.check("model.feed_forward.activation", &activation, is_silu, "silu")?;
        let Some(qk_norm) = &config.attention.qk_norm else {
            return Ok(());
        };
        let fits = qk_norm.kind == NormKind::Rms
            && !config.norm_bias(qk_norm)
            && qk_norm.epsilon == norm.epsilon;
        let accepted = "rms norms without bias and with the epsilon of model.norm";
        self.check("model.attention.qk_norm", qk_norm, fits, accepted)?;
        let bias = config.output_bias();
        self.check("model.attention.output_bias", &bias, !bias, "false")?;
        let bias = config.feed_forward_bias();
        self.check("model.feed_forward.bias", &bias, !bias, "false")?;
        let is_stretched = matches!(scaling, Some(RotaryScaling::Llama3 { .. }));
        self.check("model.position.scaling", &scaling, !is_stretched, "none or linear")
    }

    /// The keys that llama.cpp reads for the architecture.
    pub fn metadata(&self) -> Vec<(String, Value)> {
        let config = self.config;
        let mut keys = vec![
            ("vocab_size", size(self.vocab_size)),
            ("context_length", size(config.context_length)),
            ("embedding_length", size(config.d_model)),
            ("block_count", size(config.n_layers)),
            ("feed_forward_length", size(config.d_ff())),
            ("attention.head_count", size(config.n_heads)),
            ("attention.head_count_kv", size(config.n_kv_heads())),
        ];
        if config.head_dim() != config.d_model / config.n_heads {
            keys.push(("attention.key_length", size(config.head_dim())));
            keys.push(("attention.value_length", size(config.head_dim())));
        }
        let epsilon = match self.family {
            Family::Gpt2 => "attention.layer_norm_epsilon",
            _ => "attention.layer_norm_rms_epsilon",
        };
        keys.push((epsilon, Value::F32(config.norm.epsilon as f32)));
        if let PositionConfig::Rotary { theta, scaling, .. } = config.position {
            keys.push(("rope.dimension_count", size(config.head_dim())));
            keys.push(("rope.freq_base", Value::F32(theta as f32)));
            if let Some(RotaryScaling::Linear { factor }) = scaling {
                keys.push(("rope.scaling.type", "linear".into()));
                keys.push(("rope.scaling.factor", Value::F32(factor as f32)));
            }
        }
        let name = |key| format!("{}.{key}", self.family.name());
        keys.into_iter().map(|(key, value)| (name(key), value)).collect()
    }

    /// All tensors in the order of the forward pass.
    pub fn tensors(&self) -> Vec<Tensor> {
        let config = self.config;
        let (v, d, c) = (self.vocab_size, config.d_model, config.context_length);
        let mut plan = Plan { layout: self, tensors: Vec::new() };
        plan.parameter("token_embd.weight", "embedding.token", vec![v, d], None);
        if self.family == Family::Gpt2 {
            plan.parameter("position_embd.weight", "embedding.position", vec![c, d], None);
        }
        if let Some(factors) = llama3_factors(config) {
            let shape = vec![factors.len()];
            plan.push("rope_freqs.weight", shape, Source::Values(factors));
        }
        for layer in 0..config.n_layers {
            plan.block(layer);
        }
        plan.norm("output_norm", "decoder.final_norm", &config.norm, Columns::in_order(0..d));
        if !config.tied_head {
            plan.linear("output", "head", [d, v], Columns::in_order(0..v), None);
        }
        plan.tensors
    }

    /// The order of a head's numbers in which llama.cpp rotates the pairs that we rotate.
    ///
    /// From `Half` to `Interleaved` this is `LlamaModel.permute` of conversion/llama.py.
    fn head_order(&self) -> Vec<usize> {
        let k = self.config.head_dim();
        let PositionConfig::Rotary { pairing, .. } = self.config.position else {
            return (0..k).collect();
        };
        match (pairing, self.family.pairing()) {
            (RotaryPairing::Half, RotaryPairing::Interleaved) => {
                (0..k).map(|row| row % 2 * (k / 2) + row / 2).collect()
            }
            (RotaryPairing::Interleaved, RotaryPairing::Half) => {
                (0..k).map(|row| row % (k / 2) * 2 + row / (k / 2)).collect()
            }
            _ => (0..k).collect(),
        }
    }
}

/// The tensors of a file as they are listed.
struct Plan<'a> {
    layout: &'a Layout<'a>,
    tensors: Vec<Tensor>,
}

impl Plan<'_> {
    fn block(&mut self, layer: usize) {
        let config = self.layout.config;
        let (d, f) = (config.d_model, config.d_ff());
        let (q, kv) = (config.n_heads * config.head_dim(), config.n_kv_heads() * config.head_dim());
        let theirs = |part: &str| format!("blk.{layer}.{part}");
        let ours = |part: &str| format!("decoder.blocks.{layer}.{part}");
        let all = |width: usize| Columns::in_order(0..width);

        self.norm(&theirs("attn_norm"), &ours("attention_norm"), &config.norm, all(d));
        let (shape, bias) = ([d, q + 2 * kv], Some(config.qkv_bias()));
        let qkv = ours("attention.qkv");
        if self.layout.family == Family::Gpt2 {
            self.linear(&theirs("attn_qkv"), &qkv, shape, all(q + 2 * kv), bias);
        } else {
            let order = self.layout.head_order();
            let rotated = |range| Columns { range, order: order.clone() };
            self.linear(&theirs("attn_q"), &qkv, shape, rotated(0..q), bias);
            self.linear(&theirs("attn_k"), &qkv, shape, rotated(q..q + kv), bias);
            let values = Columns::in_order(q + kv..q + 2 * kv);
            self.linear(&theirs("attn_v"), &qkv, shape, values, bias);
            if let Some(norm) = &config.attention.qk_norm {
                let k = config.head_dim();
                for (name, part) in [("attn_q_norm", "query_norm"), ("attn_k_norm", "key_norm")] {
                    let part = ours(&format!("attention.{part}"));
                    self.norm(&theirs(name), &part, norm, rotated(0..k));
                }
            }
        }
        let bias = Some(config.output_bias());
        self.linear(&theirs("attn_output"), &ours("attention.output"), [q, d], all(d), bias);

        self.norm(&theirs("ffn_norm"), &ours("feed_forward_norm"), &config.norm, all(d));
        let bias = Some(config.feed_forward_bias());
        if config.feed_forward.gated {
            self.linear(&theirs("ffn_gate"), &ours("feed_forward.gate"), [d, f], all(f), bias);
        }
        self.linear(&theirs("ffn_up"), &ours("feed_forward.up"), [d, f], all(f), bias);
        self.linear(&theirs("ffn_down"), &ours("feed_forward.down"), [f, d], all(d), bias);
    }

    /// A linear layer; `bias` is none where llama.cpp's has no place for one.
    ///
    /// # Shapes
    /// - weight `[d_input, d_output]` -> `[columns, d_input]`, bias `[d_output]` -> `[columns]`
    fn linear(
        &mut self,
        theirs: &str,
        ours: &str,
        shape: [usize; 2],
        columns: Columns,
        bias: Option<bool>,
    ) {
        let weight = format!("{theirs}.weight");
        let source = Some(columns.clone());
        self.parameter(&weight, &format!("{ours}.weight"), shape.to_vec(), source);
        if let Some(has_bias) = bias {
            self.bias(theirs, ours, shape[1], columns, has_bias);
        }
    }

    fn norm(&mut self, theirs: &str, ours: &str, norm: &NormConfig, columns: Columns) {
        let (weight, width) = (format!("{theirs}.weight"), columns.range.len());
        if norm.affine {
            self.parameter(&weight, &format!("{ours}.weight"), vec![width], Some(columns.clone()));
        } else {
            self.push(&weight, vec![width], Source::Constant(1.0));
        }
        let has_bias = self.layout.config.norm_bias(norm);
        self.bias(theirs, ours, width, columns, has_bias);
    }

    fn bias(&mut self, theirs: &str, ours: &str, width: usize, columns: Columns, has_bias: bool) {
        let bias = format!("{theirs}.bias");
        if has_bias {
            self.parameter(&bias, &format!("{ours}.bias"), vec![width], Some(columns));
        } else if self.layout.family == Family::Gpt2 {
            // llama.cpp requires all of GPT-2's biases.
            self.push(&bias, vec![columns.range.len()], Source::Constant(0.0));
        }
    }

    fn parameter(&mut self, theirs: &str, ours: &str, shape: Vec<usize>, columns: Option<Columns>) {
        let written = match (&columns, shape.as_slice()) {
            (Some(columns), [d_input, _]) => vec![columns.range.len(), *d_input],
            (Some(columns), _) => vec![columns.range.len()],
            (None, _) => shape.clone(),
        };
        self.push(theirs, written, Source::Parameter { name: ours.into(), shape, columns });
    }

    fn push(&mut self, name: &str, shape: Vec<usize>, source: Source) {
        let wanted = self.layout.data_type;
        let data_type = match shape.as_slice() {
            // llama.cpp adds vectors and positions to activations, which are f32.
            [_] => DataType::F32,
            _ if name == "position_embd.weight" => DataType::F32,
            [.., width] if wanted == DataType::Q8_0 && !width.is_multiple_of(BLOCK) => {
                DataType::F16
            }
            _ => wanted,
        };
        let info = TensorInfo { name: name.into(), shape, data_type };
        self.tensors.push(Tensor { info, source });
    }
}

/// The architecture with rotary positions that has a place for most.
fn rotary_family(config: &ModelConfig) -> Family {
    let fills = config.n_heads * config.head_dim() == config.d_model;
    let has_other_bias = config.output_bias() || config.feed_forward_bias();
    let is_stretched = llama3_factors(config).is_some();
    if config.attention.qk_norm.is_some() {
        Family::Qwen3
    } else if config.qkv_bias() && !has_other_bias && fills && !is_stretched {
        Family::Qwen2
    } else {
        Family::Llama
    }
}

/// What llama.cpp divides each frequency by where Llama 3 stretches them: `[K / 2]`
/// (`generate_extra_tensors` of conversion/llama.py).
fn llama3_factors(config: &ModelConfig) -> Option<Vec<f32>> {
    let PositionConfig::Rotary { theta, scaling, .. } = config.position else {
        return None;
    };
    let scaling @ Some(RotaryScaling::Llama3 { .. }) = scaling else {
        return None;
    };
    let (plain, scaled) = (
        frequencies(theta, config.head_dim(), None),
        frequencies(theta, config.head_dim(), scaling),
    );
    Some(plain.iter().zip(scaled).map(|(plain, scaled)| (plain / scaled) as f32).collect())
}

/// A size of a valid configuration, which is at most 2^30.
fn size(value: usize) -> Value {
    Value::U32(value as u32)
}

/// A value as the configuration has it.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
