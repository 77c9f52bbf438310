use anyhow::{Context, bail};
use burn::module::{AutodiffModule, Module};
use burn_train::Interrupter;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::sample::{gaps, stream, translation};
use crate::artifact::{Run, Summary};
use crate::backend::{self, BackendKind, GptBackend, Job, TrainBackend};
use crate::cli::TrainArgs;
use crate::config::{self, ConfigError, DataConfig, RunConfig, Source};
use crate::data::{Corpus, EvaluationLoader, Example, SplitTokens, Task};
use crate::generate::{Sampler, Sampling, begun, opening};
use crate::model::{Initializer, Model};
use crate::train::{Display, LanguageModel, Outcome, Training, evaluate, train};

pub(super) fn run(args: TrainArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.common.backend.as_deref())?;
    let (mut config, initial) = resolve(&args)?;
    let tokenizer = match &initial {
        Some(run) => Some(run.tokenizer()?.into()),
        None => None,
    };
    let corpus = Corpus::load(&config, tokenizer)?;
    let tokens = corpus.tokenizer.vocab_size() + Task::special_tokens(config.model.architecture);
    let vocab_size = config.model.vocab_size.unwrap_or(tokens);
    if vocab_size < tokens {
        return Err(ConfigError::Vocabulary { configured: vocab_size, tokenizer: tokens }.into());
    }
    config.model.vocab_size = Some(vocab_size);
    config.validate()?;
    let job = Train { backend, config, initial, corpus: &corpus, args: &args };
    backend::dispatch(backend, job)?
}

/// The configuration with what the command line says on top, and the run that it begins with.
fn resolve(args: &TrainArgs) -> anyhow::Result<(RunConfig, Option<Run>)> {
    let source = Source::find(&args.config, None)?;
    let mut value = config::load_value(&source)?;
    let mut text = serde_json::Map::new();
    for (key, path) in [("path", &args.data), ("validation_path", &args.eval_data)] {
        if let Some(path) = path {
            // Absolute, so that the run can be evaluated from anywhere.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            text.insert(key.into(), path.to_string_lossy().into());
        }
    }
    if !text.is_empty() {
        let architecture = value.pointer("/model/architecture").cloned().unwrap_or_default();
        // A mistake in it is for `resolve` to report.
        let architecture = serde_json::from_value(architecture).unwrap_or_default();
        let kind = match (&args.data, value["data"]["kind"].as_str()) {
            (None, Some(configured)) => configured,
            (None, None) => "text",
            (Some(path), _) => DataConfig::kind_of(path, architecture),
        };
        if kind == "tokens" && args.eval_data.is_some() {
            bail!("prepared data has its own validation split; leave out --eval-data");
        }
        text.insert("kind".into(), kind.into());
        config::override_value(&mut value, &format!("data={}", json!(text)))?;
    }
    config::override_values(&mut value, &args.set)?;
    let initial = match value["init_from"].as_str() {
        Some(name) => {
            let run = Run::open(&args.common.artifacts, name)
                .context("init_from names the run to begin with, as emberlm import makes one")?;
            config::inherit(&mut value, run.config())?;
            Some(run)
        }
        None => None,
    };
    let mut config = config::resolve(value)?;
    if let Some(name) = &args.run {
        config.name.clone_from(name);
        config.validate()?;
    } else {
        config.name = Run::free_name(&args.common.artifacts, &config.name);
    }
    Ok((config, initial))
}

struct Train<'a> {
    backend: BackendKind,
    config: RunConfig,
    /// Whose model is trained further.
    initial: Option<Run>,
    corpus: &'a Corpus,
    args: &'a TrainArgs,
}

impl Job for Train<'_> {
    type Output = anyhow::Result<()>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<()> {
        let (config, corpus) = (&self.config, self.corpus);
        let vocab_size = config.model.vocab_size.unwrap_or_default();
        let model: Model<B> = match &self.initial {
            Some(initial) => initial
                .load_model_as(config, &device)
                .context("init_from names a run that cannot be trained further like this")?,
            None => {
                let initializer = Initializer::seeded(config.seed);
                Model::new(&config.name, &config.model, vocab_size, initializer, &device)
            }
        };
        let params = model.num_params();
        let model = LanguageModel::for_training(model, config)?;
        let run = Run::create(&self.args.common.artifacts, config, corpus.tokenizer.saved())?;
        self.announce(&run, params);
        if model.trained_params() < params {
            say(format_args!("trained: {} of them", model.trained_params()));
        }
        if self.initial.is_some() {
            self.announce_loss(&model.valid());
        }

        let interrupter = Interrupter::new();
        stop_on_signal(&interrupter)?;
        let outcome = train(Training {
            config,
            corpus,
            model,
            device,
            sink: Box::new(run.checkpoints()),
            metrics: Box::new(run.metrics_file()?),
            display: self.display(),
            interrupter,
        })
        .with_context(|| format!("the run {} stopped", run.path().display()))?;
        self.conclude(&run, params, outcome)
    }
}

impl Train<'_> {
    #[cfg(feature = "tui")]
    fn display(&self) -> Display {
        if self.args.plain || !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            Display::Lines
        } else {
            Display::Dashboard
        }
    }

    #[cfg(not(feature = "tui"))]
    fn display(&self) -> Display {
        Display::Lines
    }

    fn announce(&self, run: &Run, params: usize) {
        let (config, corpus) = (&self.config, self.corpus);
        say(format_args!(
            "{}: {params} parameters, {} layers, {} heads, width {}, context {}, on {}",
            config.name,
            config.model.n_layers,
            config.model.n_heads,
            config.model.d_model,
            config.model.context_length,
            self.backend,
        ));
        say(format_args!(
            "data: {} training and {} validation tokens, {} different ones",
            corpus.train.token_count(),
            corpus.validation.token_count(),
            corpus.tokenizer.vocab_size(),
        ));
        match (corpus.task, &corpus.train.tokens) {
            (Task::Translation { .. }, SplitTokens::Text(_)) => say(format_args!(
                "task: to continue the first half of each window with its second; pairs to translate come from a .tsv or .jsonl file"
            )),
            (Task::Translation { .. }, SplitTokens::Pairs(_)) => {
                say(format_args!("task: to translate each source into its target"));
            }
            (Task::MaskedTokens { .. }, _) => {
                say(format_args!("task: to fill in the tokens that are masked, 15% of all"));
            }
            (Task::NextToken, _) => {}
        }
        if let (Some(entropy), Some(bytes)) =
            (corpus.source_entropy, corpus.validation.bytes_per_target(corpus.task))
        {
            let bits = entropy / std::f64::consts::LN_2 / bytes;
            say(format_args!(
                "source entropy: {entropy:.4} nats a token, {bits:.4} bits a byte; no model can beat it"
            ));
        }
        say(format_args!("run: {}", run.path().display()));
    }

    /// What the model that is trained further knows already.
    fn announce_loss<B: GptBackend>(&self, model: &LanguageModel<B>) {
        let (config, corpus) = (&self.config, self.corpus);
        let windows = config.train.evaluation_windows;
        let sample = corpus.validation.spread(config.model.context_length, windows);
        let batch_size = config.train.batch_size;
        let loader =
            EvaluationLoader::new(corpus.validation.clone(), corpus.task, sample, batch_size);
        let before = evaluate(model, loader.batches());
        say(format_args!("validation loss before training: {:.4} nats a token", before.loss));
    }

    /// Evaluates the last model on the whole validation split, and tells how the run went.
    fn conclude<B: TrainBackend>(
        &self,
        run: &Run,
        params: usize,
        outcome: Outcome<B>,
    ) -> anyhow::Result<()> {
        let (config, corpus) = (&self.config, self.corpus);
        let Outcome { model, progress, best } = outcome;
        let stopped = false;
        let Some((best_step, best)) = best else {
            if progress.step > 0 {
                bail!(
                    "the run {} diverged: its validation loss is not a number after {} steps; lower train.schedule.learning_rate",
                    run.path().display(),
                    progress.step
                );
            }
            say(format_args!("stopped before the first step; nothing was saved"));
            return Ok(());
        };
        say(format_args!("evaluating the last model on the whole validation split"));
        let all = corpus.validation.all(config.model.context_length);
        let batch_size = config.train.batch_size;
        let loader = EvaluationLoader::new(corpus.validation.clone(), corpus.task, all, batch_size);
        let whole = evaluate(&model, loader.batches());
        let bits_per_byte =
            corpus.validation.bytes_per_target(corpus.task).map(|bytes| whole.bits_per_byte(bytes));
        let summary = Summary {
            name: config.name.clone(),
            steps: progress.step,
            tokens: progress.tokens,
            params,
            best_val_loss: best.loss,
            best_step,
            final_val_loss: whole.loss,
            bits_per_byte,
            source_entropy: corpus.source_entropy,
            seconds: progress.seconds,
            tokens_per_s: progress.tokens as f64 / progress.seconds,
            backend: self.backend.name().into(),
        };
        run.write_summary(&summary)?;

        let seconds = Duration::from_secs(progress.seconds.round() as u64);
        say(format_args!(
            "{} {} steps, {} tokens in {}",
            if stopped { "stopped after" } else { "finished" },
            progress.step,
            progress.tokens,
            humantime::format_duration(seconds),
        ));
        say(format_args!(
            "best validation loss: {:.4} nats a token, at step {best_step}",
            best.loss
        ));
        say(format_args!(
            "last model, whole validation split: {:.4} nats a token, perplexity {:.3}{}",
            whole.loss,
            whole.perplexity(),
            bits_per_byte.map(|bits| format!(", {bits:.4} bits a byte")).unwrap_or_default(),
        ));
        if let Some(entropy) = corpus.source_entropy {
            say(format_args!(
                "source entropy: {entropy:.4} nats a token; the model is {:.4} above it",
                whole.loss - entropy
            ));
        }
        say(format_args!("run: {}", run.path().display()));
        say(format_args!("\na sample:\n"));
        self.sample(&model.model)?;
        let artifacts = &self.args.common.artifacts;
        let root = if artifacts.as_os_str() == "artifacts" {
            String::new()
        } else {
            format!(" --artifacts {}", artifacts.display())
        };
        let command = match corpus.task {
            Task::NextToken => format!("generate {}", run.name()),
            Task::Translation { .. } => format!("generate {} --prompt TEXT", run.name()),
            Task::MaskedTokens { .. } => format!("fill-mask {} TEXT", run.name()),
        };
        say(format_args!("\nmore: emberlm {command}{root}"));
        Ok(())
    }

    fn sample<B: GptBackend>(&self, model: &Model<B>) -> anyhow::Result<()> {
        let (sample, corpus) = (&self.config.sample, self.corpus);
        let tokenizer = corpus.tokenizer.as_ref();
        let sampling = Sampling {
            temperature: sample.temperature,
            top_k: sample.top_k,
            top_p: None,
            min_p: None,
        };
        let sampler = || Sampler::new(sampling, self.config.seed);
        let shown = corpus.validation.spread(self.config.model.context_length, SHOWN_EXAMPLES);
        let examples: Vec<Example> = shown
            .into_iter()
            .map(|place| Example::read(&corpus.validation, corpus.task, place))
            .collect();
        let mut out = std::io::stdout().lock();
        match model {
            Model::Gpt(model) => {
                let prompt = begun(tokenizer, opening(tokenizer, &sample.prompt));
                let end = tokenizer.end_of_text();
                stream(model, tokenizer, &prompt, end, sample.max_tokens, sampler()?, &mut out)?;
            }
            Model::Encoder(model) => gaps(model, tokenizer, corpus.task, &examples[0], &mut out)?,
            Model::Seq2Seq(model) => {
                for example in &examples {
                    translation(model, tokenizer, corpus.task, example, sampler()?, &mut out)?;
                }
            }
        }
        writeln!(out)?;
        Ok(())
    }
}

/// Pairs that a translator is shown on at the end of its training.
const SHOWN_EXAMPLES: usize = 3;

/// The run is worth more than its reader: a closed pipe does not stop it.
fn say(line: std::fmt::Arguments) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The first signal ends the run after its step, with a checkpoint; the second ends it at once.
fn stop_on_signal(interrupter: &Interrupter) -> anyhow::Result<()> {
    let interrupter = interrupter.clone();
    let mut stopping = false;
    ctrlc::set_handler(move || {
        if stopping {
            std::process::exit(130);
        }
        stopping = true;
        eprintln!("stopping after this step; once more to stop at once");
        interrupter.stop(Some("stopped by a signal"));
    })
    .context("cannot listen for Ctrl-C")
}
