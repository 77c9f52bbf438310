//! GPT-NeoX and Pythia (`GPTNeoXForCausalLM`): parallel sublayers, partly rotated heads, and
//! queries, keys and values that lie head by head in one projection.

use serde::Deserialize;

use super::layout::{Names, Theirs, WEIGHT_AND_BIAS};
use super::settings::{RotarySettings, activation};
use super::{Family, InteropError};
use crate::config::ModelConfig;
use crate::config::NormConfig;
use crate::config::Residual;

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_neox",
    class: "GPTNeoXForCausalLM",
    prefix: "gpt_neox.",
    head: "embed_out.weight",
    names: &NAMES,
    read: |settings| GptNeoXConfig::deserialize(settings)?.model_config(),
    write: None,
};

const NAMES: Names = Names {
    modules: &[
        ("embedding.token", Theirs::Table("gpt_neox.embed_in")),
        ("decoder.blocks.*.attention_norm", Theirs::Norm("gpt_neox.layers.*.input_layernorm")),
        (
            "decoder.blocks.*.attention.qkv",
            Theirs::ByHead("gpt_neox.layers.*.attention.query_key_value"),
        ),
        (
            "decoder.blocks.*.attention.output",
            Theirs::Linear(&["gpt_neox.layers.*.attention.dense"]),
        ),
        (
            "decoder.blocks.*.feed_forward_norm",
            Theirs::Norm("gpt_neox.layers.*.post_attention_layernorm"),
        ),
        (
            "decoder.blocks.*.feed_forward.up",
            Theirs::Linear(&["gpt_neox.layers.*.mlp.dense_h_to_4h"]),
        ),
        (
            "decoder.blocks.*.feed_forward.down",
            Theirs::Linear(&["gpt_neox.layers.*.mlp.dense_4h_to_h"]),
        ),
        ("decoder.final_norm", Theirs::Norm("gpt_neox.final_layer_norm")),
        ("head", Theirs::Linear(&["embed_out"])),
    ],
    base: None,
    norm: WEIGHT_AND_BIAS,
    norm_less_one: false,
};

#[derive(Debug, Deserialize)]
struct GptNeoXConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "epsilon")]
    layer_norm_eps: f64,
    #[serde(default = "yes")]
    use_parallel_residual: bool,
    #[serde(default = "yes")]
    attention_bias: bool,
    #[serde(default)]
    attention_dropout: f64,
    #[serde(default)]
    hidden_dropout: f64,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(flatten)]
    rotary: RotarySettings,
}

fn gelu() -> String {
    "gelu".into()
}

fn epsilon() -> f64 {
    1e-5
}

fn yes() -> bool {
    true
}

/// Where nothing says what share of a head is rotated.
const ROTARY_FRACTION: f64 = 0.25;

impl GptNeoXConfig {
    fn model_config(&self) -> Result<ModelConfig, InteropError> {
        let mut config = ModelConfig::new(
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.max_position_embeddings,
        );
        config.vocab_size = Some(self.vocab_size);
        config.d_ff = Some(self.intermediate_size);
        config.dropout = self.hidden_dropout;
        config.position =
            self.rotary.position(self.max_position_embeddings, Some(ROTARY_FRACTION))?;
        config.norm = NormConfig { epsilon: self.layer_norm_eps, ..NormConfig::default() };
        if self.use_parallel_residual {
            config.residual = Residual::Parallel;
        }
        config.attention.qkv_bias = Some(self.attention_bias);
        config.attention.output_bias = Some(self.attention_bias);
        config.attention.dropout = Some(self.attention_dropout);
        config.feed_forward.activation = activation("hidden_act", &self.hidden_act)?;
        config.tied_head = self.tie_word_embeddings;
        Ok(config)
    }
}
