use burn_train::LearnerSummary;
use burn_train::metric::{MetricDefinition, MetricEntry, MetricId, NumericEntry};
use burn_train::renderer::{
    EvaluationName, EvaluationProgress, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining, ProgressType, TrainingProgress,
};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Objection;
use super::metrics::{
    GRADIENT_NORM, GRAMMATICAL, LEARNING_RATE, LOSS, PERPLEXITY, TOKENS_PER_SECOND,
};

/// The steps that are worth a line. The training notes them, and the renderer, which burn runs on
/// another thread and some steps behind, takes them up.
#[derive(Debug, Clone, Default)]
pub(super) struct DueLines(Arc<Mutex<BTreeMap<usize, Option<Objection>>>>);

impl DueLines {
    /// A step that is due, and why it was left out, if it was.
    pub(super) fn add(&self, step: usize, skipped: Option<Objection>) {
        self.lines().insert(step, skipped);
    }

    fn take(&self, step: usize) -> Option<Option<Objection>> {
        self.lines().remove(&step)
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<usize, Option<Objection>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One readable line an interval, for where there is no dashboard.
pub(super) struct PlainRenderer {
    steps: Option<usize>,
    lines: DueLines,
    source_entropy: Option<f64>,
    names: HashMap<MetricId, String>,
    values: HashMap<String, f64>,
    step: usize,
    first_step: usize,
    started: Instant,
}

impl PlainRenderer {
    /// For a run of `steps`, where that is known, of which `taken` are behind it.
    pub(super) fn new(
        steps: Option<usize>,
        taken: usize,
        lines: DueLines,
        source_entropy: Option<f64>,
    ) -> Self {
        Self {
            steps,
            lines,
            source_entropy,
            names: HashMap::new(),
            values: HashMap::new(),
            step: taken,
            first_step: taken,
            started: Instant::now(),
        }
    }

    /// The step, and of how many.
    fn place(&self) -> String {
        match self.steps {
            Some(steps) => {
                format!("step {:>width$}/{steps}", self.step, width = steps.to_string().len())
            }
            None => format!("step {}", self.step),
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

    /// The time to the end, where that is known.
    fn remaining(&self) -> String {
        let done = self.step - self.first_step;
        let Some(steps) = self.steps.filter(|_| done > 0) else {
            return String::new();
        };
        let seconds = self.started.elapsed().as_secs_f64() / done as f64;
        let left = Duration::from_secs((seconds * steps.saturating_sub(self.step) as f64) as u64);
        format!("  {} left", humantime::format_duration(left))
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
        let due = self.lines.take(self.step);
        if self.step != self.first_step + 1 && due.is_none() {
            return;
        }
        if let Some(Some(objection)) = due {
            print_line(format_args!("{}  left out: {objection}", self.place()));
            return;
        }
        print_line(format_args!(
            "{}  loss {:.4}  perplexity {:.2}  lr {:.2e}  grad norm {:.3}  {:.0} tokens/s{}",
            self.place(),
            self.value(LOSS),
            self.value(PERPLEXITY),
            self.value(LEARNING_RATE),
            self.value(GRADIENT_NORM),
            self.value(TOKENS_PER_SECOND),
            self.remaining(),
        ));
    }

    fn render_valid(&mut self, _item: TrainingProgress, _indicators: Vec<ProgressType>) {
        let floor = self
            .source_entropy
            .map(|entropy| format!("  (source entropy {entropy:.4})"))
            .unwrap_or_default();
        let stories = self
            .values
            .get(GRAMMATICAL)
            .map(|share| format!("  grammatical stories {:.1}%", 100.0 * share))
            .unwrap_or_default();
        print_line(format_args!(
            "{}  validation loss {:.4}{floor}  perplexity {:.2}{stories}",
            self.place(),
            self.value(LOSS),
            self.value(PERPLEXITY),
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

/// Nothing is shown.
pub(super) struct Silent;

impl MetricsRendererTraining for Silent {
    fn update_train(&mut self, _state: MetricState) {}

    fn update_valid(&mut self, _state: MetricState) {}

    fn render_train(&mut self, _item: TrainingProgress, _indicators: Vec<ProgressType>) {}

    fn render_valid(&mut self, _item: TrainingProgress, _indicators: Vec<ProgressType>) {}
}

impl MetricsRendererEvaluation for Silent {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}

    fn render_test(&mut self, _item: EvaluationProgress, _indicators: Vec<ProgressType>) {}
}

impl MetricsRenderer for Silent {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, _definition: MetricDefinition) {}
}
