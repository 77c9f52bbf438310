use burn::lr_scheduler::LrScheduler;
use burn::tensor::backend::Backend;
use std::f64::consts::PI;

use crate::config::DecayShape;
use crate::config::ScheduleConfig;

/// The learning rate over a run: a linear warmup to the peak, then what the configuration says. It
/// moves once an optimizer step.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    peak: f64,
    warmup_steps: usize,
    course: Course,
    /// Steps taken.
    step: usize,
}

/// What comes after the warmup. Ends are steps, and from there on the learning rate is the last.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Course {
    Constant,
    Linear { last: f64, end: usize },
    Cosine { last: f64, end: usize },
    CosineRestarts { last: f64, cycle_steps: usize, cycle_factor: usize },
    StableDecay { last: f64, begin: usize, end: usize, shape: DecayShape },
    InverseSqrt,
}

impl Schedule {
    /// A schedule for a run of `steps`, where that is known, of which `taken` are behind it. One
    /// that is to end with a run of unknown length does not come down.
    pub fn new(config: &ScheduleConfig, steps: Option<usize>, taken: usize) -> Self {
        let warmup_steps = config.warmup_steps();
        let last = config.final_learning_rate().unwrap_or(0.0);
        let end = config.decay_steps().or(steps).unwrap_or(usize::MAX);
        let course = match *config {
            ScheduleConfig::Constant { .. } => Course::Constant,
            ScheduleConfig::Linear { .. } => Course::Linear { last, end },
            ScheduleConfig::Cosine { .. } => Course::Cosine { last, end },
            ScheduleConfig::CosineRestarts { cycle_steps, cycle_factor, .. } => {
                Course::CosineRestarts { last, cycle_steps, cycle_factor }
            }
            ScheduleConfig::WarmupStableDecay { decay_fraction, decay_shape: shape, .. } => {
                let decay = (end as f64 * decay_fraction).round() as usize;
                let begin = end.saturating_sub(decay).max(warmup_steps);
                Course::StableDecay { last, begin, end, shape }
            }
            ScheduleConfig::InverseSqrt { .. } => Course::InverseSqrt,
        };
        Self { peak: config.learning_rate(), warmup_steps, course, step: taken }
    }

    /// The learning rate of a step, counted from zero.
    pub fn learning_rate(&self, step: usize) -> f64 {
        let (peak, warmup_steps) = (self.peak, self.warmup_steps);
        if step < warmup_steps {
            // nanoGPT's form: the first step is not lost to a rate of zero.
            return peak * (step as f64 + 1.0) / (warmup_steps as f64 + 1.0);
        }
        match self.course {
            Course::Constant => peak,
            Course::Linear { last, end } | Course::Cosine { last, end } if step >= end => last,
            Course::Linear { last, end } => {
                last + (peak - last) * (1.0 - share(step, warmup_steps, end))
            }
            Course::Cosine { last, end } => half_cosine(peak, last, share(step, warmup_steps, end)),
            Course::CosineRestarts { last, cycle_steps, cycle_factor } => {
                let (passed, length) =
                    in_cycle(step - warmup_steps, cycle_steps.max(1), cycle_factor.max(1));
                half_cosine(peak, last, passed as f64 / length as f64)
            }
            Course::StableDecay { begin, .. } if step < begin => peak,
            Course::StableDecay { last, end, .. } if step >= end => last,
            Course::StableDecay { last, begin, end, shape } => {
                let share = share(step, begin, end);
                let left = match shape {
                    DecayShape::Linear => 1.0 - share,
                    DecayShape::OneMinusSqrt => 1.0 - share.sqrt(),
                };
                last + (peak - last) * left
            }
            // The peak is at the end of the warmup, however short that is.
            Course::InverseSqrt => {
                peak * ((warmup_steps as f64 + 1.0) / (step as f64 + 1.0)).sqrt()
            }
        }
    }
}

/// How much of a stretch lies behind a step in it.
fn share(step: usize, begin: usize, end: usize) -> f64 {
    (step - begin) as f64 / (end - begin) as f64
}

fn half_cosine(peak: f64, last: f64, share: f64) -> f64 {
    last + (peak - last) * 0.5 * (1.0 + (PI * share).cos())
}

/// Steps that have passed in the cycle of a step, and that cycle's length.
fn in_cycle(step: usize, first: usize, factor: usize) -> (usize, usize) {
    if factor == 1 {
        return (step % first, first);
    }
    let (mut passed, mut length) = (step, first);
    while passed >= length {
        passed -= length;
        length = length.saturating_mul(factor);
    }
    (passed, length)
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
