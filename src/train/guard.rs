//! Which steps are taken: not those whose numbers are no numbers, nor those that stand out.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;

use crate::config::{NonFinite, SkipSpikes, TrainConfig};

/// Steps in succession that may be left out; more are no accident, and the run ends.
const MOST_SKIPPED: u32 = 50;

/// A number that a step is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Watched {
    Loss,
    GradientNorm,
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loss => "the loss",
            Self::GradientNorm => "the gradient norm",
        })
    }
}

/// What is wrong with a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Objection {
    /// Infinite, or not a number at all.
    NonFinite { watched: Watched, value: f64 },
    /// So many standard deviations above the mean of the steps before.
    Spike { watched: Watched, value: f64, z_score: f64 },
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NonFinite { watched, value } => write!(f, "{watched} is {value}"),
            Self::Spike { watched, value, z_score } => write!(
                f,
                "{watched} is {value:.4}, {z_score:.1} standard deviations above the steps before"
            ),
        }
    }
}

/// Why a run ends at a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refusal {
    pub objection: Objection,
    /// Whether steps like this are left out, but for too many of them.
    pub skips: bool,
    /// Steps that were left out before it, one after the other, whatever was wrong with them.
    pub skipped: u32,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { objection, skips, skipped } = self;
        write!(f, "{objection}")?;
        match skipped {
            0 => {}
            1 => f.write_str(", and the step before it was skipped already")?,
            _ => write!(f, ", and the {skipped} steps before it were skipped already")?,
        }
        f.write_str("; resume from the last checkpoint with a lower train.schedule.learning_rate")?;
        match objection {
            Objection::NonFinite { .. } if !skips => {
                f.write_str(", or with --set train.non_finite=skip")
            }
            Objection::NonFinite { .. } => Ok(()),
            Objection::Spike { .. } => f.write_str(", or with --set train.skip_spikes=null"),
        }
    }
}

/// What is done about a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    Take,
    /// The weights stay as they are.
    Skip(Objection),
    /// The run ends.
    Stop(Refusal),
}

/// Judges steps. What it remembers belongs to a run's state: a resumed run judges alike.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// Losses and gradient norms of the steps before, the last one last.
    recent: VecDeque<(f64, f64)>,
    /// Steps left out in succession.
    in_succession: u32,
    /// Steps left out in all.
    pub skipped: u64,
}

impl Guard {
    /// Judges the next step by its loss, in nats a token, and its gradient norm before clipping.
    pub fn judge(&mut self, config: &TrainConfig, loss: f64, gradient_norm: f64) -> Verdict {
        let watched = [(Watched::Loss, loss), (Watched::GradientNorm, gradient_norm)];
        let infinite = watched.into_iter().find(|(_, value)| !value.is_finite());
        let (objection, skips) = match (infinite, config.skip_spikes) {
            (Some((watched, value)), _) => {
                let skips = config.non_finite == NonFinite::Skip;
                (Some(Objection::NonFinite { watched, value }), skips)
            }
            (None, Some(spikes)) => {
                let spike = self.spike(spikes, watched);
                // Those that are left out count as well: a level that has changed for good is
                // not taken for a spike for ever.
                self.recent.push_back((loss, gradient_norm));
                while self.recent.len() > spikes.window {
                    self.recent.pop_front();
                }
                (spike, true)
            }
            (None, None) => (None, true),
        };
        let Some(objection) = objection else {
            self.in_succession = 0;
            return Verdict::Take;
        };
        self.in_succession += 1;
        if !skips || self.in_succession > MOST_SKIPPED {
            return Verdict::Stop(Refusal { objection, skips, skipped: self.in_succession - 1 });
        }
        self.skipped += 1;
        Verdict::Skip(objection)
    }

    fn spike(&self, config: SkipSpikes, watched: [(Watched, f64); 2]) -> Option<Objection> {
        if self.recent.len() < config.window {
            return None;
        }
        watched.into_iter().find_map(|(watched, value)| {
            let recent = self.recent.iter().map(|(loss, norm)| match watched {
                Watched::Loss => *loss,
                Watched::GradientNorm => *norm,
            });
            let count = self.recent.len() as f64;
            let mean = recent.clone().sum::<f64>() / count;
            let variance = recent.map(|old| (old - mean).powi(2)).sum::<f64>() / (count - 1.0);
            let z_score = (value - mean) / variance.sqrt();
            // Steps that are all alike have no deviation to be measured by.
            (variance > 0.0 && z_score > config.z_score).then_some(Objection::Spike {
                watched,
                value,
                z_score,
            })
        })
    }
}
