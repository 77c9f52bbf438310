use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

use super::client::{Client, Failure};
use super::queue::{Queue, now};
use super::{MlflowRun, RunStatus, SILENCE};
use crate::config::MlflowConfig;
use crate::train::{Row, SaveError};

/// Between two batches; and the first pause after a failure, which then doubles.
const INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// For a request and its answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// After its end a run tries so often, with such a pause: a connection that was idle may be closed.
const LAST_ATTEMPTS: usize = 2;
const LAST_PAUSE: Duration = Duration::from_millis(200);

/// What a request may hold (MLflow's REST interface, "Log Batch").
const MOST_METRICS: usize = 1000;
const MOST_SETTINGS: usize = 100;

/// Keeps which run on the server it is.
pub(super) type Remember = Box<dyn Fn(&MlflowRun) -> Result<(), SaveError> + Send>;

/// Takes rows from the queue to the server.
pub(super) struct Sender {
    pub(super) queue: Arc<Queue>,
    pub(super) server: MlflowConfig,
    /// Of the run.
    pub(super) name: String,
    pub(super) settings: Vec<(String, String)>,
    pub(super) tags: Vec<(String, String)>,
    /// The run on the server, if there is one.
    pub(super) run_id: Option<String>,
    pub(super) remember: Remember,
}

impl Sender {
    pub(super) fn run(mut self) {
        let mut client = Client::new(&self.server.uri, TIMEOUT);
        let (mut is_open, mut pause, mut last_attempts) = (false, Duration::ZERO, 0);
        loop {
            let is_ending = |state: &super::State| state.ending.is_some();
            let ending = self.queue.wait(pause, is_ending, |state| state.ending);
            if ending.is_some() {
                client.timeout = SILENCE;
            }
            let sent = self.send(&client, &mut is_open, ending);
            pause =
                if sent.is_ok() { INTERVAL } else { (pause * 2).clamp(INTERVAL, LONGEST_PAUSE) };
            let has_failed = sent.is_err();
            if let Err(failure) = sent {
                // The server may have lost it; then it is made anew.
                is_open &= !matches!(failure, Failure::Missing);
                self.queue.change(|state| state.trouble = Some(failure.reason()));
            }
            if ending.is_some() {
                last_attempts += 1;
                if !has_failed || last_attempts == LAST_ATTEMPTS {
                    self.queue.change(|state| state.is_done = true);
                    return;
                }
                std::thread::sleep(LAST_PAUSE);
            }
        }
    }

    fn send(
        &mut self,
        client: &Client,
        is_open: &mut bool,
        ending: Option<RunStatus>,
    ) -> Result<(), Failure> {
        let run_id = if let (true, Some(run_id)) = (*is_open, self.run_id.clone()) {
            run_id
        } else {
            self.open(client)?
        };
        *is_open = true;
        loop {
            let rows = self.queue.oldest(MOST_METRICS);
            if rows.is_empty() {
                break;
            }
            let metrics: Vec<Value> =
                rows.iter().flat_map(|(time, row)| metrics(*time, row)).collect();
            let mut is_taken = true;
            for metrics in metrics.chunks(MOST_METRICS) {
                is_taken &= self.log(client, &run_id, "metrics", metrics)?;
            }
            self.queue.change(|state| {
                state.rows.drain(..rows.len());
                state.lost += if is_taken { 0 } else { rows.len() };
                state.trouble = None;
            });
        }
        if let Some(status) = ending {
            let end = json!({"run_id": run_id, "status": status.name(), "end_time": now()});
            client.post("runs/update", &end)?;
            self.queue.change(|state| state.is_closed = true);
        }
        Ok(())
    }

    /// Whether the server has taken a batch. What it refuses, it would refuse again: that is left
    /// out.
    fn log(
        &self,
        client: &Client,
        run_id: &str,
        kind: &str,
        batch: &[Value],
    ) -> Result<bool, Failure> {
        match client.post("runs/log-batch", &json!({"run_id": run_id, kind: batch})) {
            Ok(_) => Ok(true),
            Err(Failure::Refused(reason)) => {
                self.queue.change(|state| state.refusal = Some(reason));
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Finds or makes the run on the server, and tells it what the run is.
    fn open(&mut self, client: &Client) -> Result<String, Failure> {
        let MlflowConfig { uri, experiment } = &self.server;
        let found = client.get("experiments/get-by-name", "experiment_name", experiment);
        let experiment_id = match found {
            Ok(found) => text(&found["experiment"]["experiment_id"])?,
            Err(Failure::Missing) => {
                let made = client.post("experiments/create", &json!({"name": experiment}))?;
                text(&made["experiment_id"])?
            }
            Err(failure) => return Err(failure),
        };
        let found = match &self.run_id {
            Some(run_id) => match client.get("runs/get", "run_id", run_id) {
                Ok(found) => {
                    Some(found).filter(|it| it["run"]["info"]["lifecycle_stage"] == "active")
                }
                Err(Failure::Missing) => None,
                Err(failure) => return Err(failure),
            },
            None => None,
        };
        let run = match found {
            Some(found) => {
                let run_id = text(&found["run"]["info"]["run_id"])?;
                client.post("runs/update", &json!({"run_id": run_id, "status": "RUNNING"}))?;
                found
            }
            None => {
                let new = json!({
                    "experiment_id": experiment_id,
                    "run_name": self.name,
                    "start_time": now(),
                });
                client.post("runs/create", &new)?
            }
        };
        let run_id = text(&run["run"]["info"]["run_id"])?;
        if self.run_id.as_ref() != Some(&run_id) {
            self.run_id = Some(run_id.clone());
            let (uri, experiment) = (uri.clone(), experiment.clone());
            let remembered =
                (self.remember)(&MlflowRun { uri, experiment, run_id: run_id.clone() });
            if let Err(error) = remembered {
                self.queue.change(|state| state.refusal = Some(error.to_string()));
            }
        }
        self.describe(client, &run_id, &run["run"]["data"])?;
        let root = self.server.uri.trim_end_matches('/');
        let page = format!("{root}/#/experiments/{experiment_id}/runs/{run_id}");
        self.queue.change(|state| state.page = Some(page));
        Ok(run_id)
    }

    /// Settings become parameters, which a server never changes. Those that are otherwise in a run
    /// that goes on become tags.
    fn describe(&self, client: &Client, run_id: &str, known: &Value) -> Result<(), Failure> {
        let find = |list: &str, key: &str| {
            let list = known[list].as_array().into_iter().flatten();
            list.into_iter().find(|entry| entry["key"] == key).map(|entry| entry["value"].clone())
        };
        let entry = |(key, value): &(String, String)| json!({"key": key, "value": value});
        let (mut params, mut tags) = (Vec::new(), Vec::new());
        for setting in &self.settings {
            let (key, value) = setting;
            match find("params", key) {
                None => params.push(entry(setting)),
                // A tag from an earlier change would be out of date.
                Some(old) if old != **value || find("tags", key).is_some() => {
                    tags.push(entry(setting));
                }
                Some(_) => {}
            }
        }
        tags.extend(self.tags.iter().map(entry));
        for (kind, entries) in [("params", params), ("tags", tags)] {
            for entries in entries.chunks(MOST_SETTINGS) {
                self.log(client, run_id, kind, entries)?;
            }
        }
        Ok(())
    }
}

fn text(value: &Value) -> Result<String, Failure> {
    let foreign = || Failure::Refused("the server does not answer as MLflow does".into());
    value.as_str().map(String::from).ok_or_else(foreign)
}

/// What is not a number goes as protocol buffers have it in JSON. MLflow keeps infinity as the
/// largest number there is.
fn metrics(time: u64, row: &Row) -> impl Iterator<Item = Value> {
    row.values.iter().map(move |logged| {
        let value = match logged.value {
            value if value.is_finite() => json!(value),
            value if value.is_nan() => json!("NaN"),
            value if value > 0.0 => json!("Infinity"),
            _ => json!("-Infinity"),
        };
        let key = format!("{}/{}", row.split, logged.key);
        json!({"key": key, "value": value, "timestamp": time, "step": row.step})
    })
}
