use burn_train::LearnerSummary;
use burn_train::metric::{MetricDefinition, MetricEntry, MetricId, NumericEntry};
use burn_train::renderer::{
    EvaluationName, EvaluationProgress, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining, ProgressType, TrainingProgress,
};
use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use super::metrics::{GRADIENT_NORM, LEARNING_RATE, LOSS, PERPLEXITY, TOKENS_PER_SECOND};

/// One readable line an interval, for where there is no dashboard.
pub struct PlainRenderer {
    steps: usize,
    log_every: usize,
    source_entropy: Option<f64>,
    names: HashMap<MetricId, String>,
    values: HashMap<String, f64>,
    step: usize,
    first_step: usize,
    started: Instant,
}

impl PlainRenderer {
    /// For a run of `steps`, of which `taken` are behind it.
    pub fn new(steps: usize, taken: usize, log_every: usize, source_entropy: Option<f64>) -> Self {
        Self {
            steps,
            log_every,
            source_entropy,
            names: HashMap::new(),
            values: HashMap::new(),
            step: taken,
            first_step: taken,
            started: Instant::now(),
        }
    }

    fn note(&mut self, state: MetricState) {
        if let MetricState::Numeric(MetricEntry { metric_id, .. }, value) = state
            && let Some(name) = self.names.get(&metric_id)
        {
            self.values.insert(name.clone(), NumericEntry::current(&value));
        }
    }

    fn value(&self, name: &str) -> f64 {
        self.values.get(name).copied().unwrap_or(f64::NAN)
    }

    fn remaining(&self) -> String {
        let done = self.step - self.first_step;
        if done == 0 {
            return "-".into();
        }
        let seconds = self.started.elapsed().as_secs_f64() / done as f64;
        let left = seconds * self.steps.saturating_sub(self.step) as f64;
        humantime::format_duration(Duration::from_secs(left.round() as u64)).to_string()
    }
}

/// A run goes on when nobody reads its lines any more.
fn print_line(line: std::fmt::Arguments) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

impl MetricsRendererTraining for PlainRenderer {
    fn update_train(&mut self, state: MetricState) {
        self.note(state);
    }

    fn update_valid(&mut self, state: MetricState) {
        self.note(state);
    }

    fn render_train(&mut self, item: TrainingProgress, _indicators: Vec<ProgressType>) {
        self.step = item.iteration.unwrap_or(self.step + 1);
        let first = self.step == self.first_step + 1;
        if !first && !self.step.is_multiple_of(self.log_every) && self.step != self.steps {
            return;
        }
        print_line(format_args!(
            "step {:>width$}/{}  loss {:.4}  perplexity {:.2}  lr {:.2e}  grad norm {:.3}  {:.0} tokens/s  {} left",
            self.step,
            self.steps,
            self.value(LOSS),
            self.value(PERPLEXITY),
            self.value(LEARNING_RATE),
            self.value(GRADIENT_NORM),
            self.value(TOKENS_PER_SECOND),
            self.remaining(),
            width = self.steps.to_string().len(),
        ));
    }

    fn render_valid(&mut self, _item: TrainingProgress, _indicators: Vec<ProgressType>) {
        let floor = self
            .source_entropy
            .map(|entropy| format!("  (source entropy {entropy:.4})"))
            .unwrap_or_default();
        print_line(format_args!(
            "step {:>width$}/{}  validation loss {:.4}{floor}  perplexity {:.2}",
            self.step,
            self.steps,
            self.value(LOSS),
            self.value(PERPLEXITY),
            width = self.steps.to_string().len(),
        ));
    }

    fn on_train_end(
        &mut self,
        _summary: Option<LearnerSummary>,
    ) -> Result<(), Box<dyn core::error::Error>> {
        Ok(())
    }
}

impl MetricsRendererEvaluation for PlainRenderer {
    fn update_test(&mut self, _name: EvaluationName, state: MetricState) {
        self.note(state);
    }

    fn render_test(&mut self, _item: EvaluationProgress, _indicators: Vec<ProgressType>) {}
}

impl MetricsRenderer for PlainRenderer {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.names.insert(definition.metric_id, definition.name);
    }
}
