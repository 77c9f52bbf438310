use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ConfigError;
use super::kind::with_kind;
use super::schema::check;

/// How the learning rate goes on after a linear warmup from zero to its peak; `cosine` where no
/// kind is given. `learning_rate` is the peak, and steps are optimizer steps. `decay_steps` is the
/// step at which the final learning rate is reached, which is the end of the run where it is
/// absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ScheduleConfig {
    /// It stays at the peak.
    Constant {
        #[serde(default = "default_peak")]
        learning_rate: f64,
        #[serde(default = "default_warmup_steps")]
        warmup_steps: usize,
    },
    /// A straight line down.
    Linear {
        #[serde(default = "default_peak")]
        learning_rate: f64,
        #[serde(default)]
        final_learning_rate: f64,
        #[serde(default = "default_warmup_steps")]
        warmup_steps: usize,
        #[serde(default)]
        decay_steps: Option<usize>,
    },
    /// Half a cosine down (Loshchilov and Hutter 2017).
    Cosine {
        #[serde(default = "default_peak")]
        learning_rate: f64,
        #[serde(default = "default_cosine_end")]
        final_learning_rate: f64,
        #[serde(default = "default_warmup_steps")]
        warmup_steps: usize,
        #[serde(default)]
        decay_steps: Option<usize>,
    },
    /// Half cosines down, each of which begins at the peak again (SGDR, Loshchilov and Hutter
    /// 2017).
    CosineRestarts {
        #[serde(default = "default_peak")]
        learning_rate: f64,
        /// That at the end of each cycle.
        #[serde(default)]
        final_learning_rate: f64,
        #[serde(default = "default_warmup_steps")]
        warmup_steps: usize,
        /// Length of the first cycle.
        cycle_steps: usize,
        /// Each cycle is so many times as long as the one before it.
        #[serde(default = "default_cycle_factor")]
        cycle_factor: usize,
    },
    /// It stays at the peak, and falls in the last part of the run (Hägele et al. 2024).
    WarmupStableDecay {
        #[serde(default = "default_peak")]
        learning_rate: f64,
        #[serde(default)]
        final_learning_rate: f64,
        #[serde(default = "default_warmup_steps")]
        warmup_steps: usize,
        #[serde(default)]
        decay_steps: Option<usize>,
        /// The share of all steps up to `decay_steps` in which it falls.
        #[serde(default = "default_decay_fraction")]
        decay_fraction: f64,
        #[serde(default)]
        decay_shape: DecayShape,
    },
    /// It falls with the root of the steps (Vaswani et al. 2017), and never ends.
    InverseSqrt {
        #[serde(default = "default_peak")]
        learning_rate: f64,
        #[serde(default = "default_warmup_steps")]
        warmup_steps: usize,
    },
}

/// How the learning rate falls at the end of a [`ScheduleConfig::WarmupStableDecay`], over the
/// share `s` of the decay that lies behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DecayShape {
    /// `1 - s`
    #[serde(rename = "linear")]
    Linear,
    /// `1 - sqrt(s)`
    #[default]
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

fn default_peak() -> f64 {
    1e-3
}

fn default_cosine_end() -> f64 {
    1e-4
}

fn default_warmup_steps() -> usize {
    100
}

fn default_cycle_factor() -> usize {
    1
}

fn default_decay_fraction() -> f64 {
    0.2
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self::Cosine {
            learning_rate: default_peak(),
            final_learning_rate: default_cosine_end(),
            warmup_steps: default_warmup_steps(),
            decay_steps: None,
        }
    }
}

impl ScheduleConfig {
    /// The peak.
    pub fn learning_rate(&self) -> f64 {
        match self {
            Self::Constant { learning_rate, .. }
            | Self::Linear { learning_rate, .. }
            | Self::Cosine { learning_rate, .. }
            | Self::CosineRestarts { learning_rate, .. }
            | Self::WarmupStableDecay { learning_rate, .. }
            | Self::InverseSqrt { learning_rate, .. } => *learning_rate,
        }
    }

    pub fn warmup_steps(&self) -> usize {
        match self {
            Self::Constant { warmup_steps, .. }
            | Self::Linear { warmup_steps, .. }
            | Self::Cosine { warmup_steps, .. }
            | Self::CosineRestarts { warmup_steps, .. }
            | Self::WarmupStableDecay { warmup_steps, .. }
            | Self::InverseSqrt { warmup_steps, .. } => *warmup_steps,
        }
    }

    /// That at the end of the decay; none for a schedule without an end.
    pub fn final_learning_rate(&self) -> Option<f64> {
        match self {
            Self::Linear { final_learning_rate, .. }
            | Self::Cosine { final_learning_rate, .. }
            | Self::CosineRestarts { final_learning_rate, .. }
            | Self::WarmupStableDecay { final_learning_rate, .. } => Some(*final_learning_rate),
            Self::Constant { .. } | Self::InverseSqrt { .. } => None,
        }
    }

    /// The step at which the final learning rate is reached, where that is said.
    pub fn decay_steps(&self) -> Option<usize> {
        match self {
            Self::Linear { decay_steps, .. }
            | Self::Cosine { decay_steps, .. }
            | Self::WarmupStableDecay { decay_steps, .. } => *decay_steps,
            Self::Constant { .. } | Self::CosineRestarts { .. } | Self::InverseSqrt { .. } => None,
        }
    }

    /// Whether the number of steps of the run must be known: it ends with the run.
    pub fn ends_with_run(&self) -> bool {
        match self {
            Self::Linear { decay_steps, .. }
            | Self::Cosine { decay_steps, .. }
            | Self::WarmupStableDecay { decay_steps, .. } => decay_steps.is_none(),
            Self::Constant { .. } | Self::CosineRestarts { .. } | Self::InverseSqrt { .. } => false,
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let (peak, last) = (self.learning_rate(), self.final_learning_rate().unwrap_or(0.0));
        let positive = peak.is_finite() && peak > 0.0;
        check("train.schedule.learning_rate", peak, positive, "a positive number")?;
        let valid = last.is_finite() && last >= 0.0;
        check("train.schedule.final_learning_rate", last, valid, "zero or a positive number")?;
        if let Some(end) = self.decay_steps() {
            let expected = "above train.schedule.warmup_steps";
            check("train.schedule.decay_steps", end, end > self.warmup_steps(), expected)?;
        }
        match self {
            Self::CosineRestarts { cycle_steps, cycle_factor, .. } => {
                let (steps, factor) = (*cycle_steps, *cycle_factor);
                check("train.schedule.cycle_steps", steps, steps >= 1, "at least 1")?;
                check("train.schedule.cycle_factor", factor, factor >= 1, "at least 1")
            }
            Self::WarmupStableDecay { decay_fraction: share, .. } => {
                let valid = *share > 0.0 && *share <= 1.0;
                check("train.schedule.decay_fraction", share, valid, "above 0 and at most 1")
            }
            _ => Ok(()),
        }
    }
}

impl Serialize for ScheduleConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for ScheduleConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(with_kind(deserializer, "cosine")?).map_err(D::Error::custom)
    }
}
