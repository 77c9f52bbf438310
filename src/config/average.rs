use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::schema::check;

/// A running mean of the weights, which is evaluated and kept beside them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AverageConfig {
    /// The share of the mean that an optimizer step leaves.
    pub decay: f64,
}

impl AverageConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let valid = self.decay > 0.0 && self.decay < 1.0;
        check("train.average.decay", self.decay, valid, "between 0 and 1")
    }
}
