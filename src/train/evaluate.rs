use crate::backend::GptBackend;
use crate::data::TokenBatch;

use super::CausalLanguageModel;
use burn_train::InferenceStep;

/// A loss and how many targets it is a mean of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Nats a token.
    pub loss: f64,
    pub tokens: usize,
}

impl Evaluation {
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }

    /// The loss in bits a byte, which does not depend on the tokenizer.
    pub fn bits_per_byte(&self, bytes_per_token: f64) -> f64 {
        self.loss / std::f64::consts::LN_2 / bytes_per_token
    }
}

/// The mean loss over batches, every target weighing the same. Not a number without batches.
pub fn evaluate<B: GptBackend>(
    model: &CausalLanguageModel<B>,
    batches: impl Iterator<Item = TokenBatch>,
) -> Evaluation {
    let (mut sum, mut tokens) = (0.0, 0);
    for batch in batches {
        let output = model.step(batch);
        sum += output.loss * output.tokens as f64;
        tokens += output.tokens;
    }
    Evaluation { loss: sum / tokens as f64, tokens }
}
