//! MLflow's tracking server. A thread of its own takes the rows there: training neither waits for
//! the server nor fails with it, and its metrics are in `metrics.jsonl` in any case.

mod client;
mod queue;
mod sender;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Row, RowLogger};
use crate::config::{MlflowConfig, RunConfig};
use crate::train::SaveError;
use queue::{Queue, State};
use sender::Sender;

/// How long the first answer of a server is waited for.
const FIRST_ANSWER: Duration = Duration::from_secs(3);

/// How long a run that has ended waits for a server that takes nothing, and for one that does.
const SILENCE: Duration = Duration::from_secs(4);
const LAST_WORDS: Duration = Duration::from_secs(20);

/// Characters of a value that older servers take; newer ones take more.
const LONGEST_VALUE: usize = 500;

/// A run as a server knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlflowRun {
    pub uri: String,
    pub experiment: String,
    pub run_id: String,
}

/// How a run ended, as MLflow tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStatus {
    Finished,
    /// By its user; it can be resumed.
    Killed,
    Failed,
}

impl RunStatus {
    fn name(self) -> &'static str {
        match self {
            Self::Finished => "FINISHED",
            Self::Killed => "KILLED",
            Self::Failed => "FAILED",
        }
    }
}

/// Gives rows to an [`MlflowTracking`].
pub struct MlflowLogger {
    queue: Arc<Queue>,
}

impl RowLogger for MlflowLogger {
    fn log(&mut self, row: &Row) -> io::Result<()> {
        self.queue.add(row);
        Ok(())
    }
}

/// The connection of a run with a tracking server, from before the first step until after the last.
pub struct MlflowTracking {
    uri: String,
    queue: Arc<Queue>,
}

impl MlflowTracking {
    /// Looks for the server, and goes on looking. The run there is `before`, if it is still there,
    /// or a new one, which is given to `remember`.
    pub fn start(
        config: &RunConfig,
        server: &MlflowConfig,
        backend: &str,
        before: Option<MlflowRun>,
        remember: impl Fn(&MlflowRun) -> Result<(), SaveError> + Send + 'static,
    ) -> Self {
        let queue = Arc::new(Queue::default());
        let same = |run: &MlflowRun| run.uri == server.uri && run.experiment == server.experiment;
        let tags = [
            ("emberlm.version", env!("CARGO_PKG_VERSION")),
            ("emberlm.backend", backend),
            ("mlflow.source.name", env!("CARGO_PKG_NAME")),
        ];
        let sender = Sender {
            queue: queue.clone(),
            server: server.clone(),
            name: config.name.clone(),
            settings: settings(config),
            tags: tags.map(|(key, value)| (key.into(), value.into())).into(),
            run_id: before.filter(same).map(|run| run.run_id),
            remember: Box::new(remember),
        };
        let thread = std::thread::Builder::new().name("mlflow".into());
        if let Err(error) = thread.spawn(move || sender.run()) {
            queue.change(|state| {
                state.trouble = Some(error.to_string());
                state.is_done = true;
            });
        }
        Self { uri: server.uri.clone(), queue }
    }

    pub fn logger(&self) -> MlflowLogger {
        MlflowLogger { queue: self.queue.clone() }
    }

    /// A line on where the run is shown, or on why it is not shown yet.
    pub fn greeting(&self) -> String {
        let known = |state: &State| state.page.is_some() || state.trouble.is_some();
        self.queue.wait(FIRST_ANSWER, known, |state| match (&state.page, &state.trouble) {
            (Some(page), _) => format!("mlflow: {page}"),
            (None, reason) => {
                let reason = reason.as_deref().unwrap_or("no answer");
                format!("mlflow: not yet at {} ({reason}); training does not wait for it", self.uri)
            }
        })
    }

    /// Sends what is left, for a few seconds at most, and how the run ended. A line on what the
    /// server does not have, if anything.
    pub fn finish(self, status: RunStatus) -> Option<String> {
        let deadline = Instant::now() + LAST_WORDS;
        let mut left = self.queue.change(|state| {
            state.ending = Some(status);
            state.rows.len()
        });
        loop {
            let pause = SILENCE.min(deadline.saturating_duration_since(Instant::now()));
            let moves = |state: &State| state.is_done || state.rows.len() < left;
            let (is_done, now_left) =
                self.queue.wait(pause, moves, |state| (state.is_done, state.rows.len()));
            if is_done || now_left == left || Instant::now() > deadline {
                return self.queue.change(|state| self.report(state, status));
            }
            left = now_left;
        }
    }

    fn report(&self, state: &State, status: RunStatus) -> Option<String> {
        let missing = state.lost + state.rows.len();
        let reason = state.refusal.as_ref().or(state.trouble.as_ref());
        let silent = if state.page.is_some() { "it takes too long" } else { "no answer" };
        let why = reason.map_or(silent, String::as_str);
        if missing > 0 {
            return Some(format!(
                "mlflow: {missing} steps and evaluations were not logged at {}: {why}; metrics.jsonl has them all",
                self.uri
            ));
        }
        if !state.is_closed {
            let status = status.name();
            return Some(format!("mlflow: the run is not marked {status} at {}: {why}", self.uri));
        }
        state.refusal.as_ref().map(|reason| format!("mlflow: {reason}"))
    }
}

/// Ends the thread of a run that came to no end.
impl Drop for MlflowTracking {
    fn drop(&mut self) {
        self.queue.change(|state| {
            state.ending.get_or_insert(RunStatus::Failed);
        });
    }
}

/// A configuration as MLflow's parameters: dotted keys, and lists as JSON.
fn settings(config: &RunConfig) -> Vec<(String, String)> {
    fn add(path: &str, value: &Value, settings: &mut Vec<(String, String)>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    add(&path, value, settings);
                }
            }
            value => {
                let text = value.as_str().map_or_else(|| value.to_string(), String::from);
                settings.push((path.into(), text.chars().take(LONGEST_VALUE).collect()));
            }
        }
    }
    let mut settings = Vec::new();
    add("", &serde_json::to_value(config).unwrap_or_default(), &mut settings);
    settings
}
