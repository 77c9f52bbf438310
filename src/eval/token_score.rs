//! N targets, D model width, V vocabulary

use burn::tensor::Tensor;
use rayon::prelude::*;
use std::cmp::Ordering;

use crate::backend::GptBackend;
use crate::data::TokenBatch;
use crate::model::Model;
use crate::train::LanguageModel;

/// Logits that are on the host at a time.
const MOST_LOGITS: usize = 1 << 24;

/// What a model thinks of a token that came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// In nats.
    pub log_probability: f64,
    /// How many tokens are likelier, plus one; by id where two are equally likely.
    pub rank: usize,
}

impl TokenScore {
    fn new(logits: &[f32], target: usize) -> Self {
        let own = logits[target];
        let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - highest).exp()).sum();
        // What is not a number is behind all others.
        let is_before = |(id, logit): (usize, &f32)| match logit.partial_cmp(&own) {
            Some(Ordering::Less) => false,
            Some(Ordering::Equal) => id < target,
            Some(Ordering::Greater) | None => true,
        };
        Self {
            log_probability: f64::from(own) - highest - sum.ln(),
            rank: 1 + logits.iter().enumerate().filter(|logit| is_before(*logit)).count(),
        }
    }
}

/// The score of each target of a batch that is asked for, row after row, summed in f64.
pub fn token_scores<B: GptBackend>(
    model: &LanguageModel<B>,
    batch: &TokenBatch,
) -> Vec<TokenScore> {
    let (hidden, targets) = model.asked(batch); // [N, D], [N]
    let targets: Vec<usize> =
        targets.into_data().iter::<i64>().map(|target| target as usize).collect();
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
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        let rows = logits.par_chunks(vocab_size).zip(targets.par_iter());
        let found: Vec<_> = rows.map(|(row, target)| TokenScore::new(row, *target)).collect();
        scores.extend(found);
    }
    scores
}
