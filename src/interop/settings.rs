//! What the `config.json` of several families have in common.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::InteropError;
use crate::config::Activation;
use crate::config::ModelConfig;
use crate::config::PositionConfig;
use crate::config::RotaryPairing;
use crate::config::RotaryScaling;

/// Options of any model whose other values ours cannot follow.
pub(super) fn refuse_foreign(settings: &Value) -> Result<(), InteropError> {
    let is_set = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
    for (option, reason) in [
        ("quantization_config", "its weights are quantized; give the unquantized model"),
        ("use_bidirectional_attention", "a decoder here sees only what came before"),
        ("add_cross_attention", "a decoder here has no encoder to look at"),
        ("is_encoder_decoder", "only decoders can be imported"),
    ] {
        if let Some(value) = settings.get(option).filter(|value| is_set(value)) {
            return Err(InteropError::option(option, value, reason));
        }
    }
    if settings.get("is_causal") == Some(&Value::Bool(false)) {
        let reason = "a decoder here sees only what came before";
        return Err(InteropError::option("is_causal", false, reason));
    }
    Ok(())
}

/// An activation by Hugging Face's name for it.
pub(super) fn activation(option: &str, name: &str) -> Result<Activation, InteropError> {
    match name {
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        "relu2" => Ok(Activation::ReluSquared),
        "silu" | "swish" => Ok(Activation::Silu),
        "mish" => Ok(Activation::Mish),
        _ => {
            let known = "gelu, gelu_new, gelu_pytorch_tanh, relu, relu2, silu and mish are";
            Err(InteropError::option(option, name, known))
        }
    }
}

/// Hugging Face's name for an activation.
pub(super) fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_new",
        Activation::Relu => "relu",
        Activation::ReluSquared => "relu2",
        Activation::Silu => "silu",
        Activation::Mish => "mish",
    }
}

/// Rotary positions as transformers 5 writes them, in `rope_parameters`, or as 4 did.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct RotarySettings {
    rope_parameters: Option<Map<String, Value>>,
    rope_scaling: Option<Map<String, Value>>,
    rope_theta: Option<f64>,
    /// GPT-NeoX's name for the same.
    rotary_emb_base: Option<f64>,
    partial_rotary_factor: Option<f64>,
    /// GPT-NeoX's name for the same.
    rotary_pct: Option<f64>,
}

/// Keys of rotary positions that are read as numbers.
const NUMBERS: [&str; 6] = [
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
];

impl RotarySettings {
    /// `default_fraction`: the share of a head that is turned where nothing says so; `None` for
    /// families that always turn all of it.
    pub(super) fn position(
        &self,
        context_length: usize,
        default_fraction: Option<f64>,
    ) -> Result<PositionConfig, InteropError> {
        // transformers 5 takes the older key where both are there.
        let (option, rope) = match (&self.rope_scaling, &self.rope_parameters) {
            (Some(rope), _) => ("rope_scaling", Some(rope)),
            (None, rope) => ("rope_parameters", rope.as_ref()),
        };
        if let Some((key, value)) = rope.into_iter().flatten().find(|(_, value)| value.is_object())
        {
            let reason = "all layers must have the same rotary positions";
            return Err(InteropError::option(&format!("{option}.{key}"), value, reason));
        }
        let present = rope.into_iter().flatten().filter(|(_, value)| !value.is_null());
        // Not to be taken for one that is absent, which has a default.
        for (key, value) in present {
            if NUMBERS.contains(&key.as_str()) && !value.is_number() {
                let reason = "a number is needed";
                return Err(InteropError::option(&format!("{option}.{key}"), value, reason));
            }
        }
        let number = |key: &str| rope.and_then(|rope| rope.get(key)).and_then(Value::as_f64);
        let required = |key: &str| {
            number(key).ok_or_else(|| {
                let value = rope.and_then(|rope| rope.get(key)).unwrap_or(&Value::Null);
                InteropError::option(&format!("{option}.{key}"), value, "a number is needed")
            })
        };
        let theta =
            number("rope_theta").or(self.rope_theta).or(self.rotary_emb_base).unwrap_or(10_000.0);
        let fraction =
            number("partial_rotary_factor").or(self.partial_rotary_factor).or(self.rotary_pct);
        let fraction = match (default_fraction, fraction) {
            (Some(default), given) => given.unwrap_or(default),
            (None, None) => 1.0,
            (None, Some(1.0)) => 1.0,
            (None, Some(given)) => {
                let reason = "models of this type rotate whole heads";
                return Err(InteropError::option("partial_rotary_factor", given, reason));
            }
        };
        let kind = rope
            .and_then(|rope| rope.get("rope_type").or_else(|| rope.get("type")))
            .filter(|kind| !kind.is_null())
            .map_or(Some("default"), Value::as_str)
            .unwrap_or("(not a text)");
        let scaling = match kind {
            "default" => None,
            "linear" => Some(RotaryScaling::Linear { factor: required("factor")? }),
            "llama3" => Some(RotaryScaling::Llama3 {
                factor: required("factor")?,
                low_frequency_factor: required("low_freq_factor")?,
                high_frequency_factor: required("high_freq_factor")?,
                original_context_length: number("original_max_position_embeddings")
                    .map_or(context_length, |length| length as usize),
            }),
            other => {
                let reason = "default, linear and llama3 are";
                return Err(InteropError::option(&format!("{option}.rope_type"), other, reason));
            }
        };
        Ok(PositionConfig::Rotary { theta, pairing: RotaryPairing::Half, fraction, scaling })
    }
}

/// Rotary positions as transformers 5 writes them and, beside them, as 4 reads them.
pub(super) fn write_rotary(settings: &mut Map<String, Value>, position: &PositionConfig) {
    let PositionConfig::Rotary { theta, scaling, .. } = position else {
        return;
    };
    let mut rope = match scaling {
        None => json!({"rope_type": "default"}),
        Some(RotaryScaling::Linear { factor }) => json!({"rope_type": "linear", "factor": factor}),
        Some(RotaryScaling::Llama3 {
            factor,
            low_frequency_factor,
            high_frequency_factor,
            original_context_length,
        }) => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_frequency_factor,
            "high_freq_factor": high_frequency_factor,
            "original_max_position_embeddings": original_context_length,
        }),
    };
    if scaling.is_some() {
        settings.insert("rope_scaling".into(), rope.clone());
    }
    rope["rope_theta"] = json!(theta);
    settings.insert("rope_theta".into(), json!(theta));
    settings.insert("rope_parameters".into(), rope);
}

/// The window of all layers but every so many-th, if that is what `is_full` says of the layers.
pub(super) fn set_windows(
    config: &mut ModelConfig,
    window: Option<usize>,
    is_full: &[bool],
) -> Result<(), InteropError> {
    let Some(window) = window.filter(|_| is_full.contains(&false)) else {
        return Ok(());
    };
    config.attention.window = Some(window);
    if !is_full.contains(&true) {
        return Ok(());
    }
    let fits = |every: &usize| {
        is_full.iter().zip(1..).all(|(full, number)| *full == (number % every == 0))
    };
    config.attention.full_every = (2..=is_full.len()).find(fits);
    if config.attention.full_every.is_none() {
        let kinds: Vec<_> =
            is_full.iter().map(|full| if *full { "full" } else { "sliding" }).collect();
        let reason = "the full layers among those with a window must be every so many-th";
        return Err(InteropError::option("layer_types", kinds.join(" "), reason));
    }
    Ok(())
}

/// Which of the layers see all positions, from `layer_types`.
pub(super) fn full_layers(types: &[String], n_layers: usize) -> Result<Vec<bool>, InteropError> {
    if types.len() != n_layers {
        let reason = format!("the model has {n_layers} layers");
        return Err(InteropError::option("layer_types", format!("{} types", types.len()), reason));
    }
    let full = |kind: &String| match kind.as_str() {
        "full_attention" => Ok(true),
        "sliding_attention" => Ok(false),
        other => {
            let reason = "full_attention and sliding_attention are";
            Err(InteropError::option("layer_types", other, reason))
        }
    };
    types.iter().map(full).collect()
}
