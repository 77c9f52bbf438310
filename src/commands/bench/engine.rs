//! What a whole training costs beside its steps: burn-train's strategy and events, the loader, the
//! metrics, all but what is shown and kept.

use burn::module::AutodiffModule;
use burn::optim::{GradientsParams, Optimizer};
use burn_train::Interrupter;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{median, milliseconds, rounded, say, shapes};
use crate::backend::{self, BackendKind, Job, TrainBackend};
use crate::cli::BenchEngineArgs;
use crate::config::RunConfig;
use crate::config::Span;
use crate::data::{Corpus, LoaderPosition, TokenBatch, TrainLoader};
use crate::model::{Initializer, Model};
use crate::train::{
    Best, Checkpoint, Display, LanguageModel, Loggers, ModelOptimizer, RunKeeper, RunState,
    SaveError, Training, clip_factor, gradient_norm, train,
};

pub(super) fn run(args: BenchEngineArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.target.backend.as_deref())?;
    let (mut config, corpus, _folder) = shapes::load(&args.shape, &[])?;
    let train = &mut config.train;
    train.steps = Some(u64::from(args.steps));
    // Any of these would be the length instead.
    (train.epochs, train.tokens, train.minutes) = (None, None, None);
    // One evaluation, at the end, of which the time is not taken.
    config.train.evaluate_every = Span::Steps(u64::from(args.steps));
    config.train.evaluation_windows = 1;
    config.train.accumulation = 1;
    config.train.batch_warmup = None;
    let job = Bench { args: &args, backend, config: &config, corpus: &corpus };
    let result = backend::dispatch(backend.on(args.target.device), job)??;
    Ok(say(args.json, &result)?)
}

struct Bench<'a> {
    args: &'a BenchEngineArgs,
    backend: BackendKind,
    config: &'a RunConfig,
    corpus: &'a Corpus,
}

impl Job for Bench<'_> {
    type Output = anyhow::Result<Value>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<Value> {
        let Self { args, backend, config, corpus } = self;
        backend::check_precision::<B>(backend, &device, config.train.precision)?;
        // Threads start, memory is taken, kernels are compiled.
        bare::<B>(config, corpus, &device)?;
        whole::<B>(config, corpus, &device)?;
        let (mut bare_times, mut whole_times) = (Vec::new(), Vec::new());
        for round in 0..args.rounds {
            // In turns, and each first as often as the other: a machine does not stay as fast.
            let bare_first = round % 2 == 0;
            if bare_first {
                bare_times.push(bare::<B>(config, corpus, &device)?);
            }
            whole_times.push(whole::<B>(config, corpus, &device)?);
            if !bare_first {
                bare_times.push(bare::<B>(config, corpus, &device)?);
            }
        }
        let ratios: Vec<f64> =
            whole_times.iter().zip(&bare_times).map(|(whole, bare)| whole / bare).collect();
        let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = ratios.iter().copied().fold(0.0, f64::max);
        Ok(json!({
            "bench": "engine",
            "shape": args.shape,
            "backend": backend.name(),
            "rounds": args.rounds,
            "steps": args.steps,
            "bare_step_ms": rounded(median(bare_times)),
            "whole_step_ms": rounded(median(whole_times)),
            "ratio": rounded(median(ratios)),
            "ratio_lowest": rounded(lowest),
            "ratio_highest": rounded(highest),
        }))
    }
}

fn new_model<B: TrainBackend>(config: &RunConfig, device: &B::Device) -> LanguageModel<B> {
    let vocab_size = config.model.vocab_size.unwrap_or_default();
    let initializer = Initializer::seeded(config.seed);
    let model = Model::new(&config.name, &config.model, vocab_size, initializer, device);
    LanguageModel::new(model, &config.model).trained_as(&config.train)
}

/// Milliseconds a step, of a loop written by hand: a batch that is there already, its loss, its
/// gradients, and the optimizer.
fn bare<B: TrainBackend>(
    config: &RunConfig,
    corpus: &Corpus,
    device: &B::Device,
) -> anyhow::Result<f64> {
    let mut model = new_model::<B>(config, device);
    let mut optimizer = ModelOptimizer::new(&config.train.optimizer, &model)?;
    let loader = TrainLoader::of_run(config, corpus, LoaderPosition::default());
    let batches: Vec<TokenBatch> = loader.read_step(LoaderPosition::default());
    let Some(batch) = batches.first() else { return Ok(0.0) };
    let steps = config.train.steps.unwrap_or_default();
    let started = Instant::now();
    for _ in 0..steps {
        let gradients = GradientsParams::from_grads(model.loss(batch).backward(), &model);
        let norm = gradient_norm(&model, &gradients);
        optimizer.scale_gradients(clip_factor(norm, config.train.clip_norm));
        model = optimizer.step(config.train.schedule.learning_rate(), model, gradients);
    }
    B::sync(device)?;
    let time = milliseconds(started.elapsed());
    drop(std::hint::black_box(model.valid()));
    Ok(time / steps as f64)
}

/// Milliseconds a step, of a training as `emberlm train` does it.
fn whole<B: TrainBackend>(
    config: &RunConfig,
    corpus: &Corpus,
    device: &B::Device,
) -> anyhow::Result<f64> {
    let model = new_model::<B>(config, device);
    let clock = Clock::default();
    train(Training {
        config,
        corpus,
        optimizer: ModelOptimizer::new(&config.train.optimizer, &model)?,
        model,
        average: None,
        state: RunState::default(),
        device: device.clone(),
        further_devices: Vec::new(),
        keeper: Box::new(clock.clone()),
        loggers: Loggers::default(),
        display: Display::Silent,
        interrupter: Interrupter::new(),
    })?;
    let seconds = *clock.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(seconds * 1e3 / config.train.steps.unwrap_or_default() as f64)
}

/// Keeps the time, in seconds, that a training has taken up to its checkpoint, which comes before
/// the evaluation at its end.
#[derive(Debug, Clone, Default)]
struct Clock(Arc<Mutex<f64>>);

impl<B: TrainBackend> RunKeeper<B> for Clock {
    fn save(&mut self, checkpoint: &Checkpoint<B>) -> Result<(), SaveError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = checkpoint.state.progress.seconds;
        Ok(())
    }

    fn mark_best(&mut self, _best: Best) -> Result<(), SaveError> {
        Ok(())
    }

    fn sample(
        &mut self,
        _step: usize,
        _model: &LanguageModel<B::InnerBackend>,
    ) -> Result<(), SaveError> {
        Ok(())
    }
}
