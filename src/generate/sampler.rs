use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::penalties::{Penalised, Penalties};

/// How the next token is chosen. The filters apply in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; zero takes the most likely token always.
    pub temperature: f64,
    /// Keeps the most likely tokens, this many.
    pub top_k: Option<usize>,
    /// Keeps the fewest most likely tokens whose probabilities sum to at least this (Holtzman et
    /// al. 2020, nucleus sampling).
    pub top_p: Option<f64>,
    /// Keeps tokens at least this likely as the most likely one (Nguyen et al. 2024, min-p).
    pub min_p: Option<f64>,
}

/// A setting that is out of range.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{setting} = {found} is out of range: it must be {expected}")]
pub struct SamplingError {
    setting: &'static str,
    found: f64,
    expected: &'static str,
}

impl SamplingError {
    /// As the command line calls it.
    pub fn setting(&self) -> &'static str {
        self.setting
    }

    pub(super) fn check(
        setting: &'static str,
        found: f64,
        valid: bool,
        expected: &'static str,
    ) -> Result<(), Self> {
        if valid { Ok(()) } else { Err(Self { setting, found, expected }) }
    }
}

impl Sampling {
    /// # Errors
    /// The first setting that is out of range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = SamplingError::check;
        let Self { temperature, top_k, top_p, min_p } = *self;
        let valid = temperature.is_finite() && temperature >= 0.0;
        check("temperature", temperature, valid, "zero or a positive number")?;
        if let Some(k) = top_k {
            check("top-k", k as f64, k >= 1, "at least 1")?;
        }
        if let Some(p) = top_p {
            check("top-p", p, p > 0.0 && p <= 1.0, "above 0 and at most 1")?;
        }
        if let Some(p) = min_p {
            check("min-p", p, (0.0..=1.0).contains(&p), "between 0 and 1")?;
        }
        Ok(())
    }
}

/// Tokens that are sorted before it is known how many are needed.
const FIRST: usize = 256;

/// Tokens and their probabilities, most likely first, and by id where two are equally likely, so
/// that the order is the same everywhere. Most of a vocabulary is never sorted: only as much of it
/// is as has been looked at.
struct Descending {
    tokens: Vec<(u32, f64)>,
    /// So many are in their places.
    sorted: usize,
}

impl Descending {
    fn order(a: &(u32, f64), b: &(u32, f64)) -> std::cmp::Ordering {
        b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
    }

    fn new(tokens: Vec<(u32, f64)>) -> Self {
        let mut all = Self { tokens, sorted: 0 };
        all.sort(FIRST);
        all
    }

    /// Brings the next so many into their places.
    fn sort(&mut self, count: usize) {
        let rest = &mut self.tokens[self.sorted..];
        let count = count.min(rest.len());
        if count < rest.len() {
            rest.select_nth_unstable_by(count, Self::order);
        }
        rest[..count].sort_unstable_by(Self::order);
        self.sorted += count;
    }

    fn truncate(&mut self, count: usize) {
        if count > self.sorted {
            self.sort(count - self.sorted);
        }
        self.tokens.truncate(count);
        self.sorted = self.sorted.min(count);
    }

    fn get(&mut self, place: usize) -> Option<(u32, f64)> {
        if place >= self.sorted {
            self.sort(3 * self.sorted);
        }
        self.tokens.get(place).copied()
    }

    /// How many come before the first that `ends`, or all.
    fn count_until(&mut self, mut ends: impl FnMut(f64) -> bool) -> usize {
        let mut count = 0;
        while let Some((_, probability)) = self.get(count) {
            if ends(probability) {
                break;
            }
            count += 1;
        }
        count
    }

    fn total(&self) -> f64 {
        self.tokens.iter().map(|(_, probability)| probability).sum()
    }
}

impl Sampling {
    /// The probabilities of the tokens that the filters leave, most likely first. They sum to one.
    pub fn distribution(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        if self.temperature == 0.0 {
            return vec![(most_likely(logits), 1.0)];
        }
        let mut candidates = self.candidates(logits);
        let total = candidates.total();
        let sorted = (0..).map_while(|place| candidates.get(place));
        sorted.map(|(id, probability)| (id, probability / total)).collect()
    }

    /// The tokens that the filters leave, with unnormalised probabilities.
    fn candidates(&self, logits: &[f32]) -> Descending {
        let Self { temperature, top_k, top_p, min_p } = *self;
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let highest = f64::from(highest);
        let probability = |logit: f32| ((f64::from(logit) - highest) / temperature).exp();
        let mut candidates =
            Descending::new((0..).zip(logits.iter().map(|logit| probability(*logit))).collect());
        if let Some(top_k) = top_k {
            candidates.truncate(top_k);
        }
        if let Some(top_p) = top_p {
            let (total, mut sum) = (candidates.total(), 0.0);
            let before = candidates.count_until(|probability| {
                sum += probability / total;
                sum >= top_p
            });
            candidates.truncate(before + 1);
        }
        if let (Some(min_p), Some((_, most))) = (min_p, candidates.get(0)) {
            let kept = candidates.count_until(|probability| probability < min_p * most);
            candidates.truncate(kept);
        }
        candidates
    }
}

/// Chooses the tokens of one sequence, one after the other.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    penalised: Option<Penalised>,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// # Errors
    /// A setting that is out of range.
    pub fn new(sampling: Sampling, seed: u64) -> Result<Self, SamplingError> {
        sampling.validate()?;
        Ok(Self { sampling, penalised: None, rng: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// Makes tokens less likely that the text has already.
    ///
    /// # Errors
    /// A penalty that is out of range.
    pub fn with_penalties(mut self, penalties: Penalties) -> Result<Self, SamplingError> {
        penalties.validate()?;
        self.penalised = (penalties != Penalties::NONE).then(|| Penalised::new(penalties));
        Ok(self)
    }

    /// What the text has before the first token that is chosen here.
    pub fn read(&mut self, prompt: &[u32]) {
        if let Some(penalised) = &mut self.penalised {
            penalised.read(prompt);
        }
    }

    /// The id of the next token. The logits must not be empty.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        let Some(mut penalised) = self.penalised.take() else {
            return self.choose_among(logits);
        };
        let token = self.choose_among(&penalised.apply(logits));
        penalised.choose(token);
        self.penalised = Some(penalised);
        token
    }

    fn choose_among(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.temperature == 0.0 {
            return most_likely(logits);
        }
        let mut candidates = self.sampling.candidates(logits);
        let mut threshold = self.rng.random::<f64>() * candidates.total();
        let chosen = candidates.count_until(|probability| {
            threshold -= probability;
            threshold < 0.0
        });
        // Rounding can leave a little of the threshold over.
        let chosen = candidates.get(chosen).or_else(|| candidates.tokens.last().copied());
        chosen.map_or_else(|| most_likely(logits), |(id, _)| id)
    }
}

/// The first of the highest logits.
fn most_likely(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}
