mod measure;
mod show;

use anyhow::{Context, bail};
use serde::Serialize;
use std::io::Write;

use super::params::vocab_size;
use crate::backend::{self, BackendKind};
use crate::cli::PlanArgs;
use crate::config::{self, RunConfig, Source};
use crate::model;
use crate::train::{
    TrainingMemory, flops_per_token, largest_batch, planned_steps, training_memory,
};

/// Tokens for each parameter with which a model of that size is best for its operations (Hoffmann
/// et al. 2022, table 3).
const CHINCHILLA: u64 = 20;

#[derive(Debug, Serialize)]
struct Plan {
    name: String,
    backend: &'static str,
    vocab_size: usize,
    parameters: usize,
    /// Of parameters, by what they are part of.
    components: Vec<Component>,
    /// Forward and backward; none where it is not known.
    flops_per_token: Option<f64>,
    memory: TrainingMemory,
    /// Of `memory`, what has to fit into the device.
    needed: u64,
    /// What there is.
    available: Option<u64>,
    batch_size: usize,
    /// The most that fits.
    largest_batch_size: Option<usize>,
    tokens_per_step: usize,
    /// None where it depends on the data, or on the time.
    steps: Option<usize>,
    tokens: Option<u64>,
    chinchilla_tokens: u64,
    /// Bytes of one checkpoint, and of those that are there at a time.
    checkpoint: u64,
    checkpoints: u64,
    tokens_per_second: Option<f64>,
    /// For the steps of the configuration, and for `chinchilla_tokens`.
    seconds: Option<f64>,
    chinchilla_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Component {
    name: &'static str,
    parameters: usize,
}

pub(super) fn run(args: PlanArgs) -> anyhow::Result<()> {
    let mut config = config::load(&Source::find(&args.config, None)?, &args.set)?;
    if args.vocab_size.is_some() {
        config.model.vocab_size = args.vocab_size;
        config.validate()?;
    }
    let Some(vocab_size) = vocab_size(&config) else {
        bail!(
            "how many tokens the vocabulary has comes from the data; give it with --vocab-size N"
        );
    };
    config.model.vocab_size = Some(vocab_size);
    // Plans may be made for backends that are elsewhere.
    let backend = match &args.backend {
        Some(name) => name.parse()?,
        None => backend::choose(None)?,
    };
    let available = match &args.memory {
        Some(size) => Some(bytes(size).context("--memory")?),
        None => free_memory(backend, args.device)?,
    };
    let mut plan = plan(&config, vocab_size, backend, available)?;
    if args.measure {
        if available.is_some_and(|available| plan.needed > available) {
            bail!(
                "steps cannot be measured: they take more memory than there is; leave out --measure, or lower train.batch_size"
            );
        }
        let rate = measure::tokens_per_second(&config, backend.on(args.device))?;
        plan.tokens_per_second = Some(rate);
        plan.seconds = plan.tokens.map(|tokens| tokens as f64 / rate);
        plan.chinchilla_seconds = Some(plan.chinchilla_tokens as f64 / rate);
    }
    let mut out = std::io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(&plan)?)?,
        false => show::write(&mut out, &plan)?,
    }
    Ok(())
}

fn plan(
    config: &RunConfig,
    vocab_size: usize,
    backend: BackendKind,
    available: Option<u64>,
) -> anyhow::Result<Plan> {
    let RunConfig { model, train, .. } = config;
    let shapes = model::parameter_shapes(model, vocab_size);
    let mut components: Vec<Component> = Vec::new();
    for (name, shape) in &shapes {
        let (name, count) = (part_of(name), shape.iter().product());
        match components.iter_mut().find(|component| component.name == name) {
            Some(component) => component.parameters += count,
            None => components.push(Component { name, parameters: count }),
        }
    }
    let parameters = model::parameter_count(model, vocab_size);
    let memory = training_memory(config, vocab_size, backend.into())?;
    let largest = available.map(|bytes| largest_batch(config, vocab_size, backend, bytes));
    let tokens_per_step = train.examples_per_step() * model.context_length;
    // The data is not looked at.
    let steps = planned_steps(config);
    let checkpoint = memory.weights + memory.moments + memory.average;
    Ok(Plan {
        name: config.name.clone(),
        backend: backend.name(),
        vocab_size,
        parameters,
        components,
        flops_per_token: flops_per_token(config, vocab_size),
        needed: memory.needed(backend),
        memory,
        available,
        batch_size: train.batch_size,
        largest_batch_size: largest.transpose()?,
        tokens_per_step,
        steps,
        tokens: match (steps, train.length()) {
            (Some(steps), _) => Some((steps as u64).saturating_mul(tokens_per_step as u64)),
            (None, config::Span::Tokens(tokens)) => Some(tokens),
            (None, _) => None,
        },
        chinchilla_tokens: CHINCHILLA * parameters as u64,
        checkpoint,
        // Beside the newest ones there is the best.
        checkpoints: checkpoint * (train.keep_checkpoints as u64 + 1),
        tokens_per_second: None,
        seconds: None,
        chinchilla_seconds: None,
    })
}

fn part_of(parameter: &str) -> &'static str {
    let has = |part: &str| parameter.contains(part);
    match () {
        () if model::is_adapter(parameter) => "adapters",
        () if has("norm.") => "norms",
        () if has("attention.") => "attention",
        () if has("feed_forward.") => "feed-forward",
        () if has("embedding.") => "embeddings",
        () => "head",
    }
}

/// What a device has free; none where it does not tell, or where the backend is not here.
pub(super) fn free_memory(
    backend: BackendKind,
    device: Option<usize>,
) -> anyhow::Result<Option<u64>> {
    let Ok(devices) = backend::devices(backend) else { return Ok(None) };
    let index = device.unwrap_or_default();
    let Some(device) = devices.into_iter().nth(index) else {
        bail!("backend `{backend}` has no device {index} (see emberlm doctor)");
    };
    Ok(device.memory.map(|memory| memory.available_bytes.unwrap_or(memory.total_bytes)))
}

/// A size as people write it: bytes, or with a unit of 1000 or 1024.
pub(super) fn bytes(size: &str) -> anyhow::Result<u64> {
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];
    let unit = units.iter().find_map(|(name, unit)| Some((size.strip_suffix(name)?, *unit)));
    let (number, unit): (&str, u64) = unit.unwrap_or((size, 1));
    let number: f64 = number
        .trim()
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number > 0.0)
        .with_context(|| format!("`{size}` is no size; write it as 24GiB or 800MB"))?;
    Ok((number * unit as f64) as u64)
}
