use std::cmp::Ordering;

/// What a model thinks of a token before anything is filtered or penalised: natural logarithms of
/// the softmax over its logits.
#[derive(Debug, Clone, PartialEq)]
pub struct LogProbabilities {
    /// Of the token in question.
    pub token: f64,
    /// How many tokens are likelier, plus one; by id where two are equally likely. The last where
    /// its probability is not a number.
    pub rank: usize,
    /// The likeliest tokens, best first, in the order of their ranks.
    pub top: Vec<(u32, f64)>,
}

impl LogProbabilities {
    /// Of a token among those that the logits are of, beside the likeliest `count`.
    pub fn new(logits: &[f32], token: u32, count: usize) -> Self {
        let log_total = log_sum_exp(logits);
        let own = f64::from(logits[token as usize]) - log_total;
        let ids = 0..logits.len() as u32;
        Self {
            token: own,
            rank: match own.is_nan() {
                true => logits.len(),
                false => 1 + ids.filter(|id| order(logits, *id, token).is_lt()).count(),
            },
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

/// The higher logit first, by id where two are equal; behind all others what is not a number.
fn order(logits: &[f32], a: u32, b: u32) -> Ordering {
    let (of_a, of_b) = (logits[a as usize], logits[b as usize]);
    let by_logit = of_b.partial_cmp(&of_a);
    by_logit.unwrap_or_else(|| of_a.is_nan().cmp(&of_b.is_nan())).then(a.cmp(&b))
}

/// The ids of the highest logits, highest first.
pub(super) fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    if count == 0 {
        return Vec::new();
    }
    let order = |a: &u32, b: &u32| order(logits, *a, *b);
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if count < ids.len() {
        // Most of a vocabulary is never sorted.
        ids.select_nth_unstable_by(count - 1, order);
        ids.truncate(count);
    }
    ids.sort_unstable_by(order);
    ids
}
