use anyhow::{Context, bail};
use burn::tensor::{Int, Tensor, TensorData};
use serde::Serialize;
use std::io::Write;

use super::weights::{check, stored};
use crate::artifact::Run;
use crate::backend::{self, BackendKind, Job, TrainBackend, on_host};
use crate::cli::{LogitsArgs, WeightArgs};
use crate::model::{Model, Positions};

/// Columns of the table.
const LARGEST: usize = 5;

pub(super) fn run(args: LogitsArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.common.target.backend.as_deref())?;
    let run = Run::open(&args.common.artifacts, &args.run)?;
    let model = &run.config().model;
    let tokens = token_ids(&args.tokens, model.vocab_size.unwrap_or_default())?;
    if tokens.len() > model.context_length {
        bail!(
            "--tokens has {} ids, and the model sees at most {}",
            tokens.len(),
            model.context_length
        );
    }
    let weights = &args.weights;
    backend::dispatch(
        backend.on(args.common.target.device),
        Logits { run: &run, tokens: &tokens, json: args.json, weights, backend },
    )?
}

fn token_ids(text: &str, vocab_size: usize) -> anyhow::Result<Vec<i32>> {
    if text.trim().is_empty() {
        bail!("--tokens is empty; give token ids, as in --tokens 1,2,3");
    }
    let id = |part: &str| {
        let part = part.trim();
        let id: usize =
            part.parse().ok().with_context(|| format!("--tokens: `{part}` is not a token id"))?;
        if id >= vocab_size {
            bail!(
                "--tokens: there is no token {id}; the vocabulary has 0 to {}",
                vocab_size.saturating_sub(1)
            );
        }
        i32::try_from(id).with_context(|| format!("--tokens: {id} is too large"))
    };
    text.split(',').map(id).collect()
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    /// `[T, V]`
    logits: Vec<&'a [f32]>,
}

struct Logits<'a> {
    run: &'a Run,
    tokens: &'a [i32],
    json: bool,
    weights: &'a WeightArgs,
    backend: BackendKind,
}

impl Job for Logits<'_> {
    type Output = anyhow::Result<()>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<()> {
        check::<B>(self.weights, self.backend, &device)?;
        let model: Model<B::InnerBackend> = self.run.load_model(&device)?;
        let model = stored(model, self.weights);
        let shape = [1, self.tokens.len()];
        let tokens = TensorData::new(self.tokens.to_vec(), shape);
        let tokens = Tensor::<B::InnerBackend, 2, Int>::from_data(tokens, &device);
        let logits = match model {
            Model::Gpt(model) => model.predict(tokens, Positions::All),
            Model::Encoder(model) => model.forward(tokens, None),
            Model::Seq2Seq(_) => {
                bail!("the run {} translates: its logits depend on a source", self.run.name())
            }
        };
        let logits = on_host(logits); // [1, T, V]
        let rows: Vec<&[f32]> = logits.chunks(logits.len() / self.tokens.len()).collect();
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        if self.json {
            serde_json::to_writer(&mut out, &Document { logits: rows })?;
            writeln!(out)?;
        } else {
            self.table(&rows, &mut out)?;
        }
        Ok(out.flush()?)
    }
}

impl Logits<'_> {
    fn table(&self, rows: &[&[f32]], out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "position    token  most likely tokens, each with its logit")?;
        for (position, (token, row)) in self.tokens.iter().zip(rows).enumerate() {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            write!(out, "{position:>8} {token:>8}")?;
            for id in order.into_iter().take(LARGEST) {
                write!(out, "  {id} ({:.3})", row[id])?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}
