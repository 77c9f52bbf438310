//! What operations are told beside their tensors.
//!
//! B batch, T new positions, S all positions, R numbers of a head that are turned

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Int, Tensor, TensorData};

use super::ops::{fits, to_float};
use super::{Dropout, Sight};
use crate::config::Precision;
use crate::config::RotaryPairing;

/// Added to the scores of keys that are padding: far below any score, and finite, since a query
/// that is padding itself may see nothing else, and must get some number all the same.
const PADDING: f32 = -1e30;

/// What attention needs beside its three tensors.
#[derive(Debug, Clone)]
pub struct AttentionOptions<'a, B: Backend> {
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
    /// Which keys are there at all, in each entry of the batch.
    pub padding: Option<&'a Padding<B>>,
    /// A query sees keys of its own document only. There must be as many queries as keys.
    pub documents: Option<&'a Documents<B>>,
    /// Of weights, after the softmax; rows are counted by entry, query head and query.
    pub dropout: Option<Dropout>,
    /// Of the two matrix products.
    pub precision: Precision,
}

impl<B: Backend> AttentionOptions<'_, B> {
    /// Every query sees every key.
    pub fn full(scale: f64) -> Self {
        Self {
            scale,
            soft_cap: None,
            causal: false,
            window: None,
            alibi: false,
            padding: None,
            documents: None,
            dropout: None,
            precision: Precision::F32,
        }
    }

    /// Every query sees the keys up to its own position.
    pub fn causal(scale: f64) -> Self {
        Self { causal: true, ..Self::full(scale) }
    }

    /// What kernels need to know; none where they do not compute this.
    pub(super) fn sight<C: Backend>(&self, inputs: &[&Tensor<C, 4>]) -> Option<Sight> {
        // A window has no middle where queries and keys are not the same.
        let lengths = inputs.iter().map(|input| input.dims()[2]);
        let is_centered =
            self.window.is_none() || self.causal || lengths.is_sorted_by(|a, b| a == b);
        let is_plain = self.padding.is_none()
            && self.documents.is_none()
            && is_centered
            && inputs.iter().all(|input| fits(input));
        is_plain.then_some(Sight {
            scale: self.scale as f32,
            soft_cap: self.soft_cap.map(|cap| cap as f32),
            causal: self.causal,
            window: self.window,
            alibi: self.alibi,
            dropout: self.dropout,
            precision: self.precision,
        })
    }
}

/// How many keys of each entry of a batch are there at all; the others are padding. Made once for
/// all layers, since it has to be copied to the device.
#[derive(Debug, Clone)]
pub struct Padding<B: Backend> {
    lengths: Vec<usize>,
    /// What is added to the scores, `[B, 1, S]`.
    barrier: Tensor<B, 3>,
}

impl<B: Backend> Padding<B> {
    /// Of so many keys in all.
    pub fn new(lengths: &[usize], keys: usize, device: &B::Device) -> Self {
        let of_row = |length: &usize| {
            let length = *length;
            (0..keys).map(move |key| if key < length { 0.0 } else { PADDING })
        };
        let numbers: Vec<f32> = lengths.iter().flat_map(of_row).collect();
        let data = TensorData::new(numbers, [lengths.len(), 1, keys]);
        Self { lengths: lengths.to_vec(), barrier: Tensor::from_data(data, device) }
    }

    /// Of each entry.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Hides the keys that are padding, in scores `[B, .., S]`.
    pub(super) fn hide(&self, scores: Tensor<B, 4>) -> Tensor<B, 4> {
        let [b, g, rows, s] = scores.dims();
        (scores.reshape([b, g * rows, s]) + self.barrier.clone()).reshape([b, g, rows, s])
    }
}

/// Which positions of a batch belong together, where its rows hold several documents. Made once for
/// all layers, since it is as large as the scores of one head.
#[derive(Debug, Clone)]
pub struct Documents<B: Backend> {
    /// What is added to the scores: nothing within a document, −∞ between two, `[B, 1, T T]`.
    barrier: Tensor<B, 3>,
}

impl<B: Backend> Documents<B> {
    /// From any number for each document that is its own within a row.
    ///
    /// # Shapes
    /// - `numbers` `[B, T]`
    pub fn new(numbers: Tensor<B, 2, Int>) -> Self {
        let [b, t] = numbers.dims();
        let device = numbers.device();
        let other = numbers.clone().reshape([b, t, 1]).not_equal(numbers.reshape([b, 1, t]));
        let barrier = Tensor::zeros([b, t, t], &device).mask_fill(other, f32::NEG_INFINITY);
        Self { barrier: barrier.reshape([b, 1, t * t]) }
    }

    /// The barrier with what is hidden in every row, `[1, T T]`.
    pub(super) fn barrier(&self, more: Option<Tensor<B, 2>>) -> Tensor<B, 3> {
        match more {
            Some(more) => self.barrier.clone() + more.unsqueeze(),
            None => self.barrier.clone(),
        }
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
