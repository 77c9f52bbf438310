//! What becomes of the product of a query with a key.

use cubecl::prelude::*;
use serde::{Deserialize, Serialize};
use std::f32::consts::LN_2;

use crate::backend::Sight;

/// What is done to scores, beyond their scale, as far as kernels are written for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rules {
    pub causal: bool,
    pub soft_cap: bool,
    pub alibi: bool,
    /// Whether each query has a range of keys that are there for it.
    pub ranges: bool,
}

impl Rules {
    pub fn of(sight: &Sight) -> Self {
        Self {
            causal: sight.causal,
            soft_cap: sight.soft_cap.is_some(),
            alibi: sight.alibi,
            ranges: sight.ranges.is_some(),
        }
    }

    /// Whether scores are not in proportion to products.
    pub fn is_bent(&self) -> bool {
        self.soft_cap || self.alibi
    }
}

/// Whether a query sees a key, by their places among all keys. A window of none is 2³² wide.
#[cube]
pub fn sees(query: u32, key: u32, window: u32, #[comptime] causal: bool) -> bool {
    let distance = select(query > key, query - key, key - query);
    let near = distance < window;
    if comptime!(causal) { near && key <= query } else { near }
}

/// A score from its product, kept within ± the cap where there is one.
#[cube]
pub fn score(product: f32, scale: f32, cap: f32, #[comptime] is_capped: bool) -> f32 {
    let score = product * scale;
    if comptime!(is_capped) { cap * tanh(score / cap) } else { score }
}

/// What a score loses for each place between query and key (see
/// [`alibi_slope`](crate::backend::alibi_slope)); the first so many heads have a sequence of their
/// own.
#[cube]
pub fn alibi_slope(head: u32, sequence: u32) -> f32 {
    let own = f32::cast_from(head + 1) / f32::cast_from(sequence);
    let between =
        f32::cast_from(2 * (head - min(head, sequence)) + 1) / f32::cast_from(2 * sequence);
    // 2^(-8 x)
    f32::exp(-8.0f32 * LN_2 * select(head < sequence, own, between))
}

/// What a score loses whose query and key have these places.
#[cube]
pub fn loss(slope: f32, query: u32, key: u32, #[comptime] has_alibi: bool) -> f32 {
    if comptime!(has_alibi) {
        slope * f32::cast_from(select(query > key, query - key, key - query))
    } else {
        f32::new(0.0)
    }
}

/// Of arguments that some devices have no exponential for, too; what is not a number stays so.
#[cube]
fn tanh(x: f32) -> f32 {
    f32::tanh(select(x > 20.0f32, 20.0f32, select(x < -20.0f32, -20.0f32, x)))
}
