use burn_train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use std::error::Error;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use super::metrics::{ExpertTokens, StepMetric};
use super::step::Components;
use super::strategy::{State, StepStrategy};
use super::{
    CheckpointSink, Evaluation, JsonLinesLogger, LanguageModel, ModelOptimizer, OptimizerError,
    PlainRenderer, Progress, Schedule, total_steps,
};
use crate::backend::TrainBackend;
use crate::config::RunConfig;
use crate::data::{Corpus, EvaluationLoader, LoaderPosition, TrainLoader};

/// What stops a training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    #[error("the checkpoint of step {step} could not be saved")]
    Save { step: usize, source: Box<dyn Error + Send + Sync> },
}

/// How a run is shown while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Display {
    /// burn-train's dashboard.
    #[cfg(feature = "tui")]
    Dashboard,
    /// A line an interval.
    Lines,
}

/// All that a training needs.
pub struct Training<'a, B: TrainBackend> {
    pub config: &'a RunConfig,
    pub corpus: &'a Corpus,
    pub model: LanguageModel<B>,
    pub device: B::Device,
    pub sink: Box<dyn CheckpointSink<B>>,
    /// Where metrics go as JSON lines.
    pub metrics: Box<dyn Write + Send>,
    pub display: Display,
    /// Stops the run after the step that it is in.
    pub interrupter: Interrupter,
}

/// What a training leaves.
pub struct Outcome<B: TrainBackend> {
    /// The last model, which need not be the best.
    pub model: LanguageModel<B::InnerBackend>,
    pub progress: Progress,
    /// The best evaluation on the fixed sample of the validation split, and its step.
    pub best: Option<(usize, Evaluation)>,
}

/// Trains a model through burn-train.
///
/// # Errors
/// [`TrainError::Optimizer`] where the optimizer does not fit the model, before the first step;
/// [`TrainError::Save`] where a checkpoint cannot be kept.
pub fn train<B: TrainBackend>(training: Training<B>) -> Result<Outcome<B>, TrainError> {
    let Training { config, corpus, model, device, sink, metrics, display, interrupter } = training;
    let context_length = config.model.context_length;
    let batch_size = config.train.batch_size;
    let train_loader = TrainLoader::of_run(config, corpus, LoaderPosition::default());
    let steps = total_steps(&config.train, context_length, train_loader.examples_per_pass());
    let sample = corpus.validation.spread(context_length, config.train.evaluation_windows);
    let valid_loader =
        EvaluationLoader::new(corpus.validation.clone(), corpus.task, sample, batch_size);

    let optimizer = ModelOptimizer::new(&config.train.optimizer, &model)?;
    let schedule = Schedule::new(&config.train.schedule, steps, 0);
    let state = Arc::new(Mutex::new(State {
        sink,
        progress: Progress::default(),
        best: None,
        error: None,
    }));
    let strategy = StepStrategy {
        config: config.train.clone(),
        steps,
        seed: config.seed,
        device,
        optimizer: optimizer.clone(),
        state: state.clone(),
    };
    let lines = PlainRenderer::new(steps.unwrap_or(0), 0, 20, corpus.source_entropy);
    // The folder is where burn would put its own logs and checkpoints; ours go to the sink.
    let supervised = SupervisedTraining::<Components<B>>::new(
        std::env::temp_dir(),
        Arc::new(train_loader),
        Arc::new(valid_loader),
    )
    .metric_train_numeric(StepMetric::loss())
    .metric_valid_numeric(StepMetric::loss())
    .metric_train_numeric(StepMetric::perplexity())
    .metric_valid_numeric(StepMetric::perplexity())
    .metric_train_numeric(StepMetric::learning_rate())
    .metric_train_numeric(StepMetric::gradient_norm())
    .metric_train_numeric(StepMetric::tokens_per_second())
    .with_metric_logger(JsonLinesLogger::new(metrics, 0))
    .with_application_logger(None)
    .with_interrupter(interrupter.clone())
    .with_training_strategy(TrainingStrategy::Custom(Arc::new(strategy)));
    let supervised = match config.model.feed_forward.experts {
        Some(_) => supervised
            .metric_train_numeric(ExpertTokens::new())
            .metric_valid_numeric(ExpertTokens::new()),
        None => supervised,
    };
    let supervised = match display {
        #[cfg(feature = "tui")]
        Display::Dashboard => supervised.renderer(super::dashboard::open(interrupter)),
        Display::Lines => supervised.renderer(lines),
    };
    let result = supervised.launch(Learner::new(model, optimizer, schedule));
    drop(result.renderer); // leaves the dashboard's screen

    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    match state.error.take() {
        Some(error) => Err(error),
        None => {
            Ok(Outcome { model: result.model, progress: state.progress, best: state.best.clone() })
        }
    }
}
