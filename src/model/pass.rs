//! B batch, T time, S source positions, D model width

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use super::Cache;
use super::experts::Routing;
use super::position::{Places, PositionTable, rotation};
use super::record::Record;
use super::tape::layer_seed;
use crate::backend::{Documents, Padding, Rotation, draw_seed, seed_draws};
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
pub struct Pass<'a, B: Backend> {
    /// Of the new positions, where the model has rotary ones.
    pub(super) rotation: Option<Rotation<B>>,
    /// Tokens in each row of the batch that are no padding; all where absent.
    pub(super) lengths: Option<&'a [usize]>,
    /// The same as lengths, for attention that sees all of a row.
    pub(super) padding: Option<Padding<B>>,
    /// Where rows hold several; never beside a cache.
    pub(super) documents: Option<Documents<B>>,
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
    pub fn new(
        config: &ModelConfig,
        rows: Rows<'a, B>,
        places: &Places,
        device: &B::Device,
    ) -> Self {
        Self::with_table(config, &PositionTable::default(), rows, places, device)
    }

    /// [`Pass::new`] with what a model has kept of the passes before.
    pub(super) fn with_table(
        config: &ModelConfig,
        table: &PositionTable,
        rows: Rows<'a, B>,
        places: &Places,
        device: &B::Device,
    ) -> Self {
        let drops = config.layers_drop() && B::ad_enabled(device);
        Self {
            rotation: rotation(config, table, places, device),
            lengths: rows.lengths,
            padding: None,
            documents: rows.documents.map(Documents::new),
            memory: None,
            cache: None,
            routing: Vec::new(),
            seed: drops.then(draw_seed),
            record: Record::Nobody,
            device: device.clone(),
        }
    }
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
    /// Of each row.
    pub(super) padding: Padding<B>,
}
