//! Gemma 2 (`Gemma2ForCausalLM`): Gemma with norms after the sublayers too, caps on scores and
//! logits, a scale of its own, and a window in every other layer.

use serde::Deserialize;

use super::gemma::{self, GemmaConfig};
use super::layout::{Names, Theirs};
use super::settings::{full_layers, set_windows};
use super::{Family, InteropError, llama};
use crate::config::ModelConfig;
use crate::config::NormPlacement;

pub(super) const FAMILY: Family = Family {
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    names: &NAMES,
    read: |settings| {
        let config = Gemma2Config::deserialize(settings)?;
        config.gemma.llama.require_key_value_heads()?;
        config.model_config()
    },
    ..gemma::FAMILY
};

const NAMES: Names = Names {
    modules: &[
        (
            "decoder.blocks.*.attention_output_norm",
            Theirs::Norm("model.layers.*.post_attention_layernorm"),
        ),
        (
            "decoder.blocks.*.feed_forward_norm",
            Theirs::Norm("model.layers.*.pre_feedforward_layernorm"),
        ),
        (
            "decoder.blocks.*.feed_forward_output_norm",
            Theirs::Norm("model.layers.*.post_feedforward_layernorm"),
        ),
    ],
    base: Some(&llama::NAMES),
    norm_less_one: true,
    ..llama::NAMES
};

#[derive(Debug, Deserialize)]
struct Gemma2Config {
    #[serde(flatten)]
    gemma: GemmaConfig,
    #[serde(default = "scalar")]
    query_pre_attn_scalar: f64,
    #[serde(default = "window")]
    sliding_window: Option<usize>,
    layer_types: Option<Vec<String>>,
    #[serde(default = "attention_cap")]
    attn_logit_softcapping: Option<f64>,
    #[serde(default = "logit_cap")]
    final_logit_softcapping: Option<f64>,
}

fn scalar() -> f64 {
    256.0
}

fn window() -> Option<usize> {
    Some(4096)
}

fn attention_cap() -> Option<f64> {
    Some(50.0)
}

fn logit_cap() -> Option<f64> {
    Some(30.0)
}

impl Gemma2Config {
    fn model_config(&self) -> Result<ModelConfig, InteropError> {
        let n_layers = self.gemma.llama.num_hidden_layers;
        let mut config = self.gemma.model_config("hidden_activation", self.gemma.activation())?;
        config.norm_placement = NormPlacement::Sandwich;
        config.attention.scale = Some(self.query_pre_attn_scalar.powf(-0.5));
        config.attention.soft_cap = self.attn_logit_softcapping;
        config.logit_soft_cap = self.final_logit_softcapping;
        let is_full = match &self.layer_types {
            Some(types) => full_layers(types, n_layers)?,
            None => (0..n_layers).map(|layer| layer % 2 == 1).collect(),
        };
        set_windows(&mut config, self.sliding_window, &is_full)?;
        Ok(config)
    }
}
