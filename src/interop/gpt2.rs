//! GPT-2 (`GPT2LMHeadModel`). Its linear layers keep their weights as `[d_input, d_output]`, as
//! ours do.

use serde::Deserialize;
use serde_json::{Value, json};

use super::layout::{Names, Theirs, WEIGHT_AND_BIAS};
use super::settings::{activation, activation_name};
use super::{Family, InteropError};
use crate::config::ModelConfig;
use crate::config::NormConfig;

pub(super) const FAMILY: Family = Family {
    model_type: "gpt2",
    class: "GPT2LMHeadModel",
    prefix: "transformer.",
    head: "lm_head.weight",
    names: &NAMES,
    read: |settings| Gpt2Config::deserialize(settings)?.model_config(),
    write: Some(write),
};

const NAMES: Names = Names {
    modules: &[
        ("embedding.token", Theirs::Table("transformer.wte")),
        ("embedding.position", Theirs::Table("transformer.wpe")),
        ("decoder.blocks.*.attention_norm", Theirs::Norm("transformer.h.*.ln_1")),
        ("decoder.blocks.*.attention.qkv", Theirs::Transposed("transformer.h.*.attn.c_attn")),
        ("decoder.blocks.*.attention.output", Theirs::Transposed("transformer.h.*.attn.c_proj")),
        ("decoder.blocks.*.feed_forward_norm", Theirs::Norm("transformer.h.*.ln_2")),
        ("decoder.blocks.*.feed_forward.up", Theirs::Transposed("transformer.h.*.mlp.c_fc")),
        ("decoder.blocks.*.feed_forward.down", Theirs::Transposed("transformer.h.*.mlp.c_proj")),
        ("decoder.final_norm", Theirs::Norm("transformer.ln_f")),
        ("head", Theirs::Linear(&["lm_head"])),
    ],
    base: None,
    norm: WEIGHT_AND_BIAS,
    norm_less_one: false,
};

/// The part of `config.json` that shapes the model.
#[derive(Debug, Clone, Deserialize)]
pub struct Gpt2Config {
    pub vocab_size: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_positions: usize,
    n_inner: Option<usize>,
    #[serde(default = "gelu_new")]
    activation_function: String,
    #[serde(default = "epsilon")]
    layer_norm_epsilon: f64,
    #[serde(default)]
    embd_pdrop: f64,
    #[serde(default)]
    attn_pdrop: f64,
    #[serde(default)]
    resid_pdrop: f64,
    #[serde(default = "yes")]
    scale_attn_weights: bool,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
}

fn gelu_new() -> String {
    "gelu_new".into()
}

fn epsilon() -> f64 {
    1e-5
}

fn yes() -> bool {
    true
}

impl Gpt2Config {
    /// The same architecture in our words.
    ///
    /// # Errors
    /// An option that ours has no word for.
    pub fn model_config(&self) -> Result<ModelConfig, InteropError> {
        if self.scale_attn_by_inverse_layer_idx {
            let reason = "the scores of all layers must be scaled alike";
            return Err(InteropError::option("scale_attn_by_inverse_layer_idx", true, reason));
        }
        let mut config = ModelConfig::new(self.n_embd, self.n_layer, self.n_head, self.n_positions);
        config.d_ff = self.n_inner;
        config.vocab_size = Some(self.vocab_size);
        config.dropout = self.resid_pdrop;
        config.embedding_dropout = Some(self.embd_pdrop);
        config.attention.dropout = Some(self.attn_pdrop);
        config.attention.scale = (!self.scale_attn_weights).then_some(1.0);
        config.norm = NormConfig { epsilon: self.layer_norm_epsilon, ..NormConfig::default() };
        config.feed_forward.activation =
            activation("activation_function", &self.activation_function)?;
        config.tied_head = self.tie_word_embeddings;
        Ok(config)
    }
}

fn write(config: &ModelConfig) -> Value {
    json!({
        "vocab_size": config.vocab_size,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_inner": config.d_ff(),
        "activation_function": activation_name(config.feed_forward.activation),
        "layer_norm_epsilon": config.norm.epsilon,
        "embd_pdrop": config.embedding_dropout(),
        "attn_pdrop": config.attention_dropout(),
        "resid_pdrop": config.residual_dropout(),
        "scale_attn_weights": config.attention.scale != Some(1.0),
        "tie_word_embeddings": config.tied_head,
    })
}
