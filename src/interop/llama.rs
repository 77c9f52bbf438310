//! Llama 1 to 3 (`LlamaForCausalLM`), and what Mistral, Qwen and Gemma share with it.

use serde::Deserialize;
use serde::de::Error;
use serde_json::{Map, Value, json};

use super::layout::{Names, Theirs, WEIGHT_AND_BIAS};
use super::settings::{RotarySettings, activation, activation_name, write_rotary};
use super::{Family, InteropError};
use crate::config::ModelConfig;
use crate::config::NormConfig;
use crate::config::NormKind;

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    class: "LlamaForCausalLM",
    prefix: "model.",
    head: "lm_head.weight",
    names: &NAMES,
    read: |settings| LlamaConfig::deserialize(settings)?.llama(),
    write: Some(|config| {
        let mut settings = write(config);
        settings
            .insert("attention_bias".into(), (config.qkv_bias() || config.output_bias()).into());
        settings.insert("mlp_bias".into(), config.feed_forward_bias().into());
        Value::Object(settings)
    }),
};

pub(super) const NAMES: Names = Names {
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
        // Qwen 3
        ("decoder.blocks.*.attention.query_norm", Theirs::Norm("model.layers.*.self_attn.q_norm")),
        ("decoder.blocks.*.attention.key_norm", Theirs::Norm("model.layers.*.self_attn.k_norm")),
        ("decoder.blocks.*.attention.output", Theirs::Linear(&["model.layers.*.self_attn.o_proj"])),
        (
            "decoder.blocks.*.feed_forward_norm",
            Theirs::Norm("model.layers.*.post_attention_layernorm"),
        ),
        ("decoder.blocks.*.feed_forward.gate", Theirs::Linear(&["model.layers.*.mlp.gate_proj"])),
        ("decoder.blocks.*.feed_forward.up", Theirs::Linear(&["model.layers.*.mlp.up_proj"])),
        ("decoder.blocks.*.feed_forward.down", Theirs::Linear(&["model.layers.*.mlp.down_proj"])),
        ("decoder.final_norm", Theirs::Norm("model.norm")),
        ("head", Theirs::Linear(&["lm_head"])),
    ],
    base: None,
    norm: WEIGHT_AND_BIAS,
    norm_less_one: false,
};

/// The part of `config.json` that shapes any model of this kind. Sizes must be there; what else
/// is missing is what transformers takes it to be.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct LlamaConfig {
    vocab_size: usize,
    pub(super) hidden_size: usize,
    intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    num_attention_heads: usize,
    pub(super) num_key_value_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    pub(super) max_position_embeddings: usize,
    #[serde(default = "epsilon")]
    pub(super) rms_norm_eps: f64,
    #[serde(default = "silu")]
    pub(super) hidden_act: String,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    attention_dropout: Option<f64>,
    pub(super) tie_word_embeddings: Option<bool>,
    #[serde(flatten)]
    rotary: RotarySettings,
}

fn epsilon() -> f64 {
    1e-6
}

fn silu() -> String {
    "silu".into()
}

impl LlamaConfig {
    fn llama(&self) -> Result<ModelConfig, InteropError> {
        let mut config = self.model_config("hidden_act", &self.hidden_act)?;
        config.feed_forward.bias = Some(self.mlp_bias);
        Ok(config)
    }

    /// Later models than Llama 1, which had no shared heads, always say how many there are.
    pub(super) fn require_key_value_heads(&self) -> Result<(), serde_json::Error> {
        let missing = || serde_json::Error::missing_field("num_key_value_heads");
        self.num_key_value_heads.map(|_| ()).ok_or_else(missing)
    }

    /// What all have in common: RMS norms before the sublayers, rotary positions, gated networks,
    /// and no biases but those of `attention_bias`.
    pub(super) fn model_config(
        &self,
        option: &str,
        activation_name: &str,
    ) -> Result<ModelConfig, InteropError> {
        let mut config = ModelConfig::new(
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.max_position_embeddings,
        );
        config.vocab_size = Some(self.vocab_size);
        config.d_ff = Some(self.intermediate_size);
        config.n_kv_heads = self.num_key_value_heads;
        config.head_dim = self.head_dim;
        config.bias = false;
        config.position = self.rotary.position(self.max_position_embeddings, None)?;
        config.norm = self.norm();
        config.attention.qkv_bias = Some(self.attention_bias);
        config.attention.output_bias = Some(self.attention_bias);
        config.attention.dropout = self.attention_dropout;
        config.feed_forward.activation = activation(option, activation_name)?;
        config.feed_forward.gated = true;
        config.tied_head = self.tie_word_embeddings.unwrap_or(false);
        Ok(config)
    }

    pub(super) fn norm(&self) -> NormConfig {
        NormConfig { kind: NormKind::Rms, affine: true, bias: None, epsilon: self.rms_norm_eps }
    }
}

/// The common part of `config.json`; the other families add what is theirs.
pub(super) fn write(config: &ModelConfig) -> Map<String, Value> {
    let settings = json!({
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff(),
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads(),
        "head_dim": config.head_dim(),
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm.epsilon,
        "hidden_act": activation_name(config.feed_forward.activation),
        "attention_dropout": config.attention_dropout(),
        "tie_word_embeddings": config.tied_head,
    });
    let mut settings = match settings {
        Value::Object(settings) => settings,
        _ => Map::new(),
    };
    write_rotary(&mut settings, &config.position);
    settings
}
