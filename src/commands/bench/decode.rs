use anyhow::bail;
use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{median, milliseconds, peak_mib, reserved_mib, rounded, say, shapes};
use crate::backend::{self, BackendKind, Job, TrainBackend, on_host};
use crate::cli::{BenchDecodeArgs, Quantization};
use crate::commands::weights;
use crate::config::Architecture;
use crate::config::RunConfig;
use crate::generate::{Sampler, Sampling};
use crate::model::{Gpt, Initializer};

/// At first memory is taken, kernels are compiled and processors come to speed; the program that
/// this is compared with compiles in that time.
const WARM_UP: Duration = Duration::from_millis(500);
/// Sequences of small models take a few milliseconds.
const MEASURED: Duration = Duration::from_secs(1);

pub(super) fn run(args: BenchDecodeArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.target.backend.as_deref())?;
    let (config, _) = shapes::config_of(&args.shape, &[], PathBuf::new())?;
    if config.model.architecture != Architecture::Decoder {
        bail!("`{}` is no decoder, which alone continues a sequence", args.shape);
    }
    let result = backend::dispatch(
        backend.on(args.target.device),
        Bench { args: &args, backend, config: &config },
    )??;
    Ok(say(args.json, &result)?)
}

struct Bench<'a> {
    args: &'a BenchDecodeArgs,
    backend: BackendKind,
    config: &'a RunConfig,
}

impl Job for Bench<'_> {
    type Output = anyhow::Result<Value>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<Value> {
        let Self { args, backend, config } = self;
        let vocab_size = config.model.vocab_size.unwrap_or_default();
        let initializer = Initializer::seeded(config.seed);
        weights::check::<B>(&args.weights, backend, &device)?;
        let model = Gpt::<B::InnerBackend>::new(
            &config.name,
            &config.model,
            vocab_size,
            initializer,
            &device,
        );
        let params = model.num_params();
        let (model, stored_as) = match args.weights.quantize {
            Some(Quantization::Int8) => (model.quantize_int8(), "int8"),
            None => (model, "f32"),
        };
        let greedy = Sampling { temperature: 0.0, top_k: None, top_p: None, min_p: None };
        let steps = (args.steps as usize).min(config.model.context_length);
        let sequence = |times: &mut Vec<f64>| -> anyhow::Result<()> {
            let (mut cache, mut sampler) = (model.new_cache(), Sampler::new(greedy, 0)?);
            let mut tokens = vec![0; args.batch as usize];
            for _ in 0..steps {
                let started = Instant::now();
                let input = TensorData::new(tokens.clone(), [tokens.len(), 1]);
                let input = Tensor::<B::InnerBackend, 2, Int>::from_data(input, &device);
                let logits = on_host(model.decode(input, &mut cache)?);
                for (token, logits) in tokens.iter_mut().zip(logits.chunks(vocab_size)) {
                    *token = sampler.choose(logits) as i32;
                }
                times.push(milliseconds(started.elapsed()));
            }
            Ok(())
        };
        let mut times = Vec::new();
        for least in [WARM_UP, MEASURED] {
            times.clear();
            let started = Instant::now();
            while times.is_empty() || started.elapsed() < least {
                sequence(&mut times)?;
            }
        }
        let step = median(times);
        let mut result = json!({
            "bench": "decode",
            "shape": args.shape,
            "backend": backend.name(),
            "params": params,
            "weights": stored_as,
            "steps": steps,
            "step_ms": rounded(step),
            "batch_size": args.batch,
            "tokens_per_s": (f64::from(args.batch) * 1e3 / step).round(),
        });
        if let Some(peak) = peak_mib() {
            result["peak_mib"] = peak;
        }
        if let Some(reserved) = reserved_mib::<B>(&device)? {
            result["reserved_mib"] = reserved;
        }
        Ok(result)
    }
}
