//! N targets, D model width, V vocabulary

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::backend::{GptBackend, on_host};
use crate::data::TokenBatch;
use crate::generate::LogProbabilities;
use crate::model::Model;
use crate::train::LanguageModel;

/// Logits that are on the host at a time.
const MOST_LOGITS: usize = 1 << 24;

/// What a model thinks of a token that came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// In nats.
    pub log_probability: f64,
    /// As [`LogProbabilities::rank`].
    pub rank: usize,
}

impl TokenScore {
    fn new(logits: &[f32], target: u32) -> Self {
        let LogProbabilities { token: log_probability, rank, .. } =
            LogProbabilities::new(logits, target, 0);
        Self { log_probability, rank }
    }
}

/// The score of each target of a batch that is asked for, row after row, summed in f64.
pub fn token_scores<B: GptBackend>(
    model: &LanguageModel<B>,
    batch: &TokenBatch,
) -> Vec<TokenScore> {
    let (hidden, targets) = model.asked(batch); // [N, D], [N]
    let targets: Vec<u32> = targets.into_data().iter::<i64>().map(|target| target as u32).collect();
    let vocab_size = match &model.model {
        Model::Gpt(model) => model.vocab_size(),
        Model::Encoder(model) => model.vocab_size(),
        Model::Seq2Seq(model) => model.vocab_size(),
    };
    let rows = (MOST_LOGITS / vocab_size).max(1);
    let mut scores = Vec::with_capacity(targets.len());
    for (number, targets) in targets.chunks(rows).enumerate() {
        let hidden = hidden.clone().narrow(0, number * rows, targets.len());
        let logits: Tensor<B, 2> = model.model.logits(hidden); // [n, V]
        let logits = on_host(logits);
        let rows = logits.par_chunks(vocab_size).zip(targets.par_iter());
        let found: Vec<_> = rows.map(|(row, target)| TokenScore::new(row, *target)).collect();
        scores.extend(found);
    }
    scores
}
