use serde_json::{Map, Value, json};

use super::ConfigError;
use super::load::merge;

/// Width of the residual stream for each layer.
const WIDTH_PER_LAYER: u64 = 64;
const HEAD_DIM: u64 = 64;
/// The learning rate of GPT-2 small, at its width; it falls with the root of the width.
const REFERENCE: (f64, f64) = (6e-4, 768.0);
/// Tokens to train on for each parameter of the layers (Hoffmann et al. 2022).
const TOKENS_PER_PARAMETER: u64 = 20;
const DEFAULT_CONTEXT_LENGTH: u64 = 1024;
const DEFAULT_BATCH_SIZE: u64 = 16;
const MAX_DEPTH: u64 = 512;

/// Replaces `model.depth` in one document by all that follows from it: a plain modern decoder of
/// that many layers and a recipe for it. What the document says itself is left as it says. Of the
/// model of the `base` that it is going to be laid on, only the context and the vocabulary stay.
///
/// The shape is that of nanochat's dial, width in proportion to depth, with the parts of Qwen 3:
/// rotary positions, RMS norms, also on queries and keys, and SwiGLU.
pub(super) fn expand_depth(document: &mut Value, base: &mut Value) -> Result<(), ConfigError> {
    let model = document.get_mut("model").and_then(Value::as_object_mut);
    let Some(depth) = model.and_then(|model| model.remove("depth")) else {
        return Ok(());
    };
    let layers =
        depth.as_u64().filter(|layers| (1..=MAX_DEPTH).contains(layers)).ok_or_else(|| {
            ConfigError::Range {
                path: "model.depth",
                found: depth.to_string(),
                expected: "a number of layers from 1 to 512",
            }
        })?;
    let explicit = std::mem::replace(document, Value::Object(Map::new()));
    let number = |path: &str, default: u64| {
        let value = explicit.pointer(path).or(base.pointer(path));
        value.and_then(Value::as_u64).filter(|number| *number > 0).unwrap_or(default)
    };
    let d_model = WIDTH_PER_LAYER * layers;
    let learning_rate = REFERENCE.0 * (REFERENCE.1 / d_model as f64).sqrt();
    // Attention has four square matrices, and a gated network of 8/3 the width eight.
    let parameters = 12 * layers * d_model * d_model;
    let context_length = number("/model/context_length", DEFAULT_CONTEXT_LENGTH);
    let batch_size = number("/train/batch_size", DEFAULT_BATCH_SIZE);
    let tokens_per_step =
        batch_size.saturating_mul(number("/train/accumulation", 1)).saturating_mul(context_length);
    let steps = (TOKENS_PER_PARAMETER * parameters / tokens_per_step).max(1);
    let vocab_size = base.pointer("/model/vocab_size").cloned().unwrap_or_default();
    if let Some(base) = base.as_object_mut() {
        base.remove("model");
    }
    *document = json!({
        "model": {
            "d_model": d_model,
            "n_layers": layers,
            "context_length": context_length,
            "vocab_size": vocab_size,
            "n_heads": d_model / HEAD_DIM,
            "bias": false,
            "position": { "kind": "rotary" },
            "norm": { "kind": "rms" },
            "attention": { "qk_norm": { "kind": "rms" } },
            "feed_forward": { "activation": "silu", "gated": true },
        },
        "train": {
            "steps": steps,
            "batch_size": batch_size,
            "schedule": {
                "learning_rate": learning_rate,
                "final_learning_rate": learning_rate / 10.0,
                "warmup_steps": (steps / 50).clamp(1, 2000),
            },
        },
    });
    merge(document, explicit);
    Ok(())
}
