use anyhow::anyhow;
use burn::data::dataloader::DataLoader;
use burn::module::Module;
use serde_json::{Value, json};
use std::time::Instant;

use super::peak::peak_gflops;
use super::{mebibytes, median, milliseconds, peak_mib, reserved_mib, rounded, say, shapes};
use crate::backend::{self, BackendKind, Job, TrainBackend};
use crate::cli::BenchTrainArgs;
use crate::config::RunConfig;
use crate::data::{Corpus, LoaderPosition, TokenBatch, TrainLoader};
use crate::model::{Initializer, Model};
use crate::train::{
    Guard, LanguageModel, Phases, Progress, Stepper, flops_per_token, training_memory,
};

/// Steps before those that are measured: threads start, memory is taken, kernels are compiled.
const WARMUP_STEPS: u32 = 5;
/// Steps whose batches are made once more, to see what they cost.
const READ_STEPS: u32 = 50;

pub(super) fn run(args: BenchTrainArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.target.backend.as_deref())?;
    let (config, corpus, _folder) = shapes::load(&args.shape, &args.set)?;
    let job = Bench { args: &args, backend, config: &config, corpus: &corpus };
    let result = backend::dispatch(backend.on(args.target.device), job)??;
    Ok(say(args.json, &result)?)
}

struct Bench<'a> {
    args: &'a BenchTrainArgs,
    backend: BackendKind,
    config: &'a RunConfig,
    corpus: &'a Corpus,
}

impl Job for Bench<'_> {
    type Output = anyhow::Result<Value>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<Value> {
        let Self { args, backend, config, corpus } = self;
        backend::check_precision::<B>(backend, &device, config.train.precision)?;
        let vocab_size = config.model.vocab_size.unwrap_or_default();
        let initializer = Initializer::seeded(config.seed);
        let model = Model::<B>::new(&config.name, &config.model, vocab_size, initializer, &device);
        let params = model.num_params();
        let mut stepper = Stepper::of_run(
            LanguageModel::new(model, &config.model).trained_as(&config.train),
            config,
            device.clone(),
        )?;
        let loader = TrainLoader::of_run(config, corpus, LoaderPosition::default());
        let mut batches = DataLoader::<B, TokenBatch>::iter(&loader);
        let (mut progress, mut guard) = (Progress::default(), Guard::default());
        let (mut steps, mut phases) = (Vec::new(), Vec::new());
        let (mut tokens, mut reserved) = (0, [None, None]);
        for number in 0..WARMUP_STEPS + args.steps {
            let started = Instant::now();
            let step = stepper.step(&mut batches, &mut progress, &mut guard);
            let time = started.elapsed();
            let output =
                step.map_err(|reason| anyhow!("step {number} was not taken: {reason:?}"))?.output;
            if number + 1 == WARMUP_STEPS {
                reserved[0] = reserved_mib::<B>(&device)?;
            }
            if number >= WARMUP_STEPS {
                steps.push(milliseconds(time));
                phases.push(output.phases);
                tokens = output.tokens;
            }
        }
        reserved[1] = reserved_mib::<B>(&device)?;
        // Nothing is read ahead any more while the batches are made once again.
        drop(batches);
        // Before there is anything that is no part of the steps.
        let peak_mib = peak_mib();
        let read = batch_costs(&loader, config);

        let phase = |of: fn(&Phases) -> f64| rounded(median(phases.iter().map(of).collect()) * 1e3);
        let step = median(steps.clone());
        let all_steps: f64 = steps.iter().sum();
        let all_waits = phases.iter().map(|phases| phases.data * 1e3).sum::<f64>();
        let mut result = json!({
            "bench": "train",
            "shape": args.shape,
            "backend": backend.name(),
            "params": params,
            "n_layers": config.model.n_layers,
            "d_model": config.model.d_model,
            "context_length": config.model.context_length,
            "batch_size": config.train.batch_size,
            "accumulation": config.train.accumulation,
            "vocab_size": vocab_size,
            "dropout": config.model.dropout,
            "precision": config.train.precision,
            "steps": args.steps,
            "tokens_per_step": tokens,
            "step_ms": rounded(step),
            "tokens_per_s": (tokens as f64 / step * 1e3).round(),
            "data_ms": phase(|phases| phases.data),
            "forward_ms": phase(|phases| phases.forward),
            "backward_ms": phase(|phases| phases.backward),
            "optimizer_ms": phase(|phases| phases.optimizer),
            "wait_ms_mean": rounded(all_waits / steps.len() as f64),
            "wait_percent": rounded(100.0 * all_waits / all_steps),
            "read_ms": rounded(read),
            "read_percent": rounded(100.0 * read / step),
        });
        if let Some(peak_mib) = peak_mib {
            result["peak_mib"] = peak_mib;
        }
        let foretold = training_memory(config, vocab_size, backend.into())?.needed(backend);
        result["foretold_mib"] = mebibytes(foretold);
        if let [Some(warm), Some(last)] = reserved {
            result["reserved_mib_after_warmup"] = warm;
            result["reserved_mib"] = last;
        }
        if let Some(flops) = flops_per_token(config, vocab_size) {
            let flops = flops * tokens as f64;
            let gflops = flops / step / 1e6;
            let peak = peak_gflops::<B::InnerBackend>(config.train.precision, &device)?;
            result["flops_per_step"] = flops.into();
            result["gflops"] = rounded(gflops);
            result["peak_gflops"] = rounded(peak);
            result["utilisation_percent"] = rounded(100.0 * gflops / peak);
        }
        Ok(result)
    }
}

/// Milliseconds that it takes to make the batches of a step where the step itself makes them.
fn batch_costs(loader: &TrainLoader, config: &RunConfig) -> f64 {
    let examples = (config.train.batch_size * config.train.accumulation) as u64;
    let read = |step: u32| {
        let started = Instant::now();
        let batches = loader.read_step(LoaderPosition {
            step: u64::from(step),
            cursor: u64::from(step) * examples,
        });
        let time = started.elapsed();
        drop(std::hint::black_box(batches));
        milliseconds(time)
    };
    median((0..READ_STEPS).map(read).collect())
}
