use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::schema::check;

/// Linear warmup from zero, then a cosine down to the final learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// The peak.
    pub learning_rate: f64,
    pub final_learning_rate: f64,
    pub warmup_steps: usize,
    /// The step at which the final learning rate is reached; `train.steps` where absent.
    pub decay_steps: Option<usize>,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            final_learning_rate: 1e-4,
            warmup_steps: 100,
            decay_steps: None,
        }
    }
}

impl ScheduleConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let (peak, last) = (self.learning_rate, self.final_learning_rate);
        let positive = peak.is_finite() && peak > 0.0;
        check("train.schedule.learning_rate", peak, positive, "a positive number")?;
        let valid = last.is_finite() && last >= 0.0;
        check("train.schedule.final_learning_rate", last, valid, "zero or a positive number")
    }
}
