use anyhow::anyhow;
use std::time::{Duration, Instant};

use crate::backend::{self, BackendKind, Job, Target, TrainBackend};
use crate::config::Architecture;
use crate::config::RunConfig;
use crate::data::{Example, TokenBatch};
use crate::model::{Initializer, Model};
use crate::train::{Guard, LanguageModel, Progress, Stepper};

/// Steps are measured for so long, and at least once.
const MEASURED: Duration = Duration::from_secs(2);
/// Tokens of a step that is measured, if a single example is no longer: with more, a token takes
/// no less time.
const TOKENS: usize = 2048;

/// How many tokens a second training learns from.
pub(super) fn tokens_per_second(config: &RunConfig, target: Target) -> anyhow::Result<f64> {
    backend::dispatch(target, Measure { config, backend: target.kind })?
}

struct Measure<'a> {
    config: &'a RunConfig,
    backend: BackendKind,
}

impl Job for Measure<'_> {
    type Output = anyhow::Result<f64>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<f64> {
        let Self { config, backend } = self;
        let mut config = config.clone();
        backend::check_precision::<B>(backend, &device, config.train.precision)?;
        let examples = (TOKENS / config.model.context_length).clamp(1, config.train.batch_size);
        config.train.batch_size = examples;
        config.train.accumulation = 1;
        config.train.batch_warmup = None;
        let vocab_size = config.model.vocab_size.unwrap_or_default();
        let initializer = Initializer::seeded(config.seed);
        let model = Model::<B>::new(&config.name, &config.model, vocab_size, initializer, &device);
        let model = LanguageModel::for_training(model, &config)?;
        let mut stepper = Stepper::of_run(model, &config, device.clone())?;
        let mut batches = std::iter::repeat(batch(&config, vocab_size, examples));
        let (mut progress, mut guard) = (Progress::default(), Guard::default());
        let mut step = || {
            let taken = stepper.step(&mut batches, &mut progress, &mut guard);
            taken.map_err(|reason| anyhow!("a step could not be measured: {reason:?}"))
        };
        // Memory is taken and kernels are compiled in the first.
        step()?;
        let started = Instant::now();
        let mut tokens = 0;
        while tokens == 0 || started.elapsed() < MEASURED {
            step()?;
            tokens += examples * config.model.context_length;
        }
        Ok(tokens as f64 / started.elapsed().as_secs_f64())
    }
}

/// Full windows of ids of which none matters.
fn batch(config: &RunConfig, vocab_size: usize, examples: usize) -> TokenBatch {
    let length = config.model.context_length;
    let row = |number: usize| -> Vec<u32> {
        (0..=length).map(|place| ((number * length + place * 31) % vocab_size) as u32).collect()
    };
    let example = |number: usize| {
        let row = row(number);
        Example {
            source: (config.model.architecture == Architecture::EncoderDecoder)
                .then(|| row[..length].to_vec()),
            input: row[..length].to_vec(),
            target: row[1..].to_vec(),
            asked: (config.model.architecture == Architecture::Encoder)
                .then(|| (0..length).step_by(7).collect()),
            documents: None,
        }
    };
    TokenBatch::new(&(0..examples).map(example).collect::<Vec<_>>(), 1.0)
}
