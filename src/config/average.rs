use serde::{Deserialize, Serialize};

/// A running mean of the weights, which is evaluated and kept beside them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AverageConfig {
    /// The share of the mean that an optimizer step leaves, between 0 and 1.
    pub decay: f64,
}
