//! Gemma (`GemmaForCausalLM`): Llama with a scaled embedding, a gated GELU, and norms whose
//! factors are stored less one.

use serde::Deserialize;

use super::layout::Names;
use super::llama::{self, LlamaConfig};
use super::{Family, InteropError};
use crate::config::ModelConfig;

/// Where `head_dim` is missing.
const HEAD_DIM: usize = 256;

pub(super) const FAMILY: Family = Family {
    model_type: "gemma",
    class: "GemmaForCausalLM",
    names: &Names { norm_less_one: true, ..llama::NAMES },
    read: |settings| {
        let config = GemmaConfig::deserialize(settings)?;
        config.llama.require_key_value_heads()?;
        config.model_config("hidden_act", config.activation())
    },
    write: None,
    ..llama::FAMILY
};

/// Of Gemma 1 and 2.
#[derive(Debug, Deserialize)]
pub(super) struct GemmaConfig {
    #[serde(flatten)]
    pub(super) llama: LlamaConfig,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
}

impl GemmaConfig {
    /// Google's first files say gelu and mean its tanh approximation, which is what the models
    /// were trained with and transformers 4 computed.
    pub(super) fn activation(&self) -> &str {
        match self.hidden_activation.as_deref().or(self.hidden_act.as_deref()) {
            None | Some("gelu") => "gelu_pytorch_tanh",
            Some(name) => name,
        }
    }

    pub(super) fn model_config(
        &self,
        option: &str,
        activation: &str,
    ) -> Result<ModelConfig, InteropError> {
        let mut config = self.llama.model_config(option, activation)?;
        config.head_dim = Some(self.llama.head_dim.unwrap_or(HEAD_DIM));
        config.tied_head = self.llama.tie_word_embeddings.unwrap_or(true);
        config.scale_embedding = true;
        Ok(config)
    }
}
