use serde::{Deserialize, Serialize};

use super::schema::check;
use super::{ConfigError, NamePattern};

/// Low-rank adapters (Hu et al. 2021): beside the weights of a linear layer, which stay as they
/// are, the product of two thin matrices is learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Width between the two matrices.
    pub rank: usize,
    /// The product counts `alpha / rank` times.
    pub alpha: f64,
    /// Probability of dropping a number of what an adapter sees, in training only.
    pub dropout: f64,
    /// The linear layers that have an adapter, such as `attention.*`.
    pub targets: Vec<NamePattern>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let all = NamePattern::try_from(String::from("*")).expect("a star is a pattern");
        Self { rank: 8, alpha: 16.0, dropout: 0.0, targets: vec![all] }
    }
}

impl LoraConfig {
    /// Factor on the product of the two matrices.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Whether a linear layer has an adapter, by its name.
    pub fn targets(&self, linear: &str) -> bool {
        self.targets.iter().any(|pattern| pattern.matches(linear))
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let (rank, alpha, dropout) = (self.rank, self.alpha, self.dropout);
        let expected = "at least 1 and at most 65536";
        check("model.lora.rank", rank, (1..=1 << 16).contains(&rank), expected)?;
        let positive = alpha.is_finite() && alpha > 0.0;
        check("model.lora.alpha", alpha, positive, "a positive number")?;
        let valid = (0.0..1.0).contains(&dropout);
        check("model.lora.dropout", dropout, valid, "at least 0 and below 1")?;
        let any = !self.targets.is_empty();
        check("model.lora.targets", "[]", any, "one pattern or more, such as \"attention.*\"")
    }
}
