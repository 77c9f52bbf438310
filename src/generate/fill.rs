use super::decode::row;
use crate::backend::GptBackend;
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
        let logits = self.forward(row(tokens, &self.device()), None); // [1, T, V]
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        let masked = tokens.iter().zip(logits.chunks(self.vocab_size()));
        masked
            .filter(|(token, _)| **token == mask)
            .map(|(_, logits)| most_likely(&logits[..mask as usize], count))
            .collect()
    }
}

fn most_likely(logits: &[f32], count: usize) -> Vec<Guess> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| f64::from(logit - highest).exp();
    let total: f64 = logits.iter().map(|logit| weight(*logit)).sum();
    let mut guesses: Vec<Guess> = (0..)
        .zip(logits)
        .map(|(token, logit)| Guess { token, probability: weight(*logit) / total })
        .collect();
    guesses.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    guesses.truncate(count);
    guesses
}
