use anyhow::{Context, bail};
use std::io::Write;

use crate::artifact::Run;
use crate::backend::{self, GptBackend, Job, TrainBackend};
use crate::cli::GenerateArgs;
use crate::data;
use crate::generate::{Decoder, Sampler, Sampling, Utf8Stream, opening};
use crate::model::Gpt;
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
        (Some(text), _) => text.clone(),
        (None, Some(path)) => data::read_text(path)?,
        (None, None) => String::new(),
    };
    let given = args.prompt.is_some() || args.prompt_file.is_some();
    let mut prompt = if given {
        tokenizer.encode(&text).context("the prompt cannot be encoded")?
    } else {
        opening(tokenizer.as_ref(), &run.config().sample.prompt)
    };
    if prompt.is_empty() {
        bail!("the prompt is empty; give some text with --prompt TEXT, or leave it out");
    }
    // Without the token that they learned to begin with, some imported models are lost.
    prompt.splice(0..0, tokenizer.beginning_of_text());
    let job = Generate {
        args: &args,
        run: &run,
        tokenizer: tokenizer.as_ref(),
        sampling,
        prompt: &prompt,
        text: &text,
    };
    backend::dispatch(backend, job)?
}

struct Generate<'a> {
    args: &'a GenerateArgs,
    run: &'a Run,
    tokenizer: &'a dyn Tokenizer,
    sampling: Sampling,
    prompt: &'a [u32],
    text: &'a str,
}

impl Job for Generate<'_> {
    type Output = anyhow::Result<()>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<()> {
        let model: Gpt<B::InnerBackend> = self.run.load_model(&device)?;
        let mut out = std::io::stdout().lock();
        for sample in 0..self.args.samples {
            if sample > 0 {
                writeln!(out, "\n---")?;
            }
            write!(out, "{}", self.text)?;
            let sampler = Sampler::new(self.sampling, self.args.seed.wrapping_add(sample))?;
            stream(&model, self.tokenizer, self.prompt, self.args.max_tokens, sampler, &mut out)?;
            writeln!(out)?;
        }
        Ok(())
    }
}

/// Writes each token as soon as it is known.
pub(super) fn stream<B: GptBackend>(
    model: &Gpt<B>,
    tokenizer: &dyn Tokenizer,
    prompt: &[u32],
    max_tokens: usize,
    sampler: Sampler,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let mut text = Utf8Stream::new();
    let decoder = Decoder::new(model, prompt, tokenizer.vocab_size(), sampler);
    for id in decoder.take(max_tokens) {
        if Some(id) == tokenizer.end_of_text() {
            break;
        }
        write!(out, "{}", text.push(&tokenizer.decode_bytes(&[id])))?;
        out.flush()?;
    }
    write!(out, "{}", text.finish())
}
