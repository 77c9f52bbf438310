//! Texts on request: of one prompt or many, once or in a loop.

mod interactive;
mod texts;

use anyhow::{Context, bail};
use std::io::Write;

use super::progress::note;
use super::weights::{check, stored};
use crate::artifact::Run;
use crate::backend::{self, BackendKind, GptBackend, Job, TrainBackend};
use crate::cli::{GenerateArgs, OverflowPolicy, SamplingArgs};
use crate::data::{self, Task};
use crate::generate::{
    BeamSearch, NextToken, Overflow, Penalties, Request, Sampling, begun, opening,
};
use crate::model::Model;
use crate::tokenizer::Tokenizer;
use texts::Texts;

/// Refuses a prompt without tokens, and a source that is longer than the run reads.
pub(super) fn check_prompt(tokens: &[u32], run: &Run, task: Task) -> anyhow::Result<()> {
    if tokens.is_empty() {
        bail!("the prompt is empty; give some text with --prompt TEXT");
    }
    let (length, most) = (tokens.len(), run.config().model.context_length);
    if let Task::Translation { .. } = task
        && length > most
    {
        bail!("the source has {length} tokens, the run reads at most {most}; shorten it");
    }
    Ok(())
}

pub(super) fn run(args: GenerateArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.common.target.backend.as_deref())?;
    sampling(&args.sampling).validate()?;
    penalties(&args.sampling).validate()?;
    let run = Run::open(&args.common.artifacts, &args.run)?;
    let tokenizer = run.tokenizer()?;
    let task = run.task(tokenizer.as_ref());
    if let Task::MaskedTokens { .. } = task {
        bail!("the run {} fills gaps and continues nothing; use emberlm fill-mask", run.name());
    }
    let generate =
        Generate { args: &args, backend, run: &run, tokenizer: tokenizer.as_ref(), task };
    if let Some(beams) = args.beams {
        generate.beam_search(beams as usize).validate()?;
    }
    let prompts = generate.prompts()?;
    backend::dispatch(backend.on(args.common.target.device), Prompted { generate, prompts })?
}

pub(super) fn sampling(args: &SamplingArgs) -> Sampling {
    let SamplingArgs { temperature, top_k, top_p, min_p, .. } = *args;
    Sampling { temperature, top_k, top_p, min_p }
}

pub(super) fn penalties(args: &SamplingArgs) -> Penalties {
    Penalties {
        repetition: args.repetition_penalty,
        frequency: args.frequency_penalty,
        presence: args.presence_penalty,
    }
}

/// What every text is written with.
#[derive(Clone, Copy)]
struct Generate<'a> {
    args: &'a GenerateArgs,
    backend: BackendKind,
    run: &'a Run,
    tokenizer: &'a dyn Tokenizer,
    task: Task,
}

/// What is to be continued or translated.
struct Prompt {
    /// As it was typed; empty where the program has chosen it.
    text: String,
    tokens: Vec<u32>,
}

impl Generate<'_> {
    /// The prompts of the command line, in its order; none where they come in a loop.
    fn prompts(&self) -> anyhow::Result<Vec<Prompt>> {
        let args = self.args;
        let texts: Vec<String> = match (&args.prompt_file, &args.prompts_file) {
            (Some(path), _) => vec![data::read_text(path)?],
            (None, Some(path)) => {
                let lines = data::read_text(path)?;
                let lines: Vec<String> =
                    lines.lines().filter(|line| !line.is_empty()).map(String::from).collect();
                if lines.is_empty() {
                    bail!("{} has no prompt; it needs one a line", path.display());
                }
                lines
            }
            (None, None) => args.prompt.clone(),
        };
        if texts.is_empty() && !args.interactive {
            return Ok(vec![self.opening()?]);
        }
        let several = texts.len() > 1;
        let prompt = |(number, text): (usize, String)| match several {
            true => self.prompt(text).with_context(|| format!("prompt {}", number + 1)),
            false => self.prompt(text),
        };
        texts.into_iter().enumerate().map(prompt).collect()
    }

    /// A text of the program's own.
    fn opening(&self) -> anyhow::Result<Prompt> {
        if let Task::Translation { .. } = self.task {
            bail!("the run {} translates; give the source with --prompt TEXT", self.run.name());
        }
        let tokens = opening(self.tokenizer, &self.run.config().sample.prompt);
        Ok(Prompt { text: String::new(), tokens: begun(self.tokenizer, tokens) })
    }

    fn prompt(&self, text: String) -> anyhow::Result<Prompt> {
        let tokens = self.tokenizer.encode(&text).context("the prompt cannot be encoded")?;
        check_prompt(&tokens, self.run, self.task)?;
        if let Task::Translation { .. } = self.task {
            return Ok(Prompt { text, tokens });
        }
        let (name, most) = (self.run.name(), self.run.config().model.context_length);
        // Without the token that they learned to begin with, some imported models are lost.
        let tokens = begun(self.tokenizer, tokens);
        let may_slide =
            self.args.overflow != Some(OverflowPolicy::Stop) && self.args.beams.is_none();
        let length = tokens.len();
        match length > most {
            true if may_slide => note(format_args!(
                "the prompt has {length} tokens, the run {name} sees at most {most}; what is before the last of them is not read"
            )),
            true if self.args.beams.is_some() => bail!(
                "the prompt has {length} tokens, the run {name} sees at most {most}; shorten it"
            ),
            true => bail!(
                "the prompt has {length} tokens, the run {name} sees at most {most}; shorten it, or let its older half go with --overflow slide"
            ),
            false => {}
        }
        Ok(Prompt { text, tokens })
    }

    fn request(&self, prompt: &Prompt, seed: u64) -> Request {
        let args = self.args;
        let (sampling, tokens) = (sampling(&args.sampling), prompt.tokens.clone());
        let request = match self.task {
            Task::Translation { begin, .. } => {
                Request::translation(tokens, begin, sampling, seed, args.max_tokens)
            }
            _ => Request {
                overflow: match args.overflow {
                    Some(OverflowPolicy::Stop) => Overflow::Stop,
                    Some(OverflowPolicy::Slide) | None => Overflow::slide(self.tokenizer),
                },
                ..Request::new(tokens, sampling, seed, args.max_tokens)
            },
        };
        Request {
            penalties: penalties(&args.sampling),
            stop_tokens: args.stop_token.clone(),
            stop_strings: args.stop.clone(),
            alternatives: args.logprobs,
            ..request
        }
    }

    /// The token that ends every text of the model.
    fn end(&self) -> Option<u32> {
        self.task.end(self.tokenizer)
    }

    fn beam_search(&self, beams: usize) -> BeamSearch {
        BeamSearch {
            beams,
            length_penalty: self.args.length_penalty,
            max_tokens: self.args.max_tokens,
            stop_tokens: self.end().into_iter().chain(self.args.stop_token.clone()).collect(),
        }
    }

    /// What is shown before a text.
    fn head<'b>(&self, prompt: &'b str) -> &'b str {
        match self.task {
            Task::Translation { .. } => "",
            _ => prompt,
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        let vocab_size = self.run.config().model.vocab_size.unwrap_or_default();
        if let Some(id) = self.args.stop_token.iter().find(|id| **id as usize >= vocab_size) {
            bail!("--stop-token: there is no token {id}; the run has {vocab_size}");
        }
        let translates = matches!(self.task, Task::Translation { .. });
        if translates && self.args.overflow == Some(OverflowPolicy::Slide) {
            bail!("the run {} translates, and a translation cannot slide", self.run.name());
        }
        Ok(())
    }
}

struct Prompted<'a> {
    generate: Generate<'a>,
    prompts: Vec<Prompt>,
}

impl Job for Prompted<'_> {
    type Output = anyhow::Result<()>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<()> {
        let Generate { args, run, .. } = self.generate;
        self.generate.check()?;
        check::<B>(&args.weights, self.generate.backend, &device)?;
        let model: Model<B::InnerBackend> = run.load_model(&device)?;
        match stored(model, &args.weights) {
            Model::Gpt(model) => self.write(&model),
            Model::Seq2Seq(model) => self.write(&model),
            Model::Encoder(_) => Ok(()), // refused above
        }
    }
}

impl Prompted<'_> {
    fn write<B: GptBackend>(&self, model: &impl NextToken<B>) -> anyhow::Result<()> {
        let generate = &self.generate;
        let mut texts = Texts::new(generate, model, std::io::stdout().lock());
        for prompt in &self.prompts {
            texts.write(prompt, 0)?;
        }
        texts.finish()?;
        if generate.args.interactive {
            interactive::answer(generate, &mut texts)?;
        }
        Ok(texts.into_out().flush()?)
    }
}
