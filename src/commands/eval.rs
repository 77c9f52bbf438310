use std::io::Write;
use std::sync::Arc;

use super::weights::{check, stored};
use crate::artifact::Run;
use crate::backend::{self, BackendKind, Job, TrainBackend};
use crate::cli::{EvalArgs, WeightArgs};
use crate::config::DataConfig;
use crate::data::{Corpus, EvaluationLoader, Split, Task};
use crate::tokenizer::Tokenizer;
use crate::train::{Evaluation, LanguageModel, evaluate};

pub(super) fn run(args: EvalArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.common.backend.as_deref())?;
    let run = Run::open(&args.common.artifacts, &args.run)?;
    let config = run.config();
    let tokenizer: Arc<dyn Tokenizer> = run.tokenizer()?.into();
    let model = &config.model;
    // Of prepared data only the validation side is needed.
    let prepared = match &config.data {
        DataConfig::Tokens { path, .. } => path.as_ref(),
        _ => None,
    };
    let (split, source_entropy) = match args.data.as_ref().or(prepared) {
        Some(path) => (Split::read(path, &config.data, tokenizer.as_ref(), model)?, None),
        None => {
            // With the run's own tokenizer: the text may have changed since.
            let corpus = Corpus::load(config, Some(tokenizer.clone()))?;
            (corpus.validation, corpus.source_entropy)
        }
    };
    let task = Task::new(model.architecture, tokenizer.vocab_size(), config.seed);
    let weights = &args.weights;
    let job = Evaluate { weights, backend, run: &run, split, task, source_entropy };
    backend::dispatch(backend.on(args.common.device), job)?
}

struct Evaluate<'a> {
    weights: &'a WeightArgs,
    backend: BackendKind,
    run: &'a Run,
    split: Split,
    task: Task,
    source_entropy: Option<f64>,
}

impl Job for Evaluate<'_> {
    type Output = anyhow::Result<()>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<()> {
        check::<B>(self.weights, self.backend, &device)?;
        let config = self.run.config();
        let model =
            LanguageModel::new(self.run.load_model::<B::InnerBackend>(&device)?, &config.model);
        let all = self.split.all(config.model.context_length);
        let loader =
            EvaluationLoader::new(self.split.clone(), self.task, all, config.train.batch_size);
        let evaluation = evaluate(&model, loader.batches());
        let quantized = self.weights.quantize.map(|_| {
            let model = stored(model.model, self.weights);
            evaluate(&LanguageModel::new(model, &config.model), loader.batches())
        });
        self.split.check()?; // what was cut off meanwhile was read as zeros
        let mut out = std::io::stdout().lock();
        writeln!(out, "tokens          {}", evaluation.tokens)?;
        writeln!(out, "loss            {:.4} nats a token", evaluation.loss)?;
        if let Some(entropy) = self.source_entropy {
            writeln!(out, "source entropy  {entropy:.4} nats a token, which no model can beat")?;
        }
        writeln!(out, "perplexity      {:.3}", evaluation.perplexity())?;
        if let Some(bytes) = self.split.bytes_per_target(self.task) {
            writeln!(out, "bits a byte     {:.4}", evaluation.bits_per_byte(bytes))?;
        }
        if let Some(quantized) = quantized {
            let [found, before] = [&quantized, &evaluation].map(Evaluation::perplexity);
            let change = 100.0 * (found / before - 1.0);
            writeln!(out, "int8 loss       {:.4} nats a token", quantized.loss)?;
            writeln!(out, "int8 perplexity {found:.3}, {change:+.3}% against f32")?;
        }
        Ok(())
    }
}
