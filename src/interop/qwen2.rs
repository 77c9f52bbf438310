//! Qwen 2 and 2.5 (`Qwen2ForCausalLM`): Llama with biases on queries, keys and values, and windows
//! that start at some layer, if at all.

use serde::Deserialize;
use serde_json::Value;

use super::llama::{self, LlamaConfig};
use super::settings::{full_layers, set_windows};
use super::{Family, InteropError};
use crate::config::ModelConfig;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    read: |settings| {
        let config = QwenConfig::deserialize(settings)?;
        config.llama.require_key_value_heads()?;
        let mut model = config.model_config()?;
        model.attention.qkv_bias = Some(true);
        model.attention.output_bias = Some(false);
        Ok(model)
    },
    write: Some(|config| Value::Object(write(config))),
    ..llama::FAMILY
};

/// Of Qwen 2 and 3.
#[derive(Debug, Deserialize)]
pub(super) struct QwenConfig {
    #[serde(flatten)]
    pub(super) llama: LlamaConfig,
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default = "window")]
    sliding_window: Option<usize>,
    #[serde(default = "max_window_layers")]
    max_window_layers: usize,
    layer_types: Option<Vec<String>>,
}

fn window() -> Option<usize> {
    Some(4096)
}

fn max_window_layers() -> usize {
    28
}

impl QwenConfig {
    pub(super) fn model_config(&self) -> Result<ModelConfig, InteropError> {
        let n_layers = self.llama.num_hidden_layers;
        let mut config = self.llama.model_config("hidden_act", &self.llama.hidden_act)?;
        let is_full = match &self.layer_types {
            Some(types) => full_layers(types, n_layers)?,
            // Despite its name, it is the number of layers without a window.
            None => (0..n_layers).map(|layer| layer < self.max_window_layers).collect(),
        };
        let window = self.sliding_window.filter(|_| self.use_sliding_window);
        set_windows(&mut config, window, &is_full)?;
        Ok(config)
    }
}

pub(super) fn write(config: &ModelConfig) -> serde_json::Map<String, Value> {
    let mut settings = llama::write(config);
    let window = config.attention.window;
    settings.insert("use_sliding_window".into(), window.is_some().into());
    settings.insert("sliding_window".into(), window.map_or(Value::Null, Value::from));
    let kinds = (0..config.n_layers).map(|layer| match config.window(layer) {
        Some(_) => "sliding_attention",
        None => "full_attention",
    });
    settings.insert("layer_types".into(), kinds.collect());
    settings
}
