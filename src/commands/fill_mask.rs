use anyhow::{Context, bail};
use std::io::Write;

use super::sample::MASK;
use super::weights::{check, stored};
use crate::artifact::Run;
use crate::backend::{self, BackendKind, Job, TrainBackend};
use crate::cli::FillMaskArgs;
use crate::data::Task;
use crate::model::Model;
use crate::tokenizer::Tokenizer;

pub(super) fn run(args: FillMaskArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.common.target.backend.as_deref())?;
    let run = Run::open(&args.common.artifacts, &args.run)?;
    let tokenizer = run.tokenizer()?;
    let config = run.config();
    let task = run.task(tokenizer.as_ref());
    let Task::MaskedTokens { mask, .. } = task else {
        bail!("the run {} was not trained to fill gaps; use emberlm generate", run.name());
    };
    let mut tokens = Vec::new();
    for (gap, part) in args.text.split(MASK).enumerate() {
        if gap > 0 {
            tokens.push(mask);
        }
        tokens.extend(tokenizer.encode(part).context("the text cannot be encoded")?);
    }
    if !tokens.contains(&mask) {
        bail!("the text has no {MASK}; put one where a token is to be guessed");
    }
    let context_length = config.model.context_length;
    if tokens.len() > context_length {
        bail!(
            "the text has {} tokens, the run {} reads at most {context_length}; shorten it",
            tokens.len(),
            run.name()
        );
    }
    let job =
        FillMask { args: &args, backend, run: &run, tokenizer: tokenizer.as_ref(), mask, tokens };
    backend::dispatch(backend.on(args.common.target.device), job)?
}

struct FillMask<'a> {
    args: &'a FillMaskArgs,
    backend: BackendKind,
    run: &'a Run,
    tokenizer: &'a dyn Tokenizer,
    mask: u32,
    tokens: Vec<u32>,
}

impl Job for FillMask<'_> {
    type Output = anyhow::Result<()>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<()> {
        check::<B>(&self.args.weights, self.backend, &device)?;
        let model: Model<B::InnerBackend> = self.run.load_model(&device)?;
        let model = stored(model, &self.args.weights);
        let Model::Encoder(model) = model else {
            bail!("the run {} is no encoder", self.run.name());
        };
        let mut out = std::io::stdout().lock();
        for (gap, guesses) in model.fill(&self.tokens, self.mask, self.args.top).iter().enumerate()
        {
            writeln!(out, "{MASK} {}", gap + 1)?;
            for guess in guesses {
                let text = format!("{:?}", self.tokenizer.decode(&[guess.token]));
                writeln!(out, "  {text:<16} {:6.2}%", 100.0 * guess.probability)?;
            }
        }
        Ok(())
    }
}
