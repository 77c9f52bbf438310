use anyhow::{Context, bail};
use burn::tensor::{Int, Tensor, TensorData};
use serde::Serialize;
use std::io::Write;

use super::weights::{check, stored};
use crate::artifact::Run;
use crate::backend::{self, BackendKind, Job, TrainBackend, on_host};
use crate::cli::PredictArgs;
use crate::data::Task;
use crate::generate::{LogProbabilities, begun};
use crate::model::{Model, Positions};
use crate::tokenizer::Tokenizer;

pub(super) fn run(args: PredictArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.common.target.backend.as_deref())?;
    let run = Run::open(&args.common.artifacts, &args.run)?;
    let tokenizer = run.tokenizer()?;
    let config = run.config();
    match run.task(tokenizer.as_ref()) {
        Task::NextToken => {}
        Task::MaskedTokens { .. } => {
            bail!("the run {} fills gaps; use emberlm fill-mask", run.name())
        }
        Task::Translation { .. } => bail!(
            "the run {} translates, and what it predicts depends on a source; use emberlm generate --json --logprobs 5",
            run.name()
        ),
    }
    let tokens = tokenizer.encode(&args.text).context("the text cannot be encoded")?;
    let tokens = begun(tokenizer.as_ref(), tokens);
    if tokens.is_empty() {
        bail!("the text is empty; give some with --text TEXT");
    }
    let most = config.model.context_length;
    if tokens.len() > most {
        bail!(
            "the text has {} tokens, the run {} sees at most {most}; shorten it",
            tokens.len(),
            run.name()
        );
    }
    let job = Predict { args: &args, backend, run: &run, tokenizer: tokenizer.as_ref(), tokens };
    backend::dispatch(backend.on(args.common.target.device), job)?
}

struct Predict<'a> {
    args: &'a PredictArgs,
    backend: BackendKind,
    run: &'a Run,
    tokenizer: &'a dyn Tokenizer,
    tokens: Vec<u32>,
}

impl Job for Predict<'_> {
    type Output = anyhow::Result<()>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<()> {
        check::<B>(&self.args.weights, self.backend, &device)?;
        let model: Model<B::InnerBackend> = self.run.load_model(&device)?;
        let Model::Gpt(model) = stored(model, &self.args.weights) else {
            bail!("the run {} is no decoder", self.run.name());
        };
        let ids: Vec<i32> = self.tokens.iter().map(|id| *id as i32).collect();
        let ids = TensorData::new(ids, [1, self.tokens.len()]);
        let ids = Tensor::<B::InnerBackend, 2, Int>::from_data(ids, &device);
        let logits = on_host(model.predict(ids, Positions::All)); // [1, T, V]
        let known = self.tokenizer.vocab_size().min(model.vocab_size());
        let rows: Vec<&[f32]> =
            logits.chunks(model.vocab_size()).map(|row| &row[..known]).collect();
        // Of the first token nothing is known.
        let scored = self.tokens.iter().skip(1).zip(&rows);
        let scored: Vec<Option<LogProbabilities>> = std::iter::once(None)
            .chain(scored.map(|(token, row)| {
                // A token beyond the vocabulary's is none that is predicted.
                ((*token as usize) < known).then(|| LogProbabilities::new(row, *token, 0))
            }))
            .collect();
        let next = LogProbabilities::new(rows[rows.len() - 1], 0, self.args.top).top;
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        if self.args.json {
            serde_json::to_writer(&mut out, &self.document(&scored, &next))?;
            writeln!(out)?;
        } else {
            self.tables(&scored, &next, &mut out)?;
        }
        Ok(out.flush()?)
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document {
    /// Of the text, the first without probability and rank, since nothing is before it.
    tokens: Vec<Token>,
    /// What may follow, likeliest first.
    next: Vec<Token>,
}

#[derive(Serialize)]
struct Token {
    id: u32,
    token: String,
    log_probability: Option<f64>,
    rank: Option<usize>,
}

impl Predict<'_> {
    fn document(&self, scored: &[Option<LogProbabilities>], next: &[(u32, f64)]) -> Document {
        let named = |id: u32, log_probability, rank| Token {
            id,
            token: self.tokenizer.decode(&[id]),
            log_probability,
            rank,
        };
        let tokens = self.tokens.iter().zip(scored).map(|(id, found)| match found {
            Some(found) => named(*id, Some(found.token), Some(found.rank)),
            None => named(*id, None, None),
        });
        let next = next.iter().zip(1..);
        Document {
            tokens: tokens.collect(),
            next: next.map(|((id, found), rank)| named(*id, Some(*found), Some(rank))).collect(),
        }
    }

    fn tables(
        &self,
        scored: &[Option<LogProbabilities>],
        next: &[(u32, f64)],
        out: &mut impl Write,
    ) -> std::io::Result<()> {
        let text = |id: u32| format!("{:?}", self.tokenizer.decode(&[id]));
        writeln!(out, "{:<24} {:>8} {:>12} {:>8}", "token", "id", "probability", "rank")?;
        for (id, found) in self.tokens.iter().zip(scored) {
            let (text, percent) = (text(*id), |x: f64| format!("{:.3}%", 100.0 * x.exp()));
            let (share, rank) = match found {
                Some(found) => (percent(found.token), found.rank.to_string()),
                None => ("-".into(), "-".into()),
            };
            writeln!(out, "{text:<24} {id:>8} {share:>12} {rank:>8}")?;
        }
        let known: Vec<f64> = scored.iter().flatten().map(|found| found.token).collect();
        if !known.is_empty() {
            let mean = -known.iter().sum::<f64>() / known.len() as f64;
            writeln!(out, "loss {mean:.4} nats a token, perplexity {:.2}", mean.exp())?;
        }
        writeln!(out, "\n{:<24} {:>8} {:>12}", "next token", "id", "probability")?;
        for (id, found) in next {
            let share = format!("{:.3}%", 100.0 * found.exp());
            writeln!(out, "{:<24} {id:>8} {share:>12}", text(*id))?;
        }
        Ok(())
    }
}
