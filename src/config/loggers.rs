use serde::{Deserialize, Serialize};

/// Where the metrics of a run go besides `metrics.jsonl`, which there always is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoggersConfig {
    /// `metrics.csv` in the run's folder.
    pub csv: bool,
    /// Event files in the run's folder.
    pub tensorboard: bool,
}
