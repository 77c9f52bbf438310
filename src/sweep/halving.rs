//! Successive halving: all trials are trained a little, the best of them longer, the best of those
//! longer still (Jamieson and Talwalkar 2016; with a factor other than two and rungs as here, the
//! inner loop of algorithm 1 of Li et al. 2018, "Hyperband").

use std::cmp::Ordering;

/// Trials that are trained to the same step, and compared there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    /// Optimizer steps from the beginning of a run; none where the configuration says its length.
    pub steps: Option<u64>,
    /// How many take part.
    pub trials: usize,
}

/// Rung `i` has `⌊trials / factor^i⌋` trials of `steps * factor^i` steps, as long as that is one
/// trial or more.
pub fn rungs(trials: usize, steps: u64, factor: usize) -> Vec<Rung> {
    let mut rungs = Vec::new();
    let (mut left, mut length) = (trials, steps);
    while left > 0 {
        rungs.push(Rung { steps: Some(length), trials: left });
        left = if factor > 1 { left / factor } else { 0 };
        length = length.saturating_mul(factor as u64);
    }
    rungs
}

/// The best `count` of trials and their losses, in the order of their numbers. Of equal ones the
/// first is better; one whose loss is not a number is never among them.
pub fn survivors(losses: &[(usize, f64)], count: usize) -> Vec<usize> {
    let mut ranked: Vec<(usize, f64)> =
        losses.iter().copied().filter(|(_, loss)| loss.is_finite()).collect();
    let order = |a: &f64, b: &f64| a.partial_cmp(b).unwrap_or(Ordering::Equal);
    ranked.sort_by(|a, b| order(&a.1, &b.1).then(a.0.cmp(&b.0)));
    let mut best: Vec<usize> = ranked.into_iter().take(count).map(|(trial, _)| trial).collect();
    best.sort_unstable();
    best
}
