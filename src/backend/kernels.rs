//! What a backend can have its own kernels for.

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use std::fmt::Debug;
use std::ops::Range;

use super::{Dropout, KeyRanges, LossTerms};
use crate::config::Activation;
use crate::config::Precision;
use crate::config::RotaryPairing;

/// Which keys a query attends to, and how scores are scaled.
#[derive(Debug, Clone)]
pub struct Sight {
    /// Factor on the scores before the softmax.
    pub scale: f32,
    /// Keeps the scores within ± this by `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// The queries are the last of the keys, and each sees those up to its own.
    pub causal: bool,
    /// A query sees keys less than this far away.
    pub window: Option<usize>,
    /// A summand of `-slope * distance`, with the slope of each query head.
    pub alibi: bool,
    /// The keys that are there for a query at all. Kernels for decoding take none.
    pub ranges: Option<KeyRanges>,
    /// Of weights. Kernels for decoding take none.
    pub dropout: Option<Dropout>,
    /// Of the matrix products.
    pub precision: Precision,
    /// Of what comes out, and of the gradients of what goes in: f32 or that of the products.
    pub given: Precision,
}

impl Sight {
    /// The keys that a query sees, of so many queries and keys, in an entry of the batch.
    pub fn keys_of(&self, entry: usize, query: usize, [queries, keys]: [usize; 2]) -> Range<usize> {
        let seen = self.keys(query, queries, keys);
        match &self.ranges {
            Some(ranges) => {
                let there = ranges.keys(entry, query);
                let start = seen.start.max(there.start);
                start..seen.end.min(there.end).max(start)
            }
            None => seen,
        }
    }

    /// [`Sight::keys_of`] an entry that has them all.
    pub fn keys(&self, query: usize, queries: usize, keys: usize) -> Range<usize> {
        let place = if self.causal { query + keys - queries } else { query };
        let end = if self.causal { place + 1 } else { keys };
        match self.window {
            Some(window) => (place + 1).saturating_sub(window)..end.min(place + window),
            None => 0..end,
        }
    }
}

/// Which heads are turned, which of their numbers together, and which way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turn {
    /// The first so many; others stay as they are.
    pub heads: usize,
    pub pairing: RotaryPairing,
    /// By the negative angles, as gradients are.
    pub back: bool,
    /// Of what comes out.
    pub precision: Precision,
}

/// What rows are brought to one scale by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// Whether rows lose their mean first.
    pub centered: bool,
    pub epsilon: f32,
}

/// An update by AdamW (Loshchilov and Hutter 2019, algorithm 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwStep {
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Counted from one.
    pub step: usize,
    /// What the gradient is multiplied by first, to clip it.
    pub gradient_factor: f64,
}

impl AdamwStep {
    /// What means that begin at zero are divided by.
    pub fn corrections(&self) -> [f64; 2] {
        [self.beta1, self.beta2].map(|beta| 1.0 - beta.powf(self.step as f64))
    }
}

/// A parameter that is to be updated, with tensors of `[N]`.
#[derive(Debug, Clone)]
pub struct AdamwUpdate<T> {
    pub value: T,
    pub gradient: T,
    /// Means of the gradient and of its square; zero where there are none.
    pub moments: Option<[T; 2]>,
    pub step: AdamwStep,
}

impl<T> AdamwUpdate<T> {
    /// The same of other tensors.
    pub fn map<U>(self, mut tensor: impl FnMut(T) -> U) -> AdamwUpdate<U> {
        AdamwUpdate {
            value: tensor(self.value),
            gradient: tensor(self.gradient),
            moments: self.moments.map(|moments| moments.map(tensor)),
            step: self.step,
        }
    }

    /// Its tensors.
    pub fn tensors(&self) -> impl Iterator<Item = &T> {
        [&self.value, &self.gradient].into_iter().chain(self.moments.iter().flatten())
    }
}

/// Logits that the kernels for CPUs have in memory at a time, but for those of a single row.
pub const CPU_LOGITS: usize = 1 << 24;
/// Those that the kernels for GPUs have: 256 MiB of them, which is enough rows to keep a large GPU
/// busy with a vocabulary of 50,000.
pub const GPU_LOGITS: usize = 1 << 26;
/// Columns of logits on GPUs are made a multiple of this, for the sake of matrix products.
pub const GPU_LOGITS_ALIGNMENT: usize = 128;

/// Rows of logits that the kernels for GPUs have at a time, of so many columns: a multiple of
/// [`GPU_LOGITS_ALIGNMENT`] if so many rows fit among some logits, else as many as fit, or one.
pub fn gpu_logits_rows(logits: usize, columns: usize) -> usize {
    match logits / columns {
        rows @ 0..GPU_LOGITS_ALIGNMENT => rows.max(1),
        rows => rows / GPU_LOGITS_ALIGNMENT * GPU_LOGITS_ALIGNMENT,
    }
}

/// Scores of attention that the kernels for GPUs have in memory at a time: 256 MiB of them.
pub const GPU_SCORES: usize = 1 << 26;
/// Queries whose scores these are, but for the last ones, are a multiple of this, however many
/// scores that are, unless the device's memory has no room for so many in one piece: rows of so
/// many f32 begin at multiples of 512 bytes, as products like it.
pub const GPU_QUERIES: usize = 128;

/// Queries whose scores the kernels for GPUs have at a time, of so many scores each, where memory
/// comes in pieces of so many at most.
pub fn gpu_queries(scores: usize, largest: usize) -> usize {
    let [preferred, most] = [GPU_SCORES.min(largest), largest].map(|all| all / scores.max(1));
    let aligned = (preferred / GPU_QUERIES * GPU_QUERIES).max(GPU_QUERIES);
    if aligned <= most { aligned } else { most.max(1) }
}

/// A backend's matrix products in f32, with their gradients. The operations of
/// [`GptBackend`](super::GptBackend) say what they compute.
pub trait Products<B: Backend>: Debug + Sync {
    /// # Shapes
    /// - `input` `[.., I]`, `weight` `[I, O]`, `bias` `[O]` -> `[.., O]`
    fn dense(
        &self,
        input: FloatTensor<B>,
        weight: FloatTensor<B>,
        bias: Option<FloatTensor<B>>,
    ) -> FloatTensor<B>;

    /// An activation of [`Products::dense`], and its slope at each number.
    ///
    /// # Shapes
    /// - `input` `[.., I]`, `weight` `[I, O]`, `bias` `[O]` -> twice `[.., O]`
    fn dense_activated(
        &self,
        input: FloatTensor<B>,
        weight: FloatTensor<B>,
        bias: Option<FloatTensor<B>>,
        kind: Activation,
    ) -> [FloatTensor<B>; 2];

    /// # Shapes
    /// - `input` `[.., I]`, `values` `[I, O]`, each a byte, `scales` and `bias` `[O]` -> `[.., O]`
    fn dense_int8(
        &self,
        input: FloatTensor<B>,
        values: IntTensor<B>,
        scales: FloatTensor<B>,
        bias: Option<FloatTensor<B>>,
    ) -> FloatTensor<B>;

    /// The gradients with respect to input, weight and bias, as far as they are wanted, from that
    /// of the output or, given its slopes, of the activated output.
    ///
    /// # Shapes
    /// - `input` `[N, I]`, `weight` `[I, O]`, `slopes` and `gradient` `[N, O]`
    fn dense_backward(
        &self,
        input: FloatTensor<B>,
        weight: FloatTensor<B>,
        slopes: Option<FloatTensor<B>>,
        gradient: FloatTensor<B>,
        wanted: [bool; 3],
    ) -> [Option<FloatTensor<B>>; 3];
}

/// A backend's kernels for tensors of f32, each with its gradients; those of gates, norms and
/// attention take or make bf16, too, where the backend [computes in it](Kernels::computes_in). The operations of
/// [`GptBackend`](super::GptBackend) say what they compute.
///
/// B batch, T queries, S keys, H heads, G key heads, K head width, W width of a value, N rows
pub trait Kernels<B: Backend>: Debug + Sync {
    /// Whether the matrix products within a kernel, or what it takes of others, can be in this
    /// precision.
    fn computes_in(&self, precision: Precision) -> bool {
        precision == Precision::F32
    }

    /// `activation(gate) * up`, of any shape, in the precision that both have.
    fn gated(&self, gate: FloatTensor<B>, up: FloatTensor<B>, kind: Activation) -> FloatTensor<B>;

    /// The gradients with respect to gate and up.
    fn gated_backward(
        &self,
        gate: FloatTensor<B>,
        up: FloatTensor<B>,
        gradient: FloatTensor<B>,
        kind: Activation,
    ) -> [FloatTensor<B>; 2];

    /// Multiplies each number, of any shape, by zero or by the scale. The gradient with respect to the
    /// input is this of the gradient of the output.
    fn apply_dropout(&self, input: FloatTensor<B>, dropout: Dropout) -> FloatTensor<B>;

    /// Turns heads by the angles of their positions, or back: in f32, and rounded in the end. Gradients
    /// come in the precision of what they are the gradients of.
    ///
    /// # Shapes
    /// - `input` `[B, H, T, K]`, `angles`, which are cosines and sines, `[T, R / 2]`
    fn rotate(
        &self,
        input: FloatTensor<B>,
        angles: [FloatTensor<B>; 2],
        turn: Turn,
    ) -> FloatTensor<B>;

    /// Of rows, which are the last dimension, rounded to this precision.
    fn normalization(
        &self,
        input: FloatTensor<B>,
        weight: Option<FloatTensor<B>>,
        bias: Option<FloatTensor<B>>,
        scaling: Scaling,
        precision: Precision,
    ) -> FloatTensor<B>;

    /// The gradients with respect to input, weight and bias, in f32, from that of the output, in its
    /// precision.
    fn normalization_backward(
        &self,
        input: FloatTensor<B>,
        weight: Option<FloatTensor<B>>,
        gradient: FloatTensor<B>,
        scaling: Scaling,
    ) -> [FloatTensor<B>; 3];

    /// Also the logarithms of the sums of exponentials, for the gradients.
    ///
    /// # Shapes
    /// - `[B, H, T, K]`, `[B, G, S, K]`, `[B, G, S, W]` -> `[B, H, T, W]` and `[B, H, T]`
    fn attend(
        &self,
        inputs: [FloatTensor<B>; 3],
        sight: &Sight,
    ) -> (FloatTensor<B>, FloatTensor<B>);

    /// [`Kernels::attend`] of H query heads, then G key heads, then their values, which stand in one
    /// tensor, `[B, H + 2 G, T, K]`.
    fn attend_joined(
        &self,
        joined: FloatTensor<B>,
        heads: [usize; 2],
        sight: &Sight,
    ) -> (FloatTensor<B>, FloatTensor<B>);

    /// The gradients with respect to queries, keys and values, from that of the output.
    fn attend_backward(
        &self,
        inputs: [FloatTensor<B>; 3],
        output: FloatTensor<B>,
        log_sums: FloatTensor<B>,
        gradient: FloatTensor<B>,
        sight: &Sight,
    ) -> [FloatTensor<B>; 3];

    /// [`Kernels::attend_backward`] of heads that stand in one tensor, `[B, H + 2 G, T, K]`, as
    /// one gradient.
    fn attend_joined_backward(
        &self,
        joined: FloatTensor<B>,
        heads: [usize; 2],
        output: FloatTensor<B>,
        log_sums: FloatTensor<B>,
        gradient: FloatTensor<B>,
        sight: &Sight,
    ) -> FloatTensor<B>;

    /// Writes new positions into the room for them, in place where nobody else holds it.
    ///
    /// # Shapes
    /// - `room` `[C, G, R, K]`, `new` `[B, G, T, K]`, `places` `B` of a row and a position
    fn put(
        &self,
        room: FloatTensor<B>,
        new: FloatTensor<B>,
        places: &[[usize; 2]],
    ) -> FloatTensor<B>;

    /// Attention of one query in each row to the first so many of its keys, the last of which are
    /// within the window.
    ///
    /// # Shapes
    /// - `[B, H, 1, K]`, `[C, G, R, K]`, `[C, G, R, W]`, `lengths` `B` -> `[B, H, 1, W]`
    fn attend_rows(
        &self,
        inputs: [FloatTensor<B>; 3],
        lengths: &[usize],
        sight: &Sight,
    ) -> FloatTensor<B>;

    /// The mean loss and what is minimised in its place, `[1]` each, and of each row the logarithm
    /// of the sum of exponentials, `[N]`.
    ///
    /// # Shapes
    /// - `logits` `[N, V]`, `targets` `[N]`
    fn cross_entropy(
        &self,
        logits: FloatTensor<B>,
        targets: IntTensor<B>,
        terms: LossTerms,
    ) -> [FloatTensor<B>; 3];

    /// The gradient with respect to the logits, from that of what is minimised, `[1]`.
    fn cross_entropy_backward(
        &self,
        logits: FloatTensor<B>,
        targets: IntTensor<B>,
        log_sums: FloatTensor<B>,
        gradient: FloatTensor<B>,
        terms: LossTerms,
    ) -> FloatTensor<B>;

    /// The mean loss and what is minimised in its place, `[1]` each, and the gradients of the latter
    /// with respect to input, weight and bias, as far as they are wanted. There are no more than so
    /// many logits in memory at a time.
    ///
    /// # Shapes
    /// - `factors`, which are input and weight, `[N, I]` and `[I, V]`, `bias` `[V]`, `targets` `[N]`
    fn linear_cross_entropy(
        &self,
        factors: [FloatTensor<B>; 2],
        bias: Option<FloatTensor<B>>,
        targets: IntTensor<B>,
        precision: Precision,
        terms: LossTerms,
        wanted: [bool; 3],
    ) -> ([FloatTensor<B>; 2], [Option<FloatTensor<B>>; 3]);

    /// Multiplies a tensor by a number, `[1]`, which is mostly one.
    fn scaled(&self, tensor: FloatTensor<B>, factor: FloatTensor<B>) -> FloatTensor<B>;

    /// The gradient with respect to the weight of an embedding.
    ///
    /// # Shapes
    /// - `tokens` `[B, T]`, `gradient` `[B, T, D]` -> `[vocab_size, D]`
    fn embed_backward(
        &self,
        tokens: IntTensor<B>,
        gradient: FloatTensor<B>,
        vocab_size: usize,
    ) -> FloatTensor<B>;

    /// Of all numbers of all tensors, `[N]` each, as `[P]` sums. They may be in f64.
    fn sums_of_squares(&self, tensors: Vec<FloatTensor<B>>) -> FloatTensor<B>;

    /// Each parameter and its two moments after a step. The gradients' memory is used again.
    fn adamw(&self, updates: Vec<AdamwUpdate<FloatTensor<B>>>) -> Vec<[FloatTensor<B>; 3]>;
}
