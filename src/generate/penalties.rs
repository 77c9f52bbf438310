use std::collections::HashMap;

use super::SamplingError;

/// What makes tokens less likely that a text has already. They change the logits before anything
/// else does, in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// Divides the positive logits, and multiplies the negative ones, of tokens that are in the
    /// prompt or have been chosen (Keskar et al. 2019, section 4.1; that a negative one is
    /// multiplied is transformers' `RepetitionPenaltyLogitsProcessor`). One for none.
    pub repetition: f64,
    /// Is taken from a token's logit as many times as it has been chosen (OpenAI's
    /// `frequency_penalty`).
    pub frequency: f64,
    /// Is taken once from the logit of a token that has been chosen (OpenAI's `presence_penalty`).
    pub presence: f64,
}

impl Penalties {
    pub const NONE: Self = Self { repetition: 1.0, frequency: 0.0, presence: 0.0 };

    /// # Errors
    /// The first penalty that is out of range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let Self { repetition, frequency, presence } = *self;
        let check = SamplingError::check;
        let valid = repetition.is_finite() && repetition > 0.0;
        check("repetition-penalty", repetition, valid, "a positive number")?;
        check("frequency-penalty", frequency, frequency.is_finite(), "a number")?;
        check("presence-penalty", presence, presence.is_finite(), "a number")
    }
}

impl Default for Penalties {
    fn default() -> Self {
        Self::NONE
    }
}

/// Penalties and what they are for.
#[derive(Debug)]
pub(super) struct Penalised {
    penalties: Penalties,
    /// The tokens of the text, and how often each was chosen: of the prompt's tokens, no times.
    counts: HashMap<u32, u32>,
}

impl Penalised {
    pub(super) fn new(penalties: Penalties) -> Self {
        Self { penalties, counts: HashMap::new() }
    }

    pub(super) fn read(&mut self, prompt: &[u32]) {
        for token in prompt {
            self.counts.entry(*token).or_default();
        }
    }

    pub(super) fn choose(&mut self, token: u32) {
        *self.counts.entry(token).or_default() += 1;
    }

    /// The logits less their penalties.
    pub(super) fn apply(&self, logits: &[f32]) -> Vec<f32> {
        let Penalties { repetition, frequency, presence } = self.penalties;
        let mut logits = logits.to_vec();
        for (token, count) in &self.counts {
            // A prompt may have tokens that are never chosen.
            let Some(logit) = logits.get_mut(*token as usize) else { continue };
            let plain = f64::from(*logit);
            let repeated = if plain > 0.0 { plain / repetition } else { plain * repetition };
            let count = f64::from(*count);
            let penalty = count * frequency + if count > 0.0 { presence } else { 0.0 };
            *logit = (repeated - penalty) as f32;
        }
        logits
    }
}
