use std::io::Write;
use std::sync::Arc;

use crate::artifact::Run;
use crate::backend::{self, Job, TrainBackend};
use crate::cli::EvalArgs;
use crate::data::{Corpus, EvaluationLoader, Split, SplitText, disjoint_windows};
use crate::model::Gpt;
use crate::tokenizer::Tokenizer;
use crate::train::{CausalLanguageModel, evaluate};

pub(super) fn run(args: EvalArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.common.backend.as_deref())?;
    let run = Run::open(&args.common.artifacts, &args.run)?;
    let config = run.config();
    let tokenizer: Arc<dyn Tokenizer> = run.tokenizer()?.into();
    let (split, source_entropy) = match &args.data {
        Some(path) => (Split::read(path, tokenizer.as_ref())?, None),
        None => {
            // With the run's own tokenizer: the text may have changed since.
            let text = SplitText::read(&config.data, config.seed)?;
            let corpus = Corpus::encode(&text, tokenizer, config.model.context_length)?;
            (corpus.validation, corpus.source_entropy)
        }
    };
    let job = Evaluate { run: &run, split, source_entropy };
    backend::dispatch(backend, job)?
}

struct Evaluate<'a> {
    run: &'a Run,
    split: Split,
    source_entropy: Option<f64>,
}

impl Job for Evaluate<'_> {
    type Output = anyhow::Result<()>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<()> {
        let model: Gpt<B::InnerBackend> = self.run.load_model(&device)?;
        let windows = disjoint_windows(self.split.tokens.len(), model.context_length());
        let batch_size = self.run.config().train.batch_size;
        let loader = EvaluationLoader::new(self.split.clone(), windows, batch_size);
        let evaluation = evaluate(&CausalLanguageModel { model }, loader.batches());
        let bytes_per_token = self.split.bytes_per_token();
        let mut out = std::io::stdout().lock();
        writeln!(out, "tokens          {}", evaluation.tokens)?;
        writeln!(out, "loss            {:.4} nats a token", evaluation.loss)?;
        if let Some(entropy) = self.source_entropy {
            writeln!(out, "source entropy  {entropy:.4} nats a token, which no model can beat")?;
        }
        writeln!(out, "perplexity      {:.3}", evaluation.perplexity())?;
        writeln!(out, "bits a byte     {:.4}", evaluation.bits_per_byte(bytes_per_token))?;
        Ok(())
    }
}
