//! Phi 1 to 2 (`PhiForCausalLM`): parallel sublayers behind one norm, partly rotated heads, and a
//! bias on the head.

use serde::Deserialize;

use super::layout::{Names, Theirs, WEIGHT_AND_BIAS};
use super::settings::{RotarySettings, activation};
use super::{Family, InteropError};
use crate::config::ModelConfig;
use crate::config::NormConfig;
use crate::config::Residual;

pub(super) const FAMILY: Family = Family {
    model_type: "phi",
    class: "PhiForCausalLM",
    prefix: "model.",
    head: "lm_head.weight",
    names: &NAMES,
    read: |settings| PhiConfig::deserialize(settings)?.model_config(),
    write: None,
};

const NAMES: Names = Names {
    modules: &[
        ("embedding.token", Theirs::Table("model.embed_tokens")),
        ("decoder.blocks.*.attention_norm", Theirs::Norm("model.layers.*.input_layernorm")),
        (
            "decoder.blocks.*.attention.qkv",
            Theirs::Linear(&[
                "model.layers.*.self_attn.q_proj",
                "model.layers.*.self_attn.k_proj",
                "model.layers.*.self_attn.v_proj",
            ]),
        ),
        (
            "decoder.blocks.*.attention.query_norm",
            Theirs::Norm("model.layers.*.self_attn.q_layernorm"),
        ),
        (
            "decoder.blocks.*.attention.key_norm",
            Theirs::Norm("model.layers.*.self_attn.k_layernorm"),
        ),
        ("decoder.blocks.*.attention.output", Theirs::Linear(&["model.layers.*.self_attn.dense"])),
        ("decoder.blocks.*.feed_forward.up", Theirs::Linear(&["model.layers.*.mlp.fc1"])),
        ("decoder.blocks.*.feed_forward.down", Theirs::Linear(&["model.layers.*.mlp.fc2"])),
        ("decoder.final_norm", Theirs::Norm("model.final_layernorm")),
        ("head", Theirs::Linear(&["lm_head"])),
    ],
    base: None,
    norm: WEIGHT_AND_BIAS,
    norm_less_one: false,
};

#[derive(Debug, Deserialize)]
struct PhiConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "gelu_new")]
    hidden_act: String,
    #[serde(default = "epsilon")]
    layer_norm_eps: f64,
    #[serde(default)]
    qk_layernorm: bool,
    #[serde(default)]
    embd_pdrop: f64,
    #[serde(default)]
    attention_dropout: f64,
    #[serde(default)]
    resid_pdrop: f64,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(flatten)]
    rotary: RotarySettings,
}

fn gelu_new() -> String {
    "gelu_new".into()
}

fn epsilon() -> f64 {
    1e-5
}

/// Where nothing says what share of a head is rotated.
const ROTARY_FRACTION: f64 = 0.5;

impl PhiConfig {
    fn model_config(&self) -> Result<ModelConfig, InteropError> {
        let mut config = ModelConfig::new(
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.max_position_embeddings,
        );
        config.vocab_size = Some(self.vocab_size);
        config.n_kv_heads = self.num_key_value_heads;
        config.d_ff = Some(self.intermediate_size);
        config.dropout = self.resid_pdrop;
        config.embedding_dropout = Some(self.embd_pdrop);
        config.position =
            self.rotary.position(self.max_position_embeddings, Some(ROTARY_FRACTION))?;
        config.norm = NormConfig { epsilon: self.layer_norm_eps, ..NormConfig::default() };
        config.attention.qk_norm = self.qk_layernorm.then_some(config.norm);
        config.residual = Residual::ParallelSharedNorm;
        config.attention.dropout = Some(self.attention_dropout);
        config.feed_forward.activation = activation("hidden_act", &self.hidden_act)?;
        config.tied_head = self.tie_word_embeddings;
        config.head_bias = true;
        Ok(config)
    }
}
