use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::size::check_size;
use super::{AttentionLayer, HeadSteps, Holder, TooLarge};
use crate::report::page::page;

const BODY: &str = include_str!("body.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("the page cannot be written: {0}")]
    Json(#[from] serde_json::Error),
}

/// A page on which a person follows a token through every step of every head. It holds all its
/// numbers, and asks nobody for anything.
///
/// `tokens` are the texts of those that look, `source` of those that a source has, which look in a
/// translator's encoder, `place` the one that is followed first.
///
/// # Errors
/// [`TooLarge`], and numbers that JSON cannot have.
pub fn attention_page(
    title: &str,
    layers: &[AttentionLayer],
    tokens: &[String],
    source: &[String],
    place: usize,
) -> Result<String, PageError> {
    let count: usize = layers.iter().flat_map(parts).map(<[f32]>::len).sum();
    let mut bytes =
        Vec::with_capacity(check_size(count, layers.len(), tokens.len(), Holder::Page)?);
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
