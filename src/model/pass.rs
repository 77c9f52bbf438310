//! B batch, T time, S source positions, D model width

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use std::ops::Range;

use super::Cache;
use super::experts::Routing;
use super::position::rotation;
use crate::backend::{Documents, Rotation};
use crate::config::ModelConfig;

/// What is known of the rows of a batch beside their tokens.
#[derive(Debug, Clone, Default)]
pub struct Rows<'a, B: Backend> {
    /// Tokens in each row that are no padding; all where absent.
    pub lengths: Option<&'a [usize]>,
    /// The document of each position, by a number of its own within the row, `[B, T]`. A position
    /// sees those of its own document only; where absent, each row is one document.
    ///
    /// Positions count through the row all the same. To rotary ones and ALiBi only distances
    /// matter, so that with them or without positions a document is read as it would be alone;
    /// learned and sinusoidal ones tell it where in the row it stands.
    pub documents: Option<Tensor<B, 2, Int>>,
}

/// What one pass through the layers carries beside the residual stream.
pub(super) struct Pass<'a, B: Backend> {
    /// Of the new positions, where the model has rotary ones.
    pub(super) rotation: Option<Rotation<B>>,
    /// Tokens in each row of the batch that are no padding; all where absent.
    pub(super) lengths: Option<&'a [usize]>,
    /// Where rows hold several; never beside a cache.
    pub(super) documents: Option<Documents<B>>,
    /// What the encoder made of the source, for a decoder beside one.
    pub(super) memory: Option<&'a Memory<B>>,
    /// What earlier passes have seen, in cached decoding.
    pub(super) cache: Option<&'a mut Cache<B>>,
    /// How the experts were used, a layer each.
    pub(super) routing: Vec<Routing<B>>,
}

impl<'a, B: Backend> Pass<'a, B> {
    /// Over some positions of sequences that nothing else belongs to.
    pub(super) fn new(
        config: &ModelConfig,
        rows: Rows<'a, B>,
        positions: Range<usize>,
        device: &B::Device,
    ) -> Self {
        Self {
            rotation: rotation(config, positions, device),
            lengths: rows.lengths,
            documents: rows.documents.map(Documents::new),
            memory: None,
            cache: None,
            routing: Vec::new(),
        }
    }
}

/// A source text as an encoder sees it.
#[derive(Debug, Clone)]
pub struct Memory<B: Backend> {
    /// `[B, S, D]`
    pub(super) hidden: Tensor<B, 3>,
    /// Tokens in each row that are no padding.
    pub(super) lengths: Vec<usize>,
}
