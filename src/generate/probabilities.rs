/// What a model thinks of a token before anything is filtered or penalised: natural logarithms of
/// the softmax over its logits.
#[derive(Debug, Clone, PartialEq)]
pub struct LogProbabilities {
    /// Of the token in question.
    pub token: f64,
    /// How many tokens are likelier, plus one.
    pub rank: usize,
    /// The likeliest tokens, best first; by id where two are equally likely.
    pub top: Vec<(u32, f64)>,
}

impl LogProbabilities {
    /// Of a token among those that the logits are of, beside the likeliest `count`.
    pub fn new(logits: &[f32], token: u32, count: usize) -> Self {
        let log_total = log_sum_exp(logits);
        let own = logits[token as usize];
        let higher =
            |(id, logit): (usize, &f32)| *logit > own || (*logit == own && id < token as usize);
        Self {
            token: f64::from(own) - log_total,
            rank: 1 + logits.iter().enumerate().filter(|logit| higher(*logit)).count(),
            top: likeliest(logits, count)
                .into_iter()
                .map(|id| (id, f64::from(logits[id as usize]) - log_total))
                .collect(),
        }
    }
}

/// `ln Σ exp(x)`
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let highest = f64::from(highest);
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - highest).exp()).sum();
    highest + sum.ln()
}

/// The ids of the highest logits, highest first.
pub(super) fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let order =
        |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if count < ids.len() {
        // Most of a vocabulary is never sorted.
        if count > 0 {
            ids.select_nth_unstable_by(count - 1, order);
        }
        ids.truncate(count);
    }
    ids.sort_unstable_by(order);
    ids
}
