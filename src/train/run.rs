use burn_train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use std::sync::{Arc, Mutex, PoisonError};

use super::metrics;
use super::renderer::{DueLines, Silent};
use super::step::Components;
use super::strategy::{Shared, StepStrategy};
use super::{
    Average, Ended, LanguageModel, Loggers, ModelOptimizer, PlainRenderer, Refusal, RunKeeper,
    RunState, SaveError, Schedule, total_steps,
};
use crate::backend::TrainBackend;
use crate::config::RunConfig;
use crate::data::{Corpus, DataError, EvaluationLoader, TrainLoader};

/// What stops a training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("the checkpoint of step {step} could not be saved")]
    Save { step: usize, source: SaveError },
    #[error("step {step} has no data{}", if .source.is_none() { ": it ended" } else { "" })]
    NoData { step: usize, source: Option<DataError> },
    #[error("the evaluation after step {step} has no data")]
    NoValidationData { step: usize, source: DataError },
    #[error("at step {step}, with the batch of examples {first} to {last} of the data: {refusal}")]
    Refused { step: usize, first: u64, last: u64, refusal: Refusal },
    #[error(
        "at step {step} a device has failed, {device}: {reason}; resume from the last checkpoint"
    )]
    Device { step: usize, device: String, reason: String },
}

/// How a run is shown while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Display {
    /// burn-train's dashboard.
    #[cfg(feature = "tui")]
    Dashboard,
    /// A line an interval.
    Lines,
    /// Nothing; loggers see everything all the same.
    Silent,
}

impl Display {
    /// Gives the terminal back, where the process ends in the middle of a training.
    pub fn abandon(self) {
        match self {
            #[cfg(feature = "tui")]
            Self::Dashboard => super::dashboard::abandon(),
            Self::Lines | Self::Silent => {}
        }
    }
}

/// All that a training needs.
pub struct Training<'a, B: TrainBackend> {
    pub config: &'a RunConfig,
    pub corpus: &'a Corpus,
    pub model: LanguageModel<B>,
    /// With the moments of the steps that lie behind.
    pub optimizer: ModelOptimizer<B>,
    /// Of the weights of the steps that lie behind, where the configuration asks for one.
    pub average: Option<Average<B>>,
    /// That of a new run, or of the checkpoint that is resumed.
    pub state: RunState,
    pub device: B::Device,
    /// Those that take their part in each step beside it, each with a copy of the model;
    /// [`check_devices`](super::check_devices) says whether the configuration is for so many.
    pub further_devices: Vec<B::Device>,
    pub keeper: Box<dyn RunKeeper<B>>,
    /// Where metrics go besides the display.
    pub loggers: Loggers,
    pub display: Display,
    /// Stops the run after the step that it is in.
    pub interrupter: Interrupter,
}

/// What a training leaves.
pub struct Outcome<B: TrainBackend> {
    /// The last model as it was evaluated, which need not be the best.
    pub model: LanguageModel<B::InnerBackend>,
    pub state: RunState,
    pub ended: Ended,
}

/// Trains a model through burn-train, from where its state is to the end of its length.
///
/// # Errors
/// [`TrainError`]; what was saved before is as it was.
pub fn train<B: TrainBackend>(training: Training<B>) -> Result<Outcome<B>, TrainError> {
    let Training { config, corpus, model, optimizer, average, state, loggers, .. } = training;
    let context_length = config.model.context_length;
    let train_loader = TrainLoader::of_run(config, corpus, state.progress.position());
    let data = train_loader.clone();
    let sample = corpus.validation.spread(context_length, config.train.evaluation_windows);
    let valid_loader = EvaluationLoader::new(
        corpus.validation.clone(),
        corpus.task,
        sample,
        config.train.batch_size,
    );

    let devices = 1 + training.further_devices.len();
    let taken = state.progress.step;
    let written = loggers.written();
    written.note(taken); // by the run before it was resumed
    let targets = corpus.train.targets_per_example(config.model.architecture, context_length);
    let steps = total_steps(&config.train, targets, train_loader.examples_per_pass());
    let schedule = Schedule::new(&config.train.schedule, steps, taken);
    let lines = DueLines::default();
    let renderer = PlainRenderer::new(steps, taken, lines.clone(), corpus.source_entropy);
    let shared = Arc::new(Mutex::new(Shared {
        keeper: training.keeper,
        state,
        average,
        evaluated: None,
        ended: Ok(Ended::Finished),
    }));
    let strategy = StepStrategy {
        config: config.train.clone(),
        steps,
        validation: corpus.validation.clone(),
        seed: config.seed,
        device: training.device,
        further_devices: training.further_devices,
        optimizer: optimizer.clone(),
        shared: shared.clone(),
        lines,
        written,
    };
    // The folder is where burn would put its own logs and checkpoints; ours go to the keeper.
    let supervised = SupervisedTraining::<Components<B>>::new(
        std::env::temp_dir(),
        Arc::new(train_loader),
        Arc::new(valid_loader),
    )
    .with_metric_logger(loggers)
    .with_application_logger(None)
    .with_interrupter(training.interrupter.clone())
    .with_training_strategy(TrainingStrategy::Custom(Arc::new(strategy)));
    let supervised = metrics::register(supervised, config, corpus, devices);
    let supervised = match training.display {
        #[cfg(feature = "tui")]
        Display::Dashboard => supervised.renderer(super::dashboard::open(training.interrupter)),
        Display::Lines => supervised.renderer(renderer),
        Display::Silent => supervised.renderer(Silent),
    };
    let result = supervised.launch(Learner::new(model, optimizer, schedule));
    drop(result.renderer); // leaves the dashboard's screen

    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let ended = std::mem::replace(&mut shared.ended, Ok(Ended::Finished));
    let ended = ended.map_err(|error| match error {
        TrainError::NoData { step, .. } => TrainError::NoData { step, source: data.failure() },
        error => error,
    })?;
    let state = std::mem::take(&mut shared.state);
    let model = shared.evaluated.take().unwrap_or(result.model);
    Ok(Outcome { model, state, ended })
}
