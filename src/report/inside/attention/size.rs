//! T queries, S keys, K head width, D model width, H heads, G key/value heads

use crate::config::ModelConfig;
use crate::report::inside::passage::Passage;

/// What has to have room for the numbers of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A page, which a browser is to open without complaint.
    Page,
    /// A machine, for as long as it computes and prints them.
    Memory,
}

impl Holder {
    /// Bytes of numbers, at most.
    fn most(self) -> usize {
        match self {
            Self::Page => 48 << 20,
            Self::Memory => 1 << 30,
        }
    }

    fn limit(self) -> &'static str {
        match self {
            Self::Page => "a page can have",
            Self::Memory => "are computed at a time",
        }
    }
}

/// Attention of which there is too much.
#[derive(Debug, thiserror::Error)]
#[error(
    "attention of {layers} layers to {tokens} tokens is {mib} MiB of numbers, more than {}; shorten the text, or choose layers by --layer",
    .holder.limit()
)]
pub struct TooLarge {
    pub layers: usize,
    pub tokens: usize,
    pub mib: usize,
    pub holder: Holder,
}

/// The bytes of the numbers that [`attention`](super::attention) would find, known before it does:
/// of a long text they are more than there is room for.
///
/// # Errors
/// [`TooLarge`]
pub fn attention_size(
    model: &ModelConfig,
    passage: &Passage,
    layers: &[usize],
    holder: Holder,
) -> Result<usize, TooLarge> {
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
    check_size(numbers.sum(), all.iter().map(|(layers, ..)| layers).sum(), t, holder)
}

/// Numbers of a layer, as a page has them: of `(H, G, K)` heads, key heads, and width.
fn numbers(t: usize, s: usize, (h, g, k): (usize, usize, usize), d: usize) -> usize {
    2 * g * s * k + h * (2 * t * k + 3 * t * s + t * d) + d + t * d
}

/// The bytes of so many numbers.
pub(super) fn check_size(
    numbers: usize,
    layers: usize,
    tokens: usize,
    holder: Holder,
) -> Result<usize, TooLarge> {
    let bytes = numbers * size_of::<f32>();
    match bytes > holder.most() {
        true => Err(TooLarge { layers, tokens, mib: bytes >> 20, holder }),
        false => Ok(bytes),
    }
}
