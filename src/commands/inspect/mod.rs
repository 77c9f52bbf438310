mod attention;
mod batch;
mod subject;

use anyhow::bail;
use burn::tensor::backend::Backend;
use serde::Serialize;
use std::io::{BufWriter, Write};

use crate::backend::{self, BackendKind, Job, TrainBackend, check_precision, seed_draws};
use crate::cli::InspectArgs;
use crate::config::Architecture;
use crate::data::TokenBatch;
use crate::model::{Model, tensors};
use crate::report::inside::{self, GradientReport, Module, Passage, Reading, Sizes, WeightSummary};
use crate::report::terminal::Style;
use crate::train::LanguageModel;
use attention::{Asked, Seen};
use batch::batch;
use subject::Subject;

/// Rows and columns of the pass whose shapes are shown.
const ROWS: usize = 2;
const COLUMNS: usize = 64;

pub(super) fn run(args: InspectArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.common.target.backend.as_deref())?;
    let reads = args.grads || args.tokens.is_some() || args.attention.is_some();
    if args.target.is_some()
        && [&args.text, &args.tokens, &args.attention].iter().all(|it| it.is_none())
    {
        bail!("--target goes with a text; give one with --tokens, --attention or --text");
    }
    let subject = Subject::find(&args, reads)?;
    let config = &subject.config;
    let rows = args.batch.map_or(ROWS, |rows| rows as usize);
    let columns = args.length.map_or(COLUMNS.min(config.model.context_length), |it| it as usize);
    if columns > config.model.context_length {
        bail!(
            "--length is {columns}, the model sees at most {} tokens",
            config.model.context_length
        );
    }
    let asked = reads || args.weights;
    let sizes = (args.shapes || !asked).then_some(Sizes {
        batch: rows,
        time: columns,
        source: columns,
        vocab_size: subject.vocab_size,
    });
    // All that is asked for is read before a model is loaded.
    let batch = if args.grads { Some(batch(&subject, &args)?) } else { None };
    let passage = |text: &String| subject.passage(text, args.target.as_deref(), "--tokens");
    let tokens = args.tokens.as_ref().map(passage).transpose()?;
    let attention = args.attention.as_ref();
    let attention = attention.map(|text| Asked::new(&args, text, &subject)).transpose()?;
    let job = Inspect { args: &args, backend, subject: &subject, sizes, batch, tokens, attention };
    backend::dispatch(backend.on(args.common.target.device), job)?
}

struct Inspect<'a> {
    args: &'a InspectArgs,
    backend: BackendKind,
    subject: &'a Subject,
    sizes: Option<Sizes>,
    batch: Option<(TokenBatch, String)>,
    tokens: Option<Passage>,
    attention: Option<Asked>,
}

/// What `--json` prints; only what was asked for.
#[derive(Serialize)]
struct Document {
    name: String,
    /// None of a configuration.
    step: Option<usize>,
    parameters: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    shapes: Option<Module>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gradients: Option<GradientReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<Vec<WeightSummary>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attention: Option<Seen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Reading>,
}

impl Job for Inspect<'_> {
    type Output = anyhow::Result<()>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<()> {
        let subject = self.subject;
        let config = &subject.config;
        let model: Model<B::InnerBackend> = subject.model(&device)?;
        let document = Document {
            name: subject.name().into(),
            step: subject.step,
            parameters: burn::module::Module::num_params(&model),
            shapes: self.sizes.map(|sizes| inside::outline(&model, &config.model, sizes)),
            weights: self.args.weights.then(|| summaries(&model)),
            attention: match &self.attention {
                Some(asked) => Some(asked.look(&model, &subject.title())?),
                None => None,
            },
            tokens: match &self.tokens {
                Some(passage) => {
                    let tokenizer = subject.tokenizer()?.as_ref();
                    Some(inside::surprise(&model, tokenizer, subject.task()?, passage))
                }
                None => None,
            },
            gradients: match &self.batch {
                Some((batch, _)) => Some(self.gradients::<B>(batch, &device)?),
                None => None,
            },
        };
        let stdout = std::io::stdout();
        let mut out = BufWriter::new(stdout.lock());
        match self.args.json {
            true => {
                serde_json::to_writer(&mut out, &document)?;
                writeln!(out)?;
            }
            false => self.write(&document, &mut out)?,
        }
        Ok(out.flush()?)
    }
}

impl Inspect<'_> {
    fn gradients<B: TrainBackend>(
        &self,
        batch: &TokenBatch,
        device: &B::Device,
    ) -> anyhow::Result<GradientReport> {
        let config = &self.subject.config;
        check_precision::<B>(self.backend, device, config.train.precision)?;
        let model = LanguageModel::for_training(self.subject.model::<B>(device)?, config)?;
        // What is dropped is drawn as in the first step of a training.
        seed_draws(config.seed);
        Ok(inside::gradients(&model, &config.model, batch))
    }

    fn write(&self, document: &Document, out: &mut impl Write) -> anyhow::Result<()> {
        let style = Style::of_stdout();
        let kind = match self.subject.config.model.architecture {
            Architecture::Decoder => "a decoder",
            Architecture::Encoder => "an encoder",
            Architecture::EncoderDecoder => "an encoder and a decoder",
        };
        let title = style.bold(&self.subject.title());
        writeln!(out, "{title}: {kind} of {} parameters", document.parameters)?;
        if let Some(model) = &document.shapes {
            inside::write_outline(out, model, style)?;
        }
        if let (Some(report), Some((_, what))) = (&document.gradients, &self.batch) {
            writeln!(out, "\ngradients of {what}")?;
            inside::write_gradients(out, report, style)?;
        }
        if let Some(weights) = &document.weights {
            writeln!(out)?;
            inside::write_weights(out, weights, style)?;
        }
        if let (Some(asked), Some(seen)) = (&self.attention, &document.attention) {
            writeln!(out)?;
            asked.write(out, seen, style)?;
        }
        if let Some(reading) = &document.tokens {
            writeln!(out)?;
            inside::write_surprise(out, reading, style)?;
        }
        Ok(())
    }
}

fn summaries<B: Backend>(model: &Model<B>) -> Vec<WeightSummary> {
    let summary = |(name, data): (String, burn::tensor::TensorData)| {
        let values: Vec<f32> = data.iter::<f32>().collect();
        inside::summarize(&name, &data.shape, &values)
    };
    tensors(model).into_iter().map(summary).collect()
}
