//! What operations are told beside their tensors.
//!
//! B batch, T new positions, S all positions, R numbers of a head that are turned

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;

use super::ops::{products_fit, to_float};
use super::precision::precision_of;
use super::{Dropout, KeyRanges, Sight};
use crate::config::Precision;
use crate::config::RotaryPairing;

/// What attention needs beside its three tensors.
#[derive(Debug, Clone)]
pub struct AttentionOptions {
    /// Factor on the scores before the softmax.
    pub scale: f64,
    /// Keeps the scores within ± this by `cap * tanh(score / cap)`.
    pub soft_cap: Option<f64>,
    /// The queries are those of the last `T` of `S` positions, and each sees those up to its own.
    pub causal: bool,
    /// A query sees keys less than this far away.
    pub window: Option<usize>,
    /// A summand of `-slope * distance`, with the slope of each query head ([`alibi_slope`]).
    ///
    /// [`alibi_slope`]: super::alibi_slope
    pub alibi: bool,
    /// The keys that are there for a query at all; every one where absent.
    pub ranges: Option<KeyRanges>,
    /// Of weights, after the softmax; rows are counted by entry, query head and query.
    pub dropout: Option<Dropout>,
    /// Of the two matrix products.
    pub precision: Precision,
}

impl AttentionOptions {
    /// Every query sees every key.
    pub fn full(scale: f64) -> Self {
        Self {
            scale,
            soft_cap: None,
            causal: false,
            window: None,
            alibi: false,
            ranges: None,
            dropout: None,
            precision: Precision::F32,
        }
    }

    /// Every query sees the keys up to its own position.
    pub fn causal(scale: f64) -> Self {
        Self { causal: true, ..Self::full(scale) }
    }

    /// What kernels need to know, of queries and keys or of heads in one tensor; none where they do not
    /// compute this.
    ///
    /// # Panics
    /// Where the ranges are those of another batch.
    pub(super) fn sight<C: Backend>(&self, inputs: &[&Tensor<C, 4>]) -> Option<Sight> {
        // A window has no middle where queries and keys are not the same.
        let lengths = inputs.iter().map(|input| input.dims()[2]);
        let is_centered =
            self.window.is_none() || self.causal || lengths.is_sorted_by(|a, b| a == b);
        if let Some(ranges) = &self.ranges {
            let [b, _, queries, _] = inputs[0].dims();
            ranges.check(b, [queries, inputs.get(1).map_or(queries, |keys| keys.dims()[2])]);
        }
        let given = precision_of(inputs[0]);
        let takes_given = given == Precision::F32 || given == self.precision;
        let is_known =
            is_centered && takes_given && inputs.iter().all(|input| products_fit(input, inputs[0]));
        is_known.then(|| Sight {
            scale: self.scale as f32,
            soft_cap: self.soft_cap.map(|cap| cap as f32),
            causal: self.causal,
            window: self.window,
            alibi: self.alibi,
            ranges: self.ranges.clone(),
            dropout: self.dropout,
            precision: self.precision,
            given,
        })
    }
}

/// The angles of rotary positions, as cosines and sines.
#[derive(Debug, Clone)]
pub struct Rotation<B: Backend> {
    /// `[T, R / 2]`, of the R numbers of a head that are turned.
    pub cosines: Tensor<B, 2>,
    /// `[T, R / 2]`
    pub sines: Tensor<B, 2>,
    pub pairing: RotaryPairing,
}

impl<B: Backend> Rotation<B> {
    pub(super) fn angles(&self) -> [FloatTensor<B>; 2] {
        [&self.cosines, &self.sines].map(|table| to_float(table.clone()))
    }
}

/// What training minimises beside the likelihood of the targets; nothing where both are zero.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossTerms {
    /// Share of each target that is spread over all tokens (Szegedy et al. 2016, section 7).
    pub label_smoothing: f64,
    /// Weight of `log² Z`, where Z is what a softmax divides by (Chowdhery et al. 2022,
    /// section 5).
    pub z_loss: f64,
}
