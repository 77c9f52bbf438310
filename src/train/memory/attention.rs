//! Attention as autodiff records it.
//!
//! B batch, T queries, S keys, H heads, G key heads, K head width

use super::operations::{Recorder, WIDTH};
use super::trace::{Record, Slope, Value};
use crate::config::Precision;

/// What attention asks for beside its tensors.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extras {
    pub(super) soft_cap: bool,
    /// Summands on the scores: of masks, of positions, of padding, of documents. Kernels do without.
    pub(super) summands: bool,
    pub(super) dropout: bool,
}

/// Tensors of a block of scores, on the way forward and backward: scores and weights, and of both
/// their gradients.
const SCRATCH: [u64; 2] = [2, 4];

/// Sizes of attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) batch: u64,
    pub(super) heads: u64,
    pub(super) key_heads: u64,
    pub(super) queries: u64,
    pub(super) keys: u64,
    pub(super) width: u64,
}

impl Sizes {
    pub(super) fn query_bytes(&self) -> u64 {
        WIDTH * self.batch * self.heads * self.queries * self.width
    }

    pub(super) fn key_bytes(&self) -> u64 {
        WIDTH * self.batch * self.key_heads * self.keys * self.width
    }

    fn score_bytes(&self) -> u64 {
        WIDTH * self.batch * self.heads * self.queries * self.keys
    }

    /// Of the logarithm of each query's sum.
    fn log_sum_bytes(&self) -> u64 {
        WIDTH * self.batch * self.heads * self.queries
    }
}

impl Recorder {
    /// Some heads of several that are in one tensor.
    pub(super) fn part(&mut self, joined: Value, bytes: u64) -> Value {
        match self.operations.views {
            true => self.trace.view(joined, bytes),
            false => self.unary(joined, bytes, &[], [0; 2]),
        }
    }

    /// Rotary positions of the queries and the keys among heads in one tensor.
    pub(super) fn rotate_first(&mut self, joined: Value, sizes: Sizes, rounds: bool) -> Value {
        if self.operations.kernels {
            return if rounds { self.rotate_rounding(joined) } else { self.rotate(joined) };
        }
        let values = self.part(joined, sizes.key_bytes());
        let turned = self.part(joined, sizes.query_bytes() + sizes.key_bytes());
        let turned = self.rotate(turned);
        self.join(&[turned, values])
    }

    /// Attention of heads in one tensor.
    pub(super) fn attend_joined(&mut self, joined: Value, sizes: Sizes, extras: Extras) -> Value {
        if self.has_kernel() {
            let kept = self.kept(joined);
            let attended = self.trace.record(Record {
                inputs: &[(joined, Slope::New)],
                saves: &[kept],
                saves_output: true,
                keeps: &[sizes.log_sum_bytes()],
                bytes: sizes.query_bytes() / if joined.is_rounded { 2 } else { 1 },
                is_rounded: joined.is_rounded,
                forward_scratch: SCRATCH[0] * self.block_bytes(sizes),
                backward_scratch: SCRATCH[1] * self.block_bytes(sizes),
            });
            // Kernels that have products of their own write them so, and those for bf16.
            let is_joined = self.operations.products || joined.is_rounded;
            return if is_joined { attended } else { self.joined(attended) };
        }
        let query = self.part(joined, sizes.query_bytes());
        let [key, value] = [(); 2].map(|()| self.part(joined, sizes.key_bytes()));
        self.attend([query, key, value], sizes, extras)
    }

    /// Heads as kernels keep them for the gradients: in the precision of their products.
    fn kept(&mut self, heads: Value) -> Value {
        match self.precision {
            Precision::Bf16 if !heads.is_rounded => {
                self.trace.record(Record { bytes: heads.bytes / 2, ..Record::default() })
            }
            _ => heads,
        }
    }

    /// Of the scores that are in memory at a time.
    fn block_bytes(&self, sizes: Sizes) -> u64 {
        let of_fewest = self.operations.queries * sizes.score_bytes() / sizes.queries;
        sizes.score_bytes().min(of_fewest.max(WIDTH * self.operations.scores))
    }

    /// `[B, H, T, K]`, `[B, G, S, K]` twice -> `[B, T, H K]`
    pub(super) fn attend(
        &mut self,
        [query, key, value]: [Value; 3],
        sizes: Sizes,
        extras: Extras,
    ) -> Value {
        if self.has_kernel() {
            let kept = [query, key, value].map(|input| self.kept(input));
            let attended = self.trace.record(Record {
                inputs: &[query, key, value].map(|input| (input, Slope::New)),
                saves: &kept,
                saves_output: true,
                keeps: &[sizes.log_sum_bytes()],
                bytes: sizes.query_bytes(),
                forward_scratch: SCRATCH[0] * self.block_bytes(sizes),
                backward_scratch: SCRATCH[1] * self.block_bytes(sizes),
                ..Record::default()
            });
            // Kernels that have products of their own write them so.
            return if self.operations.products { attended } else { self.joined(attended) };
        }
        let bytes = sizes.score_bytes();
        let query = self.scale(query);
        let (query, key) = (self.factor(query), self.factor(key));
        let mut scores = self.product(query, key, bytes);
        if extras.soft_cap {
            scores = self.scale(scores);
            scores = self.unary(scores, bytes, &[scores], [0, 2 * bytes]);
            scores = self.scale(scores);
        }
        if extras.summands {
            scores = self.scale(scores);
        }
        let weights = self.softmax(scores, sizes.log_sum_bytes());
        let weights = if extras.dropout { self.dropout(weights, 1.0) } else { weights };
        let (weights, value) = (self.factor(weights), self.factor(value));
        let attended = self.product(weights, value, sizes.query_bytes());
        self.joined(attended)
    }

    /// The heads of a position side by side, which they are not after products of batches of heads.
    fn joined(&mut self, attended: Value) -> Value {
        self.unary(attended, attended.bytes, &[], [0; 2])
    }

    fn softmax(&mut self, scores: Value, sums: u64) -> Value {
        let bytes = scores.bytes;
        let shifted = self.scale(scores);
        let exponentials = self.unary(shifted, bytes, &[shifted], [0, bytes]);
        let sum = self.reduced(exponentials, sums);
        self.trace.record(Record {
            inputs: &[(exponentials, Slope::New), (sum, Slope::Same)],
            saves: &[exponentials, sum],
            bytes,
            backward_scratch: 2 * bytes,
            ..Record::default()
        })
    }
}
