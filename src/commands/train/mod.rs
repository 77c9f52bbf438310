mod keeper;
mod loggers;
mod plan;

use anyhow::{Context, bail};
use burn::module::{AutodiffModule, Module};
use burn_train::Interrupter;
use std::io::{self, Write};
use std::time::Duration;

use super::advice;
use super::progress::{is_quiet, note};
use super::signals::{STOPPED, on_signal};
use crate::artifact::{Run, Summary};
use crate::backend::{self, BackendKind, GptBackend, JobOfDevices, TrainBackend};
use crate::cli::TrainArgs;
use crate::config::Precision;
use crate::config::RunConfig;
use crate::data::{Corpus, EvaluationLoader, ExamplePlace, SplitTokens, Task};
use crate::train::{
    Average, Display, Ended, Evaluation, JsonLinesLogger, LanguageModel, Loggers, ModelOptimizer,
    Outcome, Training, check_devices, evaluate_split, train,
};
use keeper::Keeper;
use plan::Plan;
pub(super) use plan::apply_data;

pub(super) fn run(args: TrainArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.common.target.backend.as_deref())?;
    let plan = match &args.resume {
        Some(name) => Plan::resumed(&args, name, backend)?,
        None => Plan::new_run(&args)?,
    };
    let devices = match args.common.target.device {
        Some(device) => vec![device],
        None => args.devices.clone(),
    };
    check_devices(&plan.config, devices.len().max(1))?;
    backend::dispatch_on(backend, &devices, Train { backend, plan, args: &args })?
}

struct Train<'a> {
    backend: BackendKind,
    plan: Plan,
    args: &'a TrainArgs,
}

impl JobOfDevices for Train<'_> {
    type Output = anyhow::Result<()>;

    fn run<B: TrainBackend>(self, mut devices: Vec<B::Device>) -> anyhow::Result<()> {
        let Self { backend, plan, args } = self;
        for device in &devices {
            backend::check_precision::<B>(backend, device, plan.config.train.precision)?;
        }
        let device = devices.remove(0);
        let model = plan.model::<B>(&device)?;
        let params = model.num_params();
        let model = LanguageModel::for_training(model, &plan.config)?;
        let optimizer = ModelOptimizer::new(&plan.config.train.optimizer, &model)?;
        let finetuning = plan.is_finetuning();
        let (config, state) = (plan.config.clone(), plan.state.clone());
        let mut average = config.train.average.map(|config| Average::new(config, 0));
        // Before anything of the run is changed.
        if let Some((step, checkpoints)) = plan.checkpoint() {
            checkpoints.load_moments(step, &model, &optimizer, &device)?;
            if let Some(config) = config.train.average {
                average = Some(checkpoints.load_average(step, &state, config, &model, &device)?);
            }
        }
        let (run, _lock, corpus) = plan.open(args)?;
        let taken = state.progress.step;
        let report = Report { backend, config: &config, corpus: &corpus, run: &run, params, args };
        report.announce();
        if !devices.is_empty() {
            report.announce_devices(B::InnerBackend::collectives(&device));
        }
        if let Some(format) = B::InnerBackend::coarse_products(&device)
            && config.train.precision == Precision::F32
        {
            say(
                args,
                format_args!(
                    "matrix products: in f32, whose factors this device may round to {format}"
                ),
            );
        }
        if model.trained_params() < params {
            say(args, format_args!("trained: {} of them", model.trained_params()));
        }

        let interrupter = Interrupter::new();
        let display = display(args);
        stop_on_signal(&interrupter, display)?;
        if args.stop_at_eof {
            stop_at_eof(&interrupter);
        }
        if finetuning {
            report.announce_loss(&model.valid(), &interrupter)?;
        }
        let keeper = Box::new(Keeper::new(&run, &config, &corpus)?);
        let mut loggers = loggers::open(&run, &config, taken)?;
        let tracking = loggers::track(&run, &config, backend, args)?;
        if let Some(tracking) = &tracking {
            loggers.push(Box::new(tracking.logger()));
        }
        if args.json {
            loggers.push(Box::new(JsonLinesLogger::new(std::io::stdout())));
        }
        let loggers = Loggers::new(loggers);
        let written = loggers.written();
        let outcome = train(Training {
            config: &config,
            corpus: &corpus,
            model,
            optimizer,
            average,
            state,
            device,
            further_devices: devices,
            keeper,
            loggers,
            display,
            interrupter: interrupter.clone(),
        });
        if let Some(tracking) = tracking {
            loggers::conclude(tracking, &outcome);
        }
        if let Some(trouble) = written.trouble() {
            note(format_args!("metrics are not all there: {trouble}"));
        }
        let outcome =
            outcome.with_context(|| format!("the run {} stopped", run.path().display()))?;
        report.conclude(outcome, &interrupter)
    }
}

#[cfg(feature = "tui")]
fn display(args: &TrainArgs) -> Display {
    use std::io::IsTerminal;

    if args.json || is_quiet() {
        Display::Silent
    } else if args.plain || !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        Display::Lines
    } else {
        Display::Dashboard
    }
}

#[cfg(not(feature = "tui"))]
fn display(args: &TrainArgs) -> Display {
    if args.json || is_quiet() { Display::Silent } else { Display::Lines }
}

/// What is said about a run before and after it.
struct Report<'a> {
    backend: BackendKind,
    config: &'a RunConfig,
    corpus: &'a Corpus,
    run: &'a Run,
    params: usize,
    args: &'a TrainArgs,
}

impl Report<'_> {
    fn announce(&self) {
        let Self { config, corpus, params, .. } = *self;
        say(
            self.args,
            format_args!(
                "{}: {params} parameters, {} layers, {} heads, width {}, context {}, on {}",
                self.run.name(),
                config.model.n_layers,
                config.model.n_heads,
                config.model.d_model,
                config.model.context_length,
                self.backend,
            ),
        );
        say(
            self.args,
            format_args!(
                "data: {} training and {} validation tokens, {} different ones",
                corpus.train.token_count(),
                corpus.validation.token_count(),
                corpus.tokenizer.vocab_size(),
            ),
        );
        match (corpus.task, &corpus.train.tokens) {
            (Task::Translation { .. }, SplitTokens::Text(_)) => say(
                self.args,
                format_args!(
                    "task: to continue the first half of each window with its second; pairs to translate come from a .tsv or .jsonl file"
                ),
            ),
            (Task::Translation { .. }, SplitTokens::Pairs(_)) => {
                say(self.args, format_args!("task: to translate each source into its target"));
            }
            (Task::MaskedTokens { .. }, _) => {
                say(
                    self.args,
                    format_args!("task: to fill in the tokens that are masked, 15% of all"),
                );
            }
            (Task::NextToken, _) => {}
        }
        if let (Some(entropy), Some(bytes)) =
            (corpus.source_entropy, corpus.validation.bytes_per_target(corpus.task))
        {
            let bits = entropy / std::f64::consts::LN_2 / bytes;
            say(
                self.args,
                format_args!(
                    "source entropy: {entropy:.4} nats a token, {bits:.4} bits a byte; no model can beat it"
                ),
            );
        }
        say(self.args, format_args!("run: {}", self.run.path().display()));
    }

    /// Which devices train together, and by what library they send each other gradients.
    fn announce_devices(&self, collectives: Option<&'static str>) {
        let devices: Vec<String> = self.args.devices.iter().map(usize::to_string).collect();
        let by = match (collectives, self.backend) {
            (Some(library), _) => format!("by {library}"),
            (None, BackendKind::Cuda) => {
                "over the host, which takes longer: NCCL was not found (see emberlm doctor)".into()
            }
            (None, _) => "over the host".into(),
        };
        let devices = devices.join(", ");
        say(self.args, format_args!("devices: {devices}; gradients are summed {by}"));
    }

    /// What the model that is trained further knows already.
    fn announce_loss<B: GptBackend>(
        &self,
        model: &LanguageModel<B>,
        interrupter: &Interrupter,
    ) -> anyhow::Result<()> {
        let Self { config, corpus, .. } = *self;
        let windows = config.train.evaluation_windows;
        let sample = corpus.validation.spread(config.model.context_length, windows);
        if let Some(before) = self.evaluate(model, sample, interrupter)? {
            say(
                self.args,
                format_args!("validation loss before training: {:.4} nats a token", before.loss),
            );
        }
        Ok(())
    }

    /// The loss on a part of the validation split; none where a signal has stopped it.
    fn evaluate<B: GptBackend>(
        &self,
        model: &LanguageModel<B>,
        places: Vec<ExamplePlace>,
        interrupter: &Interrupter,
    ) -> anyhow::Result<Option<Evaluation>> {
        let Self { config, corpus, .. } = *self;
        let (split, batch_size) = (&corpus.validation, config.train.batch_size);
        let loader = EvaluationLoader::new(split.clone(), corpus.task, places, batch_size);
        let stopped = || interrupter.should_stop();
        evaluate_split(model, split, loader.batches(), stopped)
            .context("the validation split cannot be read")
    }

    /// Tells how the run went, after an evaluation on the whole validation split where the run has
    /// come to its end.
    fn conclude<B: TrainBackend>(
        &self,
        outcome: Outcome<B>,
        interrupter: &Interrupter,
    ) -> anyhow::Result<()> {
        let Self { config, corpus, run, .. } = *self;
        let artifacts = &self.args.common.artifacts;
        let Outcome { model, state, ended } = outcome;
        let progress = state.progress;
        if progress.step == 0 {
            say(self.args, format_args!("stopped before the first step; nothing was saved"));
            say(self.args, format_args!("to go on: {}", advice::going_on(run, artifacts)));
            return Ok(());
        }
        let seconds = Duration::from_secs(progress.seconds.round() as u64);
        let mut summary = Summary {
            name: run.name().into(),
            steps: progress.step,
            tokens: progress.tokens,
            params: self.params,
            best_val_loss: state.best.map(|best| best.loss),
            best_step: state.best.map(|best| best.step),
            final_val_loss: None,
            bits_per_byte: None,
            source_entropy: corpus.source_entropy,
            skipped_steps: state.guard.skipped,
            seconds: progress.seconds,
            tokens_per_s: progress.tokens as f64 / progress.seconds,
            backend: self.backend.name().into(),
        };
        let how = match ended {
            Ended::Finished => "finished",
            Ended::StoppedEarly => "no better evaluation for a while: stopped early after",
            Ended::Interrupted => "stopped after",
        };
        say(
            self.args,
            format_args!(
                "{how} {} steps, {} tokens in {}",
                progress.step,
                progress.tokens,
                humantime::format_duration(seconds),
            ),
        );
        if state.guard.skipped > 0 {
            say(self.args, format_args!("left out: {} steps", state.guard.skipped));
        }
        if ended == Ended::Interrupted {
            return self.conclude_early(&summary);
        }
        let Some(best) = state.best else {
            bail!(
                "the run {} diverged: its validation loss is not a number after {} steps; lower train.schedule.learning_rate",
                run.path().display(),
                progress.step
            );
        };
        say(self.args, format_args!("evaluating the last model on the whole validation split"));
        let all = corpus.validation.all(config.model.context_length);
        let Some(whole) = self.evaluate(&model, all, interrupter)? else {
            say(self.args, format_args!("stopped before that was done"));
            return self.conclude_early(&summary);
        };
        summary.final_val_loss = Some(whole.loss);
        summary.bits_per_byte =
            corpus.validation.bytes_per_target(corpus.task).map(|bytes| whole.bits_per_byte(bytes));
        run.history().write_summary(&summary)?;
        self.say_end(&summary)?;
        say(
            self.args,
            format_args!(
                "best validation loss: {:.4} nats a token, at step {}",
                best.loss, best.step
            ),
        );
        say(
            self.args,
            format_args!(
                "last model, whole validation split: {:.4} nats a token, perplexity {:.3}{}",
                whole.loss,
                whole.perplexity(),
                summary
                    .bits_per_byte
                    .map(|bits| format!(", {bits:.4} bits a byte"))
                    .unwrap_or_default(),
            ),
        );
        if let Some(entropy) = corpus.source_entropy {
            say(
                self.args,
                format_args!(
                    "source entropy: {entropy:.4} nats a token; the model is {:.4} above it",
                    whole.loss - entropy
                ),
            );
        }
        say(self.args, format_args!("run: {}", run.path().display()));
        let sample = run.history().sample_path(progress.step);
        let sample = std::fs::read(&sample).with_context(|| sample.display().to_string())?;
        say(self.args, format_args!("\na sample:\n\n{}", String::from_utf8_lossy(&sample)));
        let command = advice::use_of(run, artifacts);
        say(self.args, format_args!("more: {command}"));
        Ok(())
    }

    /// The end of a run that a signal has stopped, which can be resumed.
    fn conclude_early(&self, summary: &Summary) -> anyhow::Result<()> {
        self.run.history().write_summary(summary)?;
        self.say_end(summary)?;
        say(self.args, format_args!("run: {}", self.run.path().display()));
        let artifacts = &self.args.common.artifacts;
        say(self.args, format_args!("to go on: {}", advice::going_on(self.run, artifacts)));
        Ok(())
    }

    /// What is left to say to a program: the summary, or where the run is.
    fn say_end(&self, summary: &Summary) -> anyhow::Result<()> {
        let line = match self.args.json {
            true => serde_json::to_string(summary)?,
            false if is_quiet() => self.run.path().display().to_string(),
            false => return Ok(()),
        };
        let _ = writeln!(std::io::stdout(), "{line}");
        Ok(())
    }
}

/// To a person. The run is worth more than its reader: a closed pipe does not stop it.
fn say(args: &TrainArgs, line: std::fmt::Arguments) {
    if !args.json && !is_quiet() {
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

/// The first signal ends the run after its step, with a checkpoint; the second ends it at once.
fn stop_on_signal(interrupter: &Interrupter, display: Display) -> anyhow::Result<()> {
    let interrupter = interrupter.clone();
    let mut stopping = false;
    on_signal(move || {
        if stopping {
            display.abandon();
            std::process::exit(STOPPED);
        }
        stopping = true;
        // A line would stay on the dashboard, which shows the reason itself.
        if display == Display::Lines {
            note(format_args!("stopping after this step; once more to stop at once"));
        }
        interrupter.stop(Some("stopped by a signal"));
    })
}

/// Whoever has started this program and holds its standard input may go away in any way: then the
/// run ends after its step, with a checkpoint.
fn stop_at_eof(interrupter: &Interrupter) {
    let interrupter = interrupter.clone();
    std::thread::spawn(move || {
        // An input that cannot be read is no better than one that has ended.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        interrupter.stop(Some("standard input has ended"));
    });
}
