use super::decode::batch;
use super::probabilities::{likeliest, log_sum_exp};
use crate::backend::{GptBackend, on_host};
use crate::model::Encoder;

/// A guess at a masked token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guess {
    pub token: u32,
    pub probability: f64,
}

impl<B: GptBackend> Encoder<B> {
    /// The likeliest tokens for each `mask` among the tokens, in order, `count` a mask. Only ids
    /// below `mask` are guessed.
    ///
    /// The tokens must not be empty nor exceed the context length.
    pub fn fill(&self, tokens: &[u32], mask: u32, count: usize) -> Vec<Vec<Guess>> {
        let logits = self.forward(batch(&[tokens], &self.device()), None); // [1, T, V]
        let logits = on_host(logits);
        let masked = tokens.iter().zip(logits.chunks(self.vocab_size()));
        masked
            .filter(|(token, _)| **token == mask)
            .map(|(_, logits)| most_likely(&logits[..mask as usize], count))
            .collect()
    }
}

fn most_likely(logits: &[f32], count: usize) -> Vec<Guess> {
    let log_total = log_sum_exp(logits);
    let probability = |token: u32| (f64::from(logits[token as usize]) - log_total).exp();
    let tokens = likeliest(logits, count).into_iter();
    tokens.map(|token| Guess { token, probability: probability(token) }).collect()
}
