use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::fmt;
use std::str::FromStr;

/// A stretch of training: how long a run is, or how far apart two evaluations are. In JSON a number
/// of optimizer steps, or a text such as `"0.5 epochs"`, `"10M tokens"` or `"15 minutes"`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Span {
    /// Optimizer steps.
    Steps(u64),
    /// Passes over the training data.
    Epochs(f64),
    /// Tokens learned from.
    Tokens(u64),
    /// Of training, evaluations and checkpoints included.
    Minutes(f64),
}

const EXPECTED: &str =
    "expected a number of steps, or a text like \"2 epochs\", \"10M tokens\" or \"15 minutes\"";

impl Span {
    pub(super) fn is_positive(&self) -> bool {
        match self {
            Self::Steps(count) | Self::Tokens(count) => *count > 0,
            Self::Epochs(length) | Self::Minutes(length) => length.is_finite() && *length > 0.0,
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(count) => write!(f, "{count} steps"),
            Self::Epochs(count) => write!(f, "{count} epochs"),
            Self::Tokens(count) => write!(f, "{count} tokens"),
            Self::Minutes(count) => write!(f, "{count} minutes"),
        }
    }
}

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = text.trim().split_once(char::is_whitespace).ok_or(EXPECTED)?;
        let (digits, factor) = match number.char_indices().last() {
            Some((end, 'k' | 'K')) => (&number[..end], 1e3),
            Some((end, 'M')) => (&number[..end], 1e6),
            Some((end, 'B' | 'G')) => (&number[..end], 1e9),
            _ => (number, 1.0),
        };
        let value = digits.parse::<f64>().map_err(|_| EXPECTED)? * factor;
        if !value.is_finite() || value < 0.0 {
            return Err(EXPECTED);
        }
        // 1.001 times a million is a little less than it is in decimals.
        let is_whole = (value - value.round()).abs() <= 4.0 * f64::EPSILON * value;
        let whole = || if is_whole { Ok(value.round() as u64) } else { Err(EXPECTED) };
        match unit.trim() {
            "step" | "steps" => Ok(Self::Steps(whole()?)),
            "epoch" | "epochs" => Ok(Self::Epochs(value)),
            "token" | "tokens" => Ok(Self::Tokens(whole()?)),
            "minute" | "minutes" => Ok(Self::Minutes(value)),
            _ => Err(EXPECTED),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Steps(count) => serializer.serialize_u64(*count),
            other => serializer.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let span = match Value::deserialize(deserializer)? {
            Value::String(text) => text.parse().ok(),
            value => value.as_u64().map(Self::Steps),
        };
        span.ok_or_else(|| serde::de::Error::custom(EXPECTED))
    }
}
