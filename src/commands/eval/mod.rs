mod show;
mod stories;
mod tasks;
mod text;

use anyhow::{Context, bail};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::progress::{self, note};
use super::signals::{STOPPED, stop_on_signal};
use super::weights::{check, stored};
use crate::artifact::{Run, write_evaluation};
use crate::backend::{self, BackendKind, GptBackend, Job, TrainBackend};
use crate::cli::EvalArgs;
use crate::data::Task;
use crate::eval::{Outcome, Report, Stopped};
use crate::model::Model;
use crate::tokenizer::Tokenizer;
use crate::train::LanguageModel;
use stories::StoryTask;
use tasks::Questions;
use text::Text;

pub(super) fn run(args: EvalArgs) -> anyhow::Result<()> {
    let backend = backend::choose(args.common.target.backend.as_deref())?;
    let run = Run::open(&args.common.artifacts, &args.run)?;
    let config = run.config();
    let tokenizer: Arc<dyn Tokenizer> = run.tokenizer()?.into();
    let task = run.task(tokenizer.as_ref());
    let continues = task == Task::NextToken;
    if !continues && (!args.task.is_empty() || args.stories.is_some()) {
        let does = match task {
            Task::Translation { .. } => "translates",
            _ => "fills gaps",
        };
        bail!(
            "the run {} {does}; --task and --stories are for runs that continue a text",
            run.name()
        );
    }
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(stop.clone(), "stopping")?;
    // All that is asked for, before a model is loaded.
    let questions =
        args.task.iter().map(|asked| Questions::read(asked, &args, &run, &tokenizer, &stop));
    let questions = questions.collect::<anyhow::Result<Vec<_>>>()?;
    let names_text = args.split.is_some()
        || args.data.is_some()
        || args.stride.is_some()
        || !args.accuracies.is_empty();
    let text = match names_text || (questions.is_empty() && args.stories.is_none()) {
        true => Some(Text::read(&args, &run, &tokenizer, task)?),
        false => None,
    };
    let stories = match args.stories {
        Some(count) => Some(StoryTask::new(count as usize, &args, config, tokenizer.as_ref())?),
        None => None,
    };
    let step = match args.checkpoint {
        Some(step) => step,
        None => run.best_step()?,
    };
    let job = Evaluate {
        args: &args,
        backend,
        run: &run,
        step,
        text,
        questions,
        stories,
        tokenizer: tokenizer.as_ref(),
        stop: &stop,
    };
    match backend::dispatch(backend.on(args.common.target.device), job)? {
        Err(error) if error.is::<Stopped>() => {
            note(format_args!("stopped; nothing is kept"));
            std::process::exit(STOPPED);
        }
        ended => ended,
    }
}

struct Evaluate<'a> {
    args: &'a EvalArgs,
    backend: BackendKind,
    run: &'a Run,
    step: usize,
    text: Option<Text>,
    questions: Vec<Questions>,
    stories: Option<StoryTask>,
    tokenizer: &'a dyn Tokenizer,
    stop: &'a AtomicBool,
}

impl Job for Evaluate<'_> {
    type Output = anyhow::Result<()>;

    fn run<B: TrainBackend>(self, device: B::Device) -> anyhow::Result<()> {
        let weights = &self.args.weights;
        check::<B>(weights, self.backend, &device)?;
        let config = &self.run.config().model;
        let model = self.run.load_checkpoint::<B::InnerBackend>(self.step, &device)?;
        let model = LanguageModel::new(model, config);
        let mut results = Vec::new();
        if let Some(text) = &self.text {
            results.push(text.measure(&model, "f32", &self)?);
        }
        let results = match weights.quantize {
            None => self.others(&model, "f32", results)?,
            Some(_) => {
                let model = LanguageModel::new(stored(model.model, weights), config);
                if let Some(text) = &self.text {
                    results.push(text.measure(&model, "int8", &self)?);
                }
                self.others(&model, "int8", results)?
            }
        };
        if let Some(text) = &self.text {
            text.check()?; // what was cut off meanwhile was read as zeros
        }
        let report = Report {
            run: self.run.name().into(),
            step: self.step,
            backend: self.backend.name().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            results,
        };
        // Both are tried: a disk may be full, and a reader may have had enough.
        let told = self.tell(&report);
        self.keep(&report)?;
        told
    }
}

impl Evaluate<'_> {
    /// What is measured beside a text.
    fn others<B: GptBackend>(
        &self,
        model: &LanguageModel<B>,
        weights: &str,
        mut results: Vec<Outcome>,
    ) -> anyhow::Result<Vec<Outcome>> {
        for questions in &self.questions {
            results.push(questions.measure(model, weights, self)?);
        }
        if let (Some(stories), Model::Gpt(model)) = (&self.stories, &model.model) {
            results.push(stories.measure(model, weights, self)?);
        }
        Ok(results)
    }

    fn batch_size(&self) -> usize {
        let own = self.run.config().train.batch_size;
        self.args.batch.map_or(own, |batch| batch as usize)
    }

    /// Shows how much of something is done, and listens for Ctrl-C.
    fn watched<T, E: From<Stopped>>(
        &self,
        total: usize,
        what: &str,
        work: impl FnOnce(&mut dyn FnMut(usize) -> Result<(), Stopped>) -> Result<T, E>,
    ) -> Result<T, E> {
        let bar = progress::items(total, what);
        let done = work(&mut |done| {
            bar.inc(done as u64);
            match self.stop.load(Ordering::Relaxed) {
                true => Err(Stopped),
                false => Ok(()),
            }
        });
        bar.finish_and_clear();
        done
    }

    fn tell(&self, report: &Report) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.args.json {
            serde_json::to_writer(&mut out, report)?;
            writeln!(out)?;
        } else {
            show::lines(&report.results, &mut out)?;
        }
        Ok(())
    }

    /// Writes the results into the run, or where the command line says.
    fn keep(&self, report: &Report) -> anyhow::Result<()> {
        let name = match &self.args.name {
            Some(name) => name.clone(),
            None => {
                let text = self.text.iter().map(Text::name);
                let tasks = self.questions.iter().map(|asked| asked.benchmark.name().to_owned());
                let stories = self.stories.iter().map(StoryTask::name);
                // What is measured otherwise is kept beside it.
                let EvalArgs { stride, limit, weights, .. } = self.args;
                let stride = stride.map(|stride| format!("stride{stride}"));
                let limit = limit.map(|limit| format!("limit{limit}"));
                let int8 = weights.quantize.map(|_| "int8".to_owned());
                let how = [stride, limit, int8].into_iter().flatten();
                text.chain(tasks).chain(stories).chain(how).collect::<Vec<_>>().join("-")
            }
        };
        let own = self.run.history().evaluations();
        let folder = self.args.output.as_ref().unwrap_or(&own);
        let path = write_evaluation(folder, self.step, &file_name(&name), report, &report.csv())
            .context("the results cannot be kept; --output names another folder")?;
        note(format_args!("kept in {}, and as .csv beside it", path.display()));
        Ok(())
    }
}

/// A name that a file can have.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || ['-', '_', '.'].contains(&c) { c } else { '-' };
    name.chars().map(plain).collect()
}
