use burn_train::logger::MetricLogger;
use burn_train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn_train::metric::{MetricDefinition, MetricId, NumericEntry};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::Write;

/// Every step and every evaluation as one line of JSON.
pub struct JsonLinesLogger<W: Write + Send> {
    output: W,
    names: HashMap<MetricId, String>,
    step: usize,
}

impl<W: Write + Send> JsonLinesLogger<W> {
    /// Lines go to `output`; `taken` steps are behind the run.
    pub fn new(output: W, taken: usize) -> Self {
        Self { output, names: HashMap::new(), step: taken }
    }
}

impl<W: Write + Send> MetricLogger for JsonLinesLogger<W> {
    fn log(&mut self, update: MetricsUpdate, _epoch: usize, split: &Split) {
        // The strategy sends one update an optimizer step and one an evaluation.
        if *split == Split::Train {
            self.step += 1;
        }
        let mut line = Map::new();
        line.insert("split".into(), split.to_string().into());
        line.insert("step".into(), self.step.into());
        for metric in update.entries_numeric {
            if let Some(name) = self.names.get(&metric.entry.metric_id) {
                // What is a list is one in the file, whatever number stands for it on the screen.
                let list = serde_json::from_str(&metric.entry.serialized_entry.serialized).ok();
                let list = list.filter(Value::is_array);
                let value = list.unwrap_or_else(|| json!(metric.numeric_entry.current()));
                line.insert(name.clone(), value);
            }
        }
        let line = Value::Object(line);
        // A full disk shows itself at the next checkpoint, where it stops the run with a reason.
        if let Err(error) = writeln!(self.output, "{line}").and_then(|()| self.output.flush()) {
            log::warn!("cannot write metrics: {error}");
        }
    }

    fn read_numeric(
        &mut self,
        _name: &str,
        _epoch: usize,
        _split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        Err("metrics are written as JSON lines and not read back".into())
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        let name = definition.name.to_lowercase().replace(' ', "_");
        self.names.insert(definition.metric_id, name);
    }

    fn log_epoch_summary(&mut self, _summary: EpochSummary) {}
}
