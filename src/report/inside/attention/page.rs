//! T queries, S keys, K head width, D model width, H heads, G key/value heads

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::{AttentionLayer, HeadSteps};
use crate::config::ModelConfig;
use crate::report::inside::passage::Passage;
use crate::report::page::page;

const BODY: &str = include_str!("body.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// Numbers that a browser opens without complaint, in bytes.
const MOST: usize = 48 << 20;

#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error(
        "attention of {layers} layers to {tokens} tokens is {mib} MiB of numbers, more than a page can have; shorten the text, or choose layers by --layer"
    )]
    TooLarge { layers: usize, tokens: usize, mib: usize },
    #[error("the page cannot be written: {0}")]
    Json(#[from] serde_json::Error),
}

/// The bytes of the numbers that [`attention`](super::attention) would find, known before it does:
/// of a long text they are more than there is memory for.
///
/// # Errors
/// [`PageError::TooLarge`]
pub fn attention_size(
    model: &ModelConfig,
    passage: &Passage,
    layers: &[usize],
) -> Result<usize, PageError> {
    let is_asked = |layer: &usize| layers.is_empty() || layers.contains(layer);
    let asked = |of: usize| (0..of).filter(is_asked).count();
    let (t, own) = (passage.tokens.len(), asked(model.n_layers));
    // How many layers, and the queries and keys of each.
    let mut all = vec![(own, t, t)];
    if let Some(source) = &passage.source {
        let s = source.len();
        all.extend([(asked(model.n_encoder_layers()), s, s), (own, t, s)]);
    }
    let heads = (model.n_heads, model.n_kv_heads(), model.head_dim());
    let numbers = all.iter().map(|(layers, t, s)| layers * numbers(*t, *s, heads, model.d_model));
    check_size(numbers.sum(), all.iter().map(|(layers, ..)| layers).sum(), t)
}

/// Numbers of a layer, as [`parts`] are: of `(H, G, K)` heads, key heads, and width.
fn numbers(t: usize, s: usize, (h, g, k): (usize, usize, usize), d: usize) -> usize {
    2 * g * s * k + h * (2 * t * k + 3 * t * s + t * d) + d + t * d
}

fn check_size(numbers: usize, layers: usize, tokens: usize) -> Result<usize, PageError> {
    let bytes = numbers * size_of::<f32>();
    match bytes > MOST {
        true => Err(PageError::TooLarge { layers, tokens, mib: bytes >> 20 }),
        false => Ok(bytes),
    }
}

/// A page on which a person follows a token through every step of every head. It holds all its
/// numbers, and asks nobody for anything.
///
/// `tokens` are the texts of those that look, `source` of those that a source has, which look in a
/// translator's encoder, `place` the one that is followed first.
///
/// # Errors
/// [`PageError::TooLarge`], and numbers that JSON cannot have.
pub fn attention_page(
    title: &str,
    layers: &[AttentionLayer],
    tokens: &[String],
    source: &[String],
    place: usize,
) -> Result<String, PageError> {
    let count: usize = layers.iter().flat_map(parts).map(<[f32]>::len).sum();
    let mut bytes = Vec::with_capacity(check_size(count, layers.len(), tokens.len())?);
    for part in layers.iter().flat_map(parts) {
        part.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    }
    let about = |layer: &AttentionLayer| {
        json!({
            "path": layer.path, "layer": layer.layer, "cross": layer.is_cross,
            "ofSource": layer.is_of_source,
            "queries": layer.queries, "keys": layer.keys, "headDim": layer.head_dim,
            "width": layer.bias.len(), "heads": layer.heads.len(), "keyHeads": layer.key_heads,
            "causal": layer.causal, "window": layer.window, "scale": layer.scale,
            "softCap": layer.soft_cap,
            "keyHead": layer.heads.iter().map(|head| head.key_head).collect::<Vec<_>>(),
            "slopes": layer.heads.iter().map(|head| head.slope).collect::<Vec<_>>(),
            "differences": layer.heads.iter().map(|head| head.difference).collect::<Vec<_>>(),
        })
    };
    let data = json!({
        "title": title, "tokens": tokens, "source": source, "place": place,
        "layers": layers.iter().map(about).collect::<Vec<_>>(),
        "numbers": BASE64_STANDARD.encode(bytes),
    });
    let title = format!("{title}: attention");
    Ok(page(&title, &[STYLE], BODY, &data, &[SCRIPT])?)
}

/// All numbers of a layer, in the order in which the page reads them.
fn parts(layer: &AttentionLayer) -> impl Iterator<Item = &[f32]> {
    let shared = (0..layer.key_heads)
        .filter_map(|number| layer.heads.iter().find(|head| head.key_head == number));
    let shared = shared.flat_map(|head| [&head.key[..], &head.value]);
    let own = layer.heads.iter().flat_map(|head: &HeadSteps| {
        [
            &head.query[..],
            &head.products,
            &head.scores,
            &head.weights,
            &head.attended,
            &head.contribution,
        ]
    });
    shared.chain(own).chain([&layer.bias[..], &layer.output])
}
