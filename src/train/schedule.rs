use burn::lr_scheduler::LrScheduler;
use burn::tensor::backend::Backend;
use std::f64::consts::PI;

use crate::config::ScheduleConfig;

/// Linear warmup, then half a cosine (Loshchilov and Hutter 2017) down to a final learning rate,
/// which stays. It moves once an optimizer step.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    peak: f64,
    last: f64,
    warmup_steps: usize,
    decay_steps: usize,
    /// Steps taken.
    step: usize,
}

impl Schedule {
    /// A schedule for a run of `steps`, where that is known, of which `taken` are behind it.
    pub fn new(config: &ScheduleConfig, steps: Option<usize>, taken: usize) -> Self {
        Self {
            peak: config.learning_rate,
            last: config.final_learning_rate,
            warmup_steps: config.warmup_steps,
            decay_steps: config.decay_steps.or(steps).unwrap_or(usize::MAX),
            step: taken,
        }
    }

    /// The learning rate of a step, counted from zero.
    pub fn learning_rate(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            // nanoGPT's form: the first step is not lost to a rate of zero.
            return self.peak * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        if step >= self.decay_steps {
            return self.last;
        }
        let decayed = (step - self.warmup_steps) as f64;
        let share = decayed / (self.decay_steps - self.warmup_steps) as f64;
        self.last + (self.peak - self.last) * 0.5 * (1.0 + (PI * share).cos())
    }
}

impl LrScheduler for Schedule {
    type Record<B: Backend> = usize;

    fn step(&mut self) -> f64 {
        let rate = self.learning_rate(self.step);
        self.step += 1;
        rate
    }

    fn to_record<B: Backend>(&self) -> usize {
        self.step
    }

    fn load_record<B: Backend>(mut self, record: usize) -> Self {
        self.step = record;
        self
    }
}
