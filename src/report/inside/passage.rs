//! B batch, T time

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

use crate::backend::{GptBackend, on_host};
use crate::model::{Model, Observer, Rows};

/// A text that a model reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// What an encoder reads beside a decoder; none for other models.
    pub source: Option<Vec<u32>>,
    /// What the decoder reads, or the encoder where it is alone; at least one token.
    pub tokens: Vec<u32>,
}

impl Passage {
    /// # Shapes
    /// - -> `[1, T, V]`
    pub(super) fn observe<B: GptBackend>(
        &self,
        model: &Model<B>,
        observer: &dyn Observer<B>,
    ) -> Tensor<B, 3> {
        let device = model.device();
        let lengths = [self.source.as_ref().map_or(0, Vec::len)];
        let source = self.source.as_ref().map(|source| (batch(&[source], &device), &lengths[..]));
        model.observe(batch(&[&self.tokens], &device), source, observer)
    }

    /// # Shapes
    /// - -> `T` rows of `V` logits
    pub(super) fn logits<B: GptBackend>(&self, model: &Model<B>) -> Vec<f32> {
        let device = model.device();
        let tokens = batch(&[&self.tokens], &device);
        let logits = match (model, &self.source) {
            (Model::Gpt(model), _) => model.forward(tokens),
            (Model::Encoder(model), _) => model.forward_routed(tokens, Rows::default()).0,
            (Model::Seq2Seq(model), source) => {
                let source = source.as_deref().unwrap_or_default();
                model.forward(batch(&[source], &device), &[source.len()], tokens)
            }
        };
        on_host(logits)
    }
}

/// Rows of one length, `[B, T]`.
pub(super) fn batch<B: Backend, R: AsRef<[u32]>>(
    rows: &[R],
    device: &B::Device,
) -> Tensor<B, 2, Int> {
    let columns = rows.first().map_or(0, |row| row.as_ref().len());
    let ids: Vec<i32> = rows.iter().flat_map(|row| row.as_ref()).map(|id| *id as i32).collect();
    Tensor::from_data(TensorData::new(ids, [rows.len(), columns]), device)
}
