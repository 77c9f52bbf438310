//! Where the metrics of a run go besides the screen. Each logger takes rows, one an optimizer step
//! and one an evaluation, and writes to whatever its caller has opened for it.

mod csv;
mod json_lines;
mod mlflow;
mod tensorboard;

pub use csv::CsvLogger;
pub use json_lines::JsonLinesLogger;
pub use mlflow::{MlflowLogger, MlflowRun, MlflowTracking, RunStatus};
pub use tensorboard::{TensorBoardLogger, keep_rows};

use burn_train::logger::MetricLogger;
use burn_train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn_train::metric::{MetricDefinition, MetricId, NumericEntry};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What one step or one evaluation has measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub split: Split,
    /// Optimizer steps taken.
    pub step: usize,
    pub values: Vec<Logged>,
}

/// One number of a [`Row`].
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    /// Such as `gradient_norm`.
    pub key: String,
    pub value: f64,
    /// What the number sums up, where that is more than a number.
    pub list: Option<Value>,
}

/// Takes the rows of a run. A logger never stops it: one that fails gets no more rows, so that
/// nothing is written behind half a row, and the run says so at its end.
pub trait RowLogger: Send {
    /// Called once, before the first row, with all the keys that rows can have.
    ///
    /// # Errors
    /// A place that cannot be written.
    fn begin(&mut self, _keys: &[String]) -> io::Result<()> {
        Ok(())
    }

    /// # Errors
    /// A place that cannot be written.
    fn log(&mut self, row: &Row) -> io::Result<()>;
}

/// What a metric tells the loggers beside its number, as the text that burn keeps of it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Recorded {
    pub(super) step: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) list: Option<Value>,
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// All loggers of a run, as burn's one.
#[derive(Default)]
pub struct Loggers {
    loggers: Vec<Box<dyn RowLogger>>,
    /// By the metrics' ids.
    keys: HashMap<MetricId, String>,
    begun: bool,
    step: usize,
    written: Written,
}

impl Loggers {
    pub fn new(loggers: Vec<Box<dyn RowLogger>>) -> Self {
        Self { loggers, ..Self::default() }
    }

    /// Tells how far the loggers have come, who work behind the training.
    pub fn written(&self) -> Written {
        self.written.clone()
    }

    fn row(&mut self, update: MetricsUpdate, split: &Split) -> Row {
        let mut values = Vec::with_capacity(update.entries_numeric.len());
        for metric in update.entries_numeric {
            let recorded = &metric.entry.serialized_entry.serialized;
            let recorded: Recorded = serde_json::from_str(recorded).unwrap_or_default();
            self.step = recorded.step.unwrap_or(self.step);
            if let Some(key) = self.keys.get(&metric.entry.metric_id) {
                let value = metric.numeric_entry.current();
                values.push(Logged { key: key.clone(), value, list: recorded.list });
            }
        }
        Row { split: split.clone(), step: self.step, values }
    }

    /// Those that fail are told no more.
    fn tell(&mut self, mut what: impl FnMut(&mut dyn RowLogger) -> io::Result<()>) {
        self.loggers.retain_mut(|logger| match what(logger.as_mut()) {
            Ok(()) => true,
            Err(error) => {
                self.written.note_trouble(&error);
                false
            }
        });
    }

    /// The keys of the first row in its order, which is that of the metrics, and then the others.
    fn begin(&mut self, first: &Row) {
        let mut keys: Vec<String> = first.values.iter().map(|value| value.key.clone()).collect();
        let mut others: Vec<_> =
            self.keys.values().filter(|key| !keys.contains(key)).cloned().collect();
        others.sort();
        keys.append(&mut others);
        self.tell(|logger| logger.begin(&keys));
        self.begun = true;
    }
}

impl MetricLogger for Loggers {
    fn log(&mut self, update: MetricsUpdate, _epoch: usize, split: &Split) {
        let row = self.row(update, split);
        if !self.begun {
            self.begin(&row);
        }
        self.tell(|logger| logger.log(&row));
        if row.split == Split::Train {
            self.written.note(row.step);
        }
    }

    fn read_numeric(
        &mut self,
        _name: &str,
        _epoch: usize,
        _split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        Err("metrics are written and not read back".into())
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        let key = definition.name.to_lowercase().replace(' ', "_");
        self.keys.insert(definition.metric_id, key);
    }

    fn log_epoch_summary(&mut self, _summary: EpochSummary) {}
}

/// How far the loggers of a run have come.
#[derive(Debug, Clone, Default)]
pub struct Written(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    /// The last training step whose row all loggers have taken.
    step: usize,
    /// The first thing that could not be written.
    trouble: Option<String>,
}

impl Written {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::train) fn note(&self, step: usize) {
        self.state().step = step;
        self.0.1.notify_all();
    }

    fn note_trouble(&self, error: &io::Error) {
        self.state().trouble.get_or_insert_with(|| error.to_string());
    }

    /// Why not all metrics are written, where they are not.
    pub fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    /// Waits until the row of a training step is with the loggers, so that a checkpoint of that
    /// step never stands beside a history without it; where it is not there in time, that is a
    /// trouble.
    pub fn wait_for(&self, step: usize, at_most: Duration) {
        let missing = |state: &mut State| state.step < step;
        let waited = self.0.1.wait_timeout_while(self.state(), at_most, missing);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            let late = || format!("step {step} was not with the loggers after {at_most:?}");
            state.trouble.get_or_insert_with(late);
        }
    }
}
