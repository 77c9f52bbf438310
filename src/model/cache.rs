use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::ModelError;

/// The keys and values of the positions that a model has already seen, a layer each.
#[derive(Debug, Clone)]
pub struct Cache<B: Backend> {
    pub(super) layers: Vec<LayerCache<B>>,
}

impl<B: Backend> Cache<B> {
    pub(super) fn new(n_layers: usize) -> Self {
        let empty = LayerCache { key_value: None, source: None };
        Self { layers: vec![empty; n_layers] }
    }

    /// Positions seen so far.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, LayerCache::len)
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
    key_value: Option<(Tensor<B, 4>, Tensor<B, 4>)>,
    /// Those of the source, in a decoder beside an encoder.
    source: Option<(Tensor<B, 4>, Tensor<B, 4>)>,
}

impl<B: Backend> LayerCache<B> {
    fn len(&self) -> usize {
        self.key_value.as_ref().map_or(0, |(key, _)| key.dims()[2])
    }

    /// Appends new positions and returns all there are.
    pub(super) fn extend(
        &mut self,
        key: Tensor<B, 4>,
        value: Tensor<B, 4>,
    ) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let (key, value) = match self.key_value.take() {
            Some((old_key, old_value)) => {
                (Tensor::cat(vec![old_key, key], 2), Tensor::cat(vec![old_value, value], 2))
            }
            None => (key, value),
        };
        self.key_value = Some((key.clone(), value.clone()));
        (key, value)
    }

    /// The keys and values of the source, computed the first time.
    pub(super) fn source(
        &mut self,
        compute: impl FnOnce() -> (Tensor<B, 4>, Tensor<B, 4>),
    ) -> (Tensor<B, 4>, Tensor<B, 4>) {
        self.source.get_or_insert_with(compute).clone()
    }
}
