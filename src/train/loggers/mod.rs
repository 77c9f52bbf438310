//! Where the metrics of a run go besides the screen. Each logger takes rows, one an optimizer step
//! and one an evaluation, and writes to whatever its caller has opened for it.

mod csv;
mod json_lines;
mod tensorboard;

pub use csv::CsvLogger;
pub use json_lines::JsonLinesLogger;
pub use tensorboard::TensorBoardLogger;

use burn_train::logger::MetricLogger;
use burn_train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn_train::metric::{MetricDefinition, MetricId, NumericEntry};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
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

/// Takes the rows of a run. A logger never stops it: what cannot be written is reported once, and
/// left out.
pub trait RowLogger: Send {
    /// Called once, before the first row, with all the keys that rows can have.
    fn begin(&mut self, _keys: &[String]) {}

    fn log(&mut self, row: &Row);
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

    /// The keys of the first row in its order, which is that of the metrics, and then the others.
    fn begin(&mut self, first: &Row) {
        let mut keys: Vec<String> = first.values.iter().map(|value| value.key.clone()).collect();
        let mut others: Vec<_> =
            self.keys.values().filter(|key| !keys.contains(key)).cloned().collect();
        others.sort();
        keys.append(&mut others);
        self.loggers.iter_mut().for_each(|logger| logger.begin(&keys));
        self.begun = true;
    }
}

impl MetricLogger for Loggers {
    fn log(&mut self, update: MetricsUpdate, _epoch: usize, split: &Split) {
        let row = self.row(update, split);
        if !self.begun {
            self.begin(&row);
        }
        self.loggers.iter_mut().for_each(|logger| logger.log(&row));
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

/// The last training step whose row all loggers have taken.
#[derive(Debug, Clone, Default)]
pub struct Written(Arc<(Mutex<usize>, Condvar)>);

impl Written {
    fn note(&self, step: usize) {
        let (last, changed) = &*self.0;
        *last.lock().unwrap_or_else(PoisonError::into_inner) = step;
        changed.notify_all();
    }

    /// Waits until the row of a training step is with the loggers, so that a checkpoint of that
    /// step never stands beside a history without it. Whether it is there in time.
    pub fn wait_for(&self, step: usize, at_most: Duration) -> bool {
        let (last, changed) = &*self.0;
        let last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(last, at_most, |last| *last < step);
        let (last, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *last >= step
    }
}

/// A full disk shows itself at the next checkpoint, where it stops the run with a reason.
fn report(result: io::Result<()>) {
    if let Err(error) = result {
        log::warn!("cannot write metrics: {error}");
    }
}
