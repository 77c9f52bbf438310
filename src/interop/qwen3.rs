//! Qwen 3 (`Qwen3ForCausalLM`): Llama with norms on queries and keys.

use serde::Deserialize;
use serde_json::Value;

use super::qwen2::{QwenConfig, write};
use super::{Family, llama};

/// Where `head_dim` is missing.
const HEAD_DIM: usize = 128;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    read: |settings| {
        let config = QwenConfig::deserialize(settings)?;
        config.llama.require_key_value_heads()?;
        let mut model = config.model_config()?;
        model.head_dim = Some(config.llama.head_dim.unwrap_or(HEAD_DIM));
        model.attention.qk_norm = Some(config.llama.norm());
        Ok(model)
    },
    write: Some(|config| {
        let mut settings = write(config);
        settings
            .insert("attention_bias".into(), (config.qkv_bias() || config.output_bias()).into());
        Value::Object(settings)
    }),
    ..llama::FAMILY
};
