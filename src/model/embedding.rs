//! B batch, T time, D model width, V vocabulary, C context length

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

use super::position::{PositionTable, sinusoidal};
use super::record::Record;
use super::{Initializer, Norm, Places};
use crate::backend::GptBackend;
use crate::config::ModelConfig;
use crate::config::PositionConfig;

/// Tokens to vectors, with what is added to them for their positions.
#[derive(Module, Debug)]
pub struct Embedding<B: Backend> {
    /// `[V, D]`
    pub token: Param<Tensor<B, 2>>,
    /// `[C, D]`, where positions are learned.
    pub position: Option<Param<Tensor<B, 2>>>,
    pub norm: Option<Norm<B>>,
    #[module(skip)]
    scale: Option<f64>,
    /// Where positions are waves.
    #[module(skip)]
    waves: Option<PositionTable>,
    dropout: f64,
}

impl<B: Backend> Embedding<B> {
    pub fn new(
        config: &ModelConfig,
        vocab_size: usize,
        initializer: &mut Initializer,
        device: &B::Device,
    ) -> Self {
        let (d_model, deviation) = (config.d_model, super::init::DEVIATION);
        let learned = matches!(config.position, PositionConfig::Learned {});
        Self {
            token: initializer.normal([vocab_size, d_model], deviation, device),
            position: learned
                .then(|| initializer.normal([config.context_length, d_model], deviation, device)),
            norm: config.embedding_norm.then(|| Norm::new(d_model, &config.norm, config, device)),
            scale: config.scale_embedding.then(|| (d_model as f64).sqrt()),
            waves: matches!(config.position, PositionConfig::Sinusoidal {})
                .then(PositionTable::default),
            dropout: config.embedding_dropout(),
        }
    }

    pub fn vocab_size(&self) -> usize {
        self.token.dims()[0]
    }
}

impl<B: GptBackend> Embedding<B> {
    /// # Shapes
    /// - `tokens` `[B, T]` -> `[B, T, D]`
    pub fn forward(
        &self,
        tokens: Tensor<B, 2, Int>,
        places: &Places,
        record: Record<B>,
    ) -> Tensor<B, 3> {
        record.part("embedding", tokens, |tokens| self.embed(tokens, places, record))
    }

    fn embed(&self, tokens: Tensor<B, 2, Int>, places: &Places, record: Record<B>) -> Tensor<B, 3> {
        let embedded = B::embed(self.token.val(), tokens);
        let device = embedded.device();
        let embedded = match self.scale {
            Some(scale) => embedded * scale,
            None => embedded,
        };
        let positions = match (&self.position, &self.waves) {
            (Some(table), _) => Some(rows_at(table.val(), places)), // [T, D] or [B, D]
            (None, Some(waves)) => Some(sinusoidal(waves, places, embedded.dims()[2], &device)),
            (None, None) => None,
        };
        let embedded = match (positions, places) {
            (Some(positions), Places::Columns(_)) => add_to_each(embedded, positions),
            (Some(positions), Places::Rows(_)) => embedded + positions.unsqueeze_dim(1),
            (None, _) => embedded,
        };
        let embedded = match &self.norm {
            Some(norm) => record.part("norm", embedded, |embedded| norm.forward(embedded)),
            None => embedded,
        };
        B::dropout(embedded, self.dropout)
    }
}

/// Adds `[T, D]` to each entry of `[B, T, D]`, as a row to the rows of a matrix: of three dimensions
/// no backend's broadcast is as fast.
fn add_to_each<B: Backend>(embedded: Tensor<B, 3>, positions: Tensor<B, 2>) -> Tensor<B, 3> {
    let [b, t, d] = embedded.dims();
    let sum = embedded.reshape([b, t * d]) + positions.reshape([1, t * d]);
    sum.reshape([b, t, d])
}

/// Those rows of a table.
fn rows_at<B: Backend>(table: Tensor<B, 2>, places: &Places) -> Tensor<B, 2> {
    match places {
        Places::Columns(columns) => table.narrow(0, columns.start, columns.len()),
        Places::Rows(rows) => {
            let rows: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
            let shape = [rows.len()];
            let rows = Tensor::from_data(TensorData::new(rows, shape), &table.device());
            table.select(0, rows)
        }
    }
}
