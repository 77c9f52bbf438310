use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::schema::check;

/// AdamW (Loshchilov and Hutter 2019), with decay on parameters of two or more dimensions only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 }
    }
}

impl OptimizerConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        for (path, value) in
            [("train.optimizer.beta1", self.beta1), ("train.optimizer.beta2", self.beta2)]
        {
            check(path, value, (0.0..1.0).contains(&value), "at least 0 and below 1")?;
        }
        let (epsilon, decay) = (self.epsilon, self.weight_decay);
        let positive = epsilon.is_finite() && epsilon > 0.0;
        check("train.optimizer.epsilon", epsilon, positive, "a positive number")?;
        let valid = decay.is_finite() && decay >= 0.0;
        check("train.optimizer.weight_decay", decay, valid, "zero or a positive number")
    }
}
