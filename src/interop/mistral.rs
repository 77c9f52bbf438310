//! Mistral (`MistralForCausalLM`): Llama with a window.

use serde::Deserialize;
use serde_json::Value;

use super::llama::{self, LlamaConfig};
use super::{Family, InteropError};
use crate::config::ModelConfig;

pub(super) const FAMILY: Family = Family {
    model_type: "mistral",
    class: "MistralForCausalLM",
    read: |settings| {
        let config = MistralConfig::deserialize(settings)?;
        config.llama.require_key_value_heads()?;
        config.model_config()
    },
    write: Some(|config| {
        let mut settings = llama::write(config);
        let window = config.attention.window.map_or(Value::Null, Value::from);
        settings.insert("sliding_window".into(), window);
        Value::Object(settings)
    }),
    ..llama::FAMILY
};

#[derive(Debug, Deserialize)]
struct MistralConfig {
    #[serde(flatten)]
    llama: LlamaConfig,
    /// Missing is not the same as none.
    #[serde(default = "window")]
    sliding_window: Option<usize>,
}

fn window() -> Option<usize> {
    Some(4096)
}

impl MistralConfig {
    fn model_config(&self) -> Result<ModelConfig, InteropError> {
        let mut config = self.llama.model_config("hidden_act", &self.llama.hidden_act)?;
        config.attention.window = self.sliding_window;
        Ok(config)
    }
}
