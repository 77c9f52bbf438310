//! B batch, T time, S source positions, D model width

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::Cache;
use super::experts::Routing;
use super::position::{Places, PositionTable, rotation};
use super::record::Record;
use super::tape::layer_seed;
use crate::backend::{KeyRanges, Rotation, draw_seed, seed_draws};
use crate::config::{Architecture, ModelConfig};

/// What is known of the rows of a batch beside their tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rows<'a> {
    /// Tokens in each row that are no padding; all where absent.
    pub lengths: Option<&'a [usize]>,
    /// The document of each position of each row that is no padding, by any number unlike those of
    /// its neighbours. A position sees those of its own document only; where absent, each row is one
    /// document. An encoder takes the lengths of rows from these, where they are given.
    ///
    /// Positions count through the row all the same. To rotary ones and ALiBi only distances
    /// matter, so that with them or without positions a document is read as it would be alone;
    /// learned and sinusoidal ones tell it where in the row it stands.
    pub documents: Option<&'a [Vec<u32>]>,
}

/// What one pass through the layers carries beside the residual stream.
pub struct Pass<'a, B: Backend> {
    /// Of the new positions, where the model has rotary ones.
    pub(super) rotation: Option<Rotation<B>>,
    /// Tokens in each row of the batch that are no padding; all where absent.
    pub(super) lengths: Option<&'a [usize]>,
    /// The keys that are there for each query, where a causal mask does not see to it already.
    /// Documents never stand beside a cache.
    pub(super) ranges: Option<KeyRanges>,
    /// What the encoder made of the source, for a decoder beside one.
    pub(super) memory: Option<&'a Memory<B>>,
    /// What earlier passes have seen, in cached decoding.
    pub(super) cache: Option<&'a mut Cache<B>>,
    /// How the experts were used, a layer each.
    pub(super) routing: Vec<Routing<B>>,
    /// Of what the layers draw, where they drop anything.
    pub(super) seed: Option<u64>,
    pub(super) record: Record<'a, B>,
    pub(super) device: B::Device,
}

impl<'a, B: Backend> Pass<'a, B> {
    /// Over some positions of sequences that nothing else belongs to.
    pub fn new(config: &ModelConfig, rows: Rows<'a>, places: &Places, device: &B::Device) -> Self {
        Self::with_table(config, &PositionTable::default(), rows, places, device)
    }

    /// [`Pass::new`] with what a model has kept of the passes before.
    pub(super) fn with_table(
        config: &ModelConfig,
        table: &PositionTable,
        rows: Rows<'a>,
        places: &Places,
        device: &B::Device,
    ) -> Self {
        let drops = config.layers_drop() && B::ad_enabled(device);
        Self {
            rotation: rotation(config, table, places, device),
            lengths: rows.lengths,
            ranges: ranges(config, rows, places.len()),
            memory: None,
            cache: None,
            routing: Vec::new(),
            seed: drops.then(draw_seed),
            record: Record::Nobody,
            device: device.clone(),
        }
    }
}

/// Padding follows the text, so that a causal mask hides it.
fn ranges(config: &ModelConfig, rows: Rows, positions: usize) -> Option<KeyRanges> {
    let of_padding = || match config.architecture {
        Architecture::Encoder => rows.lengths.map(KeyRanges::of_lengths),
        _ => None,
    };
    let of_documents = |documents: &[Vec<u32>]| KeyRanges::of_documents(documents, positions);
    rows.documents.map(of_documents).or_else(of_padding)
}

impl<B: Backend> Pass<'_, B> {
    /// Each layer draws from a generator of its own, so that it draws the same numbers however
    /// often and in whatever order layers are computed.
    pub(super) fn seed_layer(&self, layer: usize) {
        if let Some(seed) = self.seed {
            seed_draws(layer_seed(seed, layer));
        }
    }
}

/// A source text as an encoder sees it.
#[derive(Debug, Clone)]
pub struct Memory<B: Backend> {
    /// `[B, S, D]`
    pub(super) hidden: Tensor<B, 3>,
    /// Of each row, without what it is filled up with.
    pub(super) lengths: Vec<usize>,
    /// The same, as attention takes them.
    pub(super) ranges: KeyRanges,
}
