use crate::backend::GptBackend;
use crate::data::TokenBatch;

use super::LanguageModel;
use burn_train::InferenceStep;

/// A loss and how many targets it is a mean of.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Nats a token.
    pub loss: f64,
    pub tokens: usize,
    /// Tokens that went to each expert, a layer each; none without experts.
    pub expert_tokens: Vec<Vec<usize>>,
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
    model: &LanguageModel<B>,
    batches: impl Iterator<Item = TokenBatch>,
) -> Evaluation {
    let (mut sum, mut tokens) = (0.0, 0);
    let mut expert_tokens = Vec::new();
    for batch in batches {
        let output = model.step(batch);
        sum += output.loss * output.tokens as f64;
        tokens += output.tokens;
        add_counts(&mut expert_tokens, output.expert_tokens);
    }
    Evaluation { loss: sum / tokens as f64, tokens, expert_tokens }
}

/// Adds the counts of a batch to those before it, layer by layer.
pub(super) fn add_counts(sum: &mut Vec<Vec<usize>>, counts: Vec<Vec<usize>>) {
    if sum.is_empty() {
        *sum = counts;
        return;
    }
    for (sum, counts) in sum.iter_mut().flatten().zip(counts.into_iter().flatten()) {
        *sum += counts;
    }
}
