use burn_train::InferenceStep;

use super::LanguageModel;
use super::clip::read;
use crate::backend::GptBackend;
use crate::data::{DataError, Split, TokenBatch};

/// Batches whose losses are read together, so that a device seldom waits for the host: so few that
/// nobody waits long for the device, either, when an evaluation is to stop.
const UNREAD: usize = 16;

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
    let (device, mut batches) = (model.model.device(), batches.fuse());
    let (mut sum, mut tokens) = (0.0, 0);
    let mut expert_tokens = Vec::new();
    loop {
        let (mut losses, mut counts) = (Vec::new(), Vec::new());
        for output in batches.by_ref().take(UNREAD).map(|batch| model.step(batch)) {
            losses.push(output.loss.into_tensor(&device));
            counts.push(output.tokens);
            add_counts(&mut expert_tokens, output.expert_tokens);
        }
        if losses.is_empty() {
            return Evaluation { loss: sum / tokens as f64, tokens, expert_tokens };
        }
        let (losses, _) = read(losses, None);
        for (loss, count) in losses.into_iter().zip(counts) {
            sum += loss * count as f64;
            tokens += count;
        }
    }
}

/// [`evaluate`] on batches of a split, of which nothing must be cut off meanwhile: that would read as
/// zeros. There is no evaluation where it is told to stop before its end.
///
/// # Errors
/// A split that is no longer what it was.
pub fn evaluate_split<B: GptBackend>(
    model: &LanguageModel<B>,
    split: &Split,
    batches: impl Iterator<Item = TokenBatch>,
    stop: impl Fn() -> bool,
) -> Result<Option<Evaluation>, DataError> {
    split.check()?;
    let mut stopped = false;
    let evaluation = evaluate(
        model,
        batches.take_while(|_| {
            stopped = stop();
            !stopped
        }),
    );
    if stopped {
        return Ok(None);
    }
    split.check()?;
    Ok(Some(evaluation))
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
