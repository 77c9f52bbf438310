use serde::{Deserialize, Serialize};

use crate::config::{DataConfig, Packing, RunConfig, Span, TrainConfig};
use crate::data::{BatchPlan, LoaderPosition, Task};

/// How far a run has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Optimizer steps taken.
    pub step: usize,
    /// Tokens learned from.
    pub tokens: u64,
    /// Examples consumed.
    pub examples: u64,
    /// Examples consumed of the data that is read now: the position in it.
    pub cursor: u64,
    /// Seconds spent training and evaluating.
    pub seconds: f64,
}

impl Progress {
    pub fn position(&self) -> LoaderPosition {
        LoaderPosition { step: self.step as u64, cursor: self.cursor }
    }

    /// Whole spans that lie behind, where a pass over the data has so many examples.
    pub fn spans(&self, span: Span, examples_per_pass: usize) -> u64 {
        match span {
            Span::Steps(steps) => self.step as u64 / steps,
            Span::Tokens(tokens) => self.tokens / tokens,
            Span::Epochs(epochs) => {
                (self.examples as f64 / (examples_per_pass as f64 * epochs)) as u64
            }
            Span::Minutes(minutes) => (self.seconds / (minutes * 60.0)) as u64,
        }
    }

    /// Whether a run of this length is at its end.
    pub fn has_reached(&self, length: Span, examples_per_pass: usize) -> bool {
        self.spans(length, examples_per_pass) >= 1
    }

    /// Whether the end of an interval lies between some earlier progress and this one.
    pub fn has_passed(&self, before: &Self, interval: Span, examples_per_pass: usize) -> bool {
        self.spans(interval, examples_per_pass) > before.spans(interval, examples_per_pass)
    }
}

/// The optimizer steps of a whole run, where they are the same whatever data it has.
pub fn planned_steps(run: &RunConfig) -> Option<usize> {
    let RunConfig { model, data, train, .. } = run;
    match (train.length(), data) {
        // As long as the data.
        (Span::Epochs(_), _) => None,
        // Pairs and documents have as many targets as they have; windows are full.
        (
            Span::Tokens(_),
            DataConfig::Pairs { .. } | DataConfig::Tokens { packing: Packing::Documents, .. },
        ) => None,
        _ => {
            let targets = Task::targets_of_window(model.architecture, model.context_length);
            total_steps(train, targets, 0)
        }
    }
}

/// The optimizer steps of a whole run, where that is known beforehand; of examples that have so many
/// targets on average, of which a pass over the data takes so many.
pub fn total_steps(
    config: &TrainConfig,
    targets_per_example: f64,
    examples_per_pass: usize,
) -> Option<usize> {
    let plan = BatchPlan::of_run(config);
    let steps = match config.length() {
        Span::Steps(steps) => steps,
        Span::Epochs(epochs) => plan.steps_for((examples_per_pass as f64 * epochs).ceil() as u64),
        Span::Tokens(tokens) => plan.steps_for((tokens as f64 / targets_per_example).ceil() as u64),
        Span::Minutes(_) => return None,
    };
    Some(steps as usize)
}
