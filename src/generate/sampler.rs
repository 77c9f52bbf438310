use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

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

impl Sampling {
    /// # Errors
    /// The first setting that is out of range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = |setting, found: f64, valid, expected| {
            if valid {
                return Ok(());
            }
            Err(SamplingError { setting, found, expected })
        };
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

/// Chooses tokens, one after the other.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// # Errors
    /// A setting that is out of range.
    pub fn new(sampling: Sampling, seed: u64) -> Result<Self, SamplingError> {
        sampling.validate()?;
        Ok(Self { sampling, rng: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// The id of the next token. The logits must not be empty.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.temperature == 0.0 {
            return most_likely(logits);
        }
        let candidates = self.candidates(logits);
        let total: f64 = candidates.iter().map(|(_, probability)| probability).sum();
        let mut threshold = self.rng.random::<f64>() * total;
        for (id, probability) in &candidates {
            threshold -= probability;
            if threshold < 0.0 {
                return *id;
            }
        }
        // Rounding can leave a little of the threshold over.
        candidates.last().map_or_else(|| most_likely(logits), |(id, _)| *id)
    }

    /// The tokens that the filters leave, most likely first, with unnormalised probabilities.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let Sampling { temperature, top_k, top_p, min_p } = self.sampling;
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut candidates: Vec<(u32, f64)> = (0..)
            .zip(logits)
            .map(|(id, logit)| (id, (f64::from(logit - highest) / temperature).exp()))
            .collect();
        // By id where two are equally likely, so that the order is the same everywhere.
        let order = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if let Some(k) = top_k.filter(|k| (1..candidates.len()).contains(k)) {
            // Most of a vocabulary is never sorted.
            candidates.select_nth_unstable_by(k - 1, order);
            candidates.truncate(k);
        }
        candidates.sort_by(order);
        if let Some(top_p) = top_p {
            let total: f64 = candidates.iter().map(|(_, probability)| probability).sum();
            let mut sum = 0.0;
            let kept = candidates.iter().position(|(_, probability)| {
                sum += probability / total;
                sum >= top_p
            });
            candidates.truncate(kept.map_or(usize::MAX, |last| last + 1));
        }
        if let (Some(min_p), Some((_, most))) = (min_p, candidates.first().copied()) {
            candidates.retain(|(_, probability)| *probability >= min_p * most);
        }
        candidates
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
