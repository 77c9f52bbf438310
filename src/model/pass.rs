use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use std::ops::Range;

use super::Cache;
use super::experts::Routing;
use super::position::rotation;
use crate::backend::Rotation;
use crate::config::ModelConfig;

/// What one pass through the layers carries beside the residual stream.
pub(super) struct Pass<'a, B: Backend> {
    /// Of the new positions, where the model has rotary ones.
    pub(super) rotation: Option<Rotation<B>>,
    /// Tokens in each row of the batch that are no padding; all where absent.
    pub(super) lengths: Option<&'a [usize]>,
    /// What the encoder made of the source, for a decoder beside one.
    pub(super) memory: Option<&'a Memory<B>>,
    /// What earlier passes have seen, in cached decoding.
    pub(super) cache: Option<&'a mut Cache<B>>,
    /// How the experts were used, a layer each.
    pub(super) routing: Vec<Routing<B>>,
}

impl<B: Backend> Pass<'_, B> {
    /// Over some positions of a sequence that nothing else belongs to.
    pub(super) fn new(config: &ModelConfig, positions: Range<usize>, device: &B::Device) -> Self {
        Self {
            rotation: rotation(config, positions, device),
            lengths: None,
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
