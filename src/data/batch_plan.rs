use crate::config::{BatchWarmup, TrainConfig};

/// How many examples each optimizer step has, and in which micro-batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPlan {
    /// Examples of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of a step.
    pub accumulation: usize,
    pub warmup: Option<BatchWarmup>,
}

impl BatchPlan {
    /// Equal steps.
    pub fn new(batch_size: usize, accumulation: usize) -> Self {
        Self { batch_size, accumulation, warmup: None }
    }

    pub fn of_run(config: &TrainConfig) -> Self {
        let TrainConfig { batch_size, accumulation, batch_warmup: warmup, .. } = *config;
        Self { batch_size, accumulation, warmup }
    }

    /// Examples of a step, counted from zero.
    pub fn examples(&self, step: u64) -> usize {
        let full = self.batch_size * self.accumulation;
        match self.warmup {
            Some(warmup) if step < warmup.steps => {
                let more = (full - warmup.examples) as u128 * u128::from(step);
                warmup.examples + (more / u128::from(warmup.steps)) as usize
            }
            _ => full,
        }
    }

    /// Examples of each micro-batch of a step: as few micro-batches as there can be.
    pub fn micro_batches(&self, step: u64) -> impl Iterator<Item = usize> {
        let (examples, batch_size) = (self.examples(step), self.batch_size);
        (0..examples).step_by(batch_size).map(move |before| batch_size.min(examples - before))
    }

    /// Steps until so many examples have been consumed.
    pub fn steps_for(&self, examples: u64) -> u64 {
        let (mut left, mut step) = (examples, 0);
        while left > 0 && self.warmup.is_some_and(|warmup| step < warmup.steps) {
            left = left.saturating_sub(self.examples(step) as u64);
            step += 1;
        }
        step + left.div_ceil(self.examples(step) as u64)
    }
}
