use anyhow::{Context, anyhow};
use burn::data::dataloader::DataLoader;
use burn::module::Module;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::{median, peak_mib, rounded, say};
use crate::backend::{self, BackendKind, Job, TrainBackend};
use crate::cli::BenchTrainArgs;
use crate::config::{self, DataConfig, Packing, RunConfig, Source, TokenizerConfig};
use crate::data::{
    Corpus, LoaderPosition, Preparation, SourceOptions, Sources, Task, TokenBatch, TrainLoader,
    ValidationSplit, prepare,
};
use crate::files;
use crate::model::{Initializer, Model};
use crate::tokenizer::{self, IdTokenizer};
use crate::train::{Guard, LanguageModel, Progress, Stepper};

/// Steps before those that are measured: threads start, memory is taken, kernels are compiled.
const WARMUP_STEPS: u32 = 5;
/// Where a configuration leaves the vocabulary to its text: that of Shakespeare's characters.
const VOCAB_SIZE: usize = 65;
/// Of the generated data.
const TOKENS: usize = 1 << 20;
const DOCUMENT_TOKENS: usize = 512;
const VALIDATION_FRACTION: f64 = 0.02;
const SEPARATOR: &str = "\n";
/// Steps whose batches are made once more, to see what they cost.
const READ_STEPS: u32 = 50;

/// A model and its batch.
struct Shape {
    name: &'static str,
    n_layers: usize,
    n_heads: usize,
    d_model: usize,
    context_length: usize,
    batch_size: usize,
    vocab_size: usize,
}

/// nanoGPT's recipe for CPUs; that for GPUs with batches of 8; GPT-2 with a short context; GPT-2
/// as it is trained on GPUs.
#[rustfmt::skip]
const SHAPES: [Shape; 4] = [
    Shape { name: "s", n_layers: 4, n_heads: 4, d_model: 128, context_length: 64, batch_size: 12, vocab_size: 65 },
    Shape { name: "m", n_layers: 6, n_heads: 6, d_model: 384, context_length: 256, batch_size: 8, vocab_size: 65 },
    Shape { name: "l", n_layers: 12, n_heads: 12, d_model: 768, context_length: 256, batch_size: 1, vocab_size: 50257 },
    Shape { name: "xl", n_layers: 12, n_heads: 12, d_model: 768, context_length: 1024, batch_size: 8, vocab_size: 50304 },
];

impl Shape {
    /// Biases, no dropout, and a head of its own, as in the programs that this is compared with.
    fn config(&self) -> Value {
        json!({
            "name": self.name,
            "model": {
                "d_model": self.d_model,
                "n_layers": self.n_layers,
                "n_heads": self.n_heads,
                "context_length": self.context_length,
                "tied_head": false,
                "feed_forward": { "activation": "gelu-tanh" },
            },
            "tokenizer": { "kind": "ids", "vocab_size": self.vocab_size },
            "train": { "batch_size": self.batch_size },
        })
    }
}

pub(super) fn run(args: BenchTrainArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.backend.as_deref())?;
    let folder = tempfile::tempdir().context("a temporary folder cannot be made")?;
    let (config, vocab_size) = config_of(&args.shape, folder.path().join("tokens"))?;
    write_tokens(&config, vocab_size, folder.path()).context("the data cannot be written")?;
    let corpus = Corpus::load(&config, None)?;
    let job = Bench { args: &args, backend, config: &config, corpus: &corpus };
    let result = backend::dispatch(backend, job)??;
    Ok(say(args.json, &result)?)
}

/// A shape or a configuration, on token files in a folder; and how many different ids they have.
fn config_of(name: &str, data: PathBuf) -> anyhow::Result<(RunConfig, usize)> {
    let value = match SHAPES.iter().find(|shape| shape.name == name) {
        Some(shape) => shape.config(),
        None => config::load_value(&Source::find(name, None).with_context(|| {
            let shapes = SHAPES.map(|shape| shape.name).join(", ");
            format!("`{name}` is none of the shapes {shapes}")
        })?)?,
    };
    let mut config = config::resolve(value)?;
    let special = Task::special_tokens(config.model.architecture);
    let of_model = || Some(config.model.vocab_size?.saturating_sub(special).max(1));
    let vocab_size =
        tokenizer::known_vocab_size(&config.tokenizer).or_else(of_model).unwrap_or(VOCAB_SIZE);
    config.tokenizer = TokenizerConfig::Ids { vocab_size };
    config.model.vocab_size.get_or_insert(vocab_size + special);
    config.data = DataConfig::Tokens { path: Some(data), packing: Packing::Stream };
    config.validate()?;
    Ok((config, vocab_size))
}

/// Random ids as prepared token files, in the folder of the configuration.
fn write_tokens(config: &RunConfig, vocab_size: usize, folder: &Path) -> anyhow::Result<()> {
    let DataConfig::Tokens { path: Some(path), .. } = &config.data else { return Ok(()) };
    let text = folder.join("ids.txt");
    // More than a window on the smaller side as well.
    let least = (2.0 / VALIDATION_FRACTION) as usize * (config.model.context_length + 1);
    let documents = TOKENS.max(least).div_ceil(DOCUMENT_TOKENS);
    let mut random = ChaCha8Rng::seed_from_u64(config.seed);
    files::write_whole(&text, |file| {
        let mut file = BufWriter::new(file);
        for _ in 0..documents {
            for _ in 0..DOCUMENT_TOKENS {
                write!(file, "<{}>", random.random_range(0..vocab_size))?;
            }
            file.write_all(SEPARATOR.as_bytes())?;
        }
        file.flush()
    })?;
    let options = SourceOptions { separator: Some(SEPARATOR.into()), ..Default::default() };
    let preparation = Preparation {
        tokenizer: &IdTokenizer::new(vocab_size),
        tokenizer_name: "ids",
        sources: &Sources::find(&[text.display().to_string()], options)?,
        split: ValidationSplit::Documents {
            validation_fraction: VALIDATION_FRACTION,
            seed: config.seed,
        },
        shard_tokens: u64::MAX,
    };
    prepare(&preparation, path, &AtomicBool::new(false), &mut |_| ())?;
    Ok(())
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
            device,
        )?;
        let loader = TrainLoader::of_run(config, corpus, LoaderPosition::default());
        let mut batches =
            Timed { batches: DataLoader::<B, TokenBatch>::iter(&loader), waited: Duration::ZERO };
        let (mut progress, mut guard) = (Progress::default(), Guard::default());
        let (mut steps, mut waits) = (Vec::new(), Vec::new());
        let mut tokens = 0;
        for number in 0..WARMUP_STEPS + args.steps {
            batches.waited = Duration::ZERO;
            let started = Instant::now();
            let step = stepper.step(&mut batches, &mut progress, &mut guard);
            let time = started.elapsed();
            if number >= WARMUP_STEPS {
                steps.push(milliseconds(time));
                waits.push(milliseconds(batches.waited));
                tokens = step.map_err(|reason| anyhow!("{reason:?}"))?.output.tokens;
            }
        }
        // Nothing is read ahead any more while the batches are made once again.
        drop(batches);
        let read = batch_costs(&loader, config);

        let (step, wait) = (median(steps.clone()), median(waits.clone()));
        let (all_steps, all_waits): (f64, f64) = (steps.iter().sum(), waits.iter().sum());
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
            "steps": args.steps,
            "tokens_per_step": tokens,
            "step_ms": rounded(step),
            "tokens_per_s": (tokens as f64 / step * 1e3).round(),
            "wait_ms_median": rounded(wait),
            "wait_ms_mean": rounded(all_waits / waits.len() as f64),
            "wait_percent": rounded(100.0 * all_waits / all_steps),
            "read_ms": rounded(read),
            "read_percent": rounded(100.0 * read / step),
        });
        if let Some(peak) = peak_mib() {
            result["peak_mib"] = peak;
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

/// Batches, and how long they were waited for.
struct Timed<I> {
    batches: I,
    waited: Duration,
}

impl<I: Iterator> Iterator for Timed<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        let started = Instant::now();
        let batch = self.batches.next();
        self.waited += started.elapsed();
        batch
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
