use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::ModelError;
use crate::backend::GptBackend;

/// Positions that a cache has room for from the beginning, where the context is no shorter.
const LEAST_ROOM: usize = 64;

/// The keys and values of the positions that a model has already seen, a layer each.
#[derive(Debug, Clone)]
pub struct Cache<B: Backend> {
    pub(super) layers: Vec<LayerCache<B>>,
}

impl<B: Backend> Cache<B> {
    pub(super) fn new(n_layers: usize, context_length: usize) -> Self {
        let empty = LayerCache { room: None, seen: 0, context_length, source: None };
        Self { layers: vec![empty; n_layers] }
    }

    /// Positions seen so far.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.seen)
    }

    /// # Errors
    /// [`ModelError::ContextOverflow`] where so many new tokens do not fit.
    pub(super) fn check_room(&self, new: usize, context_length: usize) -> Result<(), ModelError> {
        let seen = self.len();
        if seen + new > context_length {
            return Err(ModelError::ContextOverflow { seen, new, context_length });
        }
        Ok(())
    }

    /// Whether nothing has been seen yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The keys and values of one layer, each `[B, G, S, K]`.
#[derive(Debug, Clone)]
pub struct LayerCache<B: Backend> {
    /// Keys and values with room for more, each `[B, G, R, K]`. Nobody else holds them between two
    /// passes but clones of this cache, so that new positions are written in place.
    room: Option<[Tensor<B, 4>; 2]>,
    seen: usize,
    context_length: usize,
    /// Those of the source, in a decoder beside an encoder.
    source: Option<(Tensor<B, 4>, Tensor<B, 4>)>,
}

impl<B: GptBackend> LayerCache<B> {
    /// Appends new positions and returns all there are.
    pub(super) fn extend(
        &mut self,
        key: Tensor<B, 4>,
        value: Tensor<B, 4>,
    ) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let (start, end) = (self.seen, self.seen + key.dims()[2]);
        let room = match self.room.take() {
            Some(room) => room.map(|room| self.enlarge(room, end)),
            None => [&key, &value].map(|new| self.room_like(new, end)),
        };
        let [keys, values] = room;
        let room = [B::put(keys, key, start), B::put(values, value, start)];
        self.seen = end;
        let [keys, values] = room.clone().map(|room| room.narrow(2, 0, end));
        self.room = Some(room);
        (keys, values)
    }

    /// With room for so many positions.
    fn enlarge(&self, room: Tensor<B, 4>, positions: usize) -> Tensor<B, 4> {
        if positions <= room.dims()[2] {
            return room;
        }
        let larger = self.room_like(&room, positions);
        B::put(larger, room.narrow(2, 0, self.seen), 0)
    }

    /// Twice as much as is needed, so that a sequence is copied a few times only.
    fn room_like(&self, of: &Tensor<B, 4>, positions: usize) -> Tensor<B, 4> {
        let [b, heads, _, width] = of.dims();
        let room = (2 * positions).max(LEAST_ROOM).min(self.context_length).max(positions);
        Tensor::zeros([b, heads, room, width], (&of.device(), of.dtype()))
    }
}

impl<B: Backend> LayerCache<B> {
    /// The keys and values of the source, computed the first time.
    pub(super) fn source(
        &mut self,
        compute: impl FnOnce() -> (Tensor<B, 4>, Tensor<B, 4>),
    ) -> (Tensor<B, 4>, Tensor<B, 4>) {
        self.source.get_or_insert_with(compute).clone()
    }
}
