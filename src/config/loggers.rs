use serde::{Deserialize, Serialize};
use ureq::http::Uri;

use super::ConfigError;

/// Where the metrics of a run go besides `metrics.jsonl`, which there always is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoggersConfig {
    /// `metrics.csv` in the run's folder.
    pub csv: bool,
    /// Event files in the run's folder.
    pub tensorboard: bool,
    /// An MLflow tracking server; absent for none.
    pub mlflow: Option<MlflowConfig>,
}

/// A tracking server, and where on it a run belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlflowConfig {
    /// Such as `http://127.0.0.1:5000`.
    pub uri: String,
    /// Made if there is none of this name.
    #[serde(default = "default_experiment")]
    pub experiment: String,
}

fn default_experiment() -> String {
    "emberlm".into()
}

impl LoggersConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.mlflow.as_ref().map_or(Ok(()), MlflowConfig::validate)
    }
}

impl MlflowConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let refused = |key: &str, reason: &str| {
            let path = format!("train.loggers.mlflow.{key}");
            Err(ConfigError::Value { path, reason: reason.into(), nearest: None })
        };
        let uri = self.uri.parse::<Uri>().unwrap_or_default();
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        if !is_web || uri.host().is_none_or(str::is_empty) {
            let reason = "expected the address of a tracking server, as http://127.0.0.1:5000";
            return refused("uri", reason);
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            let reason = "leave out user and password: they would be kept in the run";
            return refused("uri", reason);
        }
        if uri.query().is_some() || self.uri.contains('#') {
            return refused("uri", "leave out what begins with ? or #");
        }
        if self.experiment.trim().is_empty() {
            return refused("experiment", "expected a name");
        }
        Ok(())
    }
}
