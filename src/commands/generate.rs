use anyhow::{Context, bail};
use std::io::Write;

use super::sample::{stream, translate};
use super::weights::{check, stored};
use crate::artifact::Run;
use crate::backend::{self, BackendKind, GptBackend, Job, TrainBackend};
use crate::cli::GenerateArgs;
use crate::data::{self, Task};
use crate::generate::{Sampler, Sampling, begun, opening};
use crate::model::Model;
use crate::tokenizer::Tokenizer;

pub(super) fn run(args: GenerateArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.common.backend.as_deref())?;
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
    };
    sampling.validate()?;
    let run = Run::open(&args.common.artifacts, &args.run)?;
    let tokenizer = run.tokenizer()?;
    let text = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(path)) => Some(data::read_text(path)?),
        (None, None) => None,
    };
    let mut prompt = match &text {
        Some(text) => tokenizer.encode(text).context("the prompt cannot be encoded")?,
        None => opening(tokenizer.as_ref(), &run.config().sample.prompt),
    };
    if prompt.is_empty() {
        bail!("the prompt is empty; give some text with --prompt TEXT");
    }
    let model = &run.config().model;
    let task = Task::new(model.architecture, tokenizer.vocab_size(), run.config().seed);
    match task {
        Task::MaskedTokens { .. } => {
            bail!("the run {} fills gaps and continues nothing; use emberlm fill-mask", run.name())
        }
        Task::Translation { .. } if text.is_none() => {
            bail!("the run {} translates; give the source with --prompt TEXT", run.name())
        }
        Task::Translation { .. } if prompt.len() > model.context_length => bail!(
            "the source has {} tokens, the run {} reads at most {}; shorten it",
            prompt.len(),
            run.name(),
            model.context_length
        ),
        _ => {}
    }
    if task == Task::NextToken {
        // Without the token that they learned to begin with, some imported models are lost.
        prompt = begun(tokenizer.as_ref(), prompt);
    }
    let job = Generate {
        args: &args,
        backend,
        run: &run,
        tokenizer: tokenizer.as_ref(),
        task,
        sampling,
        prompt: &prompt,
        text: text.as_deref().unwrap_or_default(),
    };
    backend::dispatch(backend.on(args.common.device), job)?
}

struct Generate<'a> {
    args: &'a GenerateArgs,
    backend: BackendKind,
    run: &'a Run,
    tokenizer: &'a dyn Tokenizer,
    task: Task,
    sampling: Sampling,
    prompt: &'a [u32],
    text: &'a str,
}

impl Job for Generate<'_> {
    type Output = anyhow::Result<()>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<()> {
        check::<B>(&self.args.weights, self.backend, &device)?;
        let model: Model<B::InnerBackend> = self.run.load_model(&device)?;
        let model = stored(model, &self.args.weights);
        let mut out = std::io::stdout().lock();
        for sample in 0..self.args.samples {
            if sample > 0 {
                writeln!(out, "\n---")?;
            }
            let sampler = Sampler::new(self.sampling, self.args.seed.wrapping_add(sample))?;
            self.write(&model, sampler, &mut out)?;
            writeln!(out)?;
        }
        Ok(())
    }
}

impl Generate<'_> {
    /// A continuation after its prompt, or a translation by itself.
    fn write<B: GptBackend>(
        &self,
        model: &Model<B>,
        sampler: Sampler,
        out: &mut impl Write,
    ) -> std::io::Result<()> {
        let max_tokens = self.args.max_tokens;
        match (model, self.task) {
            (Model::Gpt(model), _) => {
                write!(out, "{}", self.text)?;
                let end = self.tokenizer.end_of_text();
                stream(model, self.tokenizer, self.prompt, end, max_tokens, sampler, out)
            }
            (Model::Seq2Seq(model), Task::Translation { begin, end }) => {
                let ends = (begin, end);
                translate(model, self.tokenizer, self.prompt, ends, max_tokens, sampler, out)
            }
            _ => Ok(()), // refused above
        }
    }
}
