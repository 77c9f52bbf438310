use anyhow::{Context as _, bail};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Evaluate;
use crate::artifact::Run;
use crate::backend::GptBackend;
use crate::cli::EvalArgs;
use crate::commands::prepare::show_download;
use crate::commands::progress;
use crate::commands::signals::STOPPED;
use crate::data::{Manifest, fetch};
use crate::eval::{
    Benchmark, ChoiceScore, Context, Continuation, ContinuationError, LastWordScore, Measure,
    Outcome, Question, Stopped, log_likelihoods,
};
use crate::tokenizer::Tokenizer;
use crate::train::LanguageModel;

/// The questions of a benchmark.
pub(super) struct Questions {
    pub(super) benchmark: Benchmark,
    path: PathBuf,
    questions: Vec<Question>,
    /// Of all choices, question after question.
    continuations: Vec<Continuation>,
    is_whole: bool,
}

impl Questions {
    /// `NAME=FILE`, or `NAME` of what is or can be downloaded.
    pub(super) fn read(
        asked: &str,
        args: &EvalArgs,
        run: &Run,
        tokenizer: &Arc<dyn Tokenizer>,
        stop: &AtomicBool,
    ) -> anyhow::Result<Self> {
        let (name, file) = match asked.split_once('=') {
            Some((name, file)) => (name, Some(PathBuf::from(file))),
            None => (asked, None),
        };
        let known = || Benchmark::ALL.map(Benchmark::name).join(", ");
        let benchmark = Benchmark::named(name)
            .with_context(|| format!("there is no benchmark `{name}`; there are {}", known()))?;
        let path = match file {
            Some(path) => path,
            None => downloaded(benchmark, &args.datasets, stop)?,
        };
        let mut questions = benchmark.read(&path)?;
        let limit = args.limit.map_or(usize::MAX, |limit| limit as usize);
        let is_whole = questions.len() <= limit;
        questions.truncate(limit);
        let context_length = run.config().model.context_length;
        let encode = |question: &Question| -> Result<Vec<Continuation>, ContinuationError> {
            let context = Context::new(tokenizer.as_ref(), &question.context)?;
            let choices = question.choices.iter();
            choices.map(|choice| context.continued(&format!(" {choice}"), context_length)).collect()
        };
        let encoded = questions.par_iter().map(|question| {
            let place = || format!("{}, line {}", path.display(), question.line);
            encode(question).with_context(place)
        });
        // One after the other: of several lines that are wrong the first is told.
        let encoded: Vec<_> = encoded.collect();
        let encoded = encoded.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let continuations = encoded.into_iter().flatten().collect();
        Ok(Self { benchmark, path, questions, continuations, is_whole })
    }

    pub(super) fn measure<B: GptBackend>(
        &self,
        model: &LanguageModel<B>,
        weights: &str,
        job: &Evaluate,
    ) -> Result<Outcome, Stopped> {
        let name = self.benchmark.name();
        let scores = job.watched(self.continuations.len(), name, |watch| {
            log_likelihoods(model, &self.continuations, job.batch_size(), watch)
        })?;
        let mut protocol = self.benchmark.protocol().to_owned();
        let measures = if self.benchmark.is_last_word() {
            protocol += "; right where each of its tokens is the likeliest";
            let LastWordScore { words, exact, perplexity } = LastWordScore::new(&scores);
            vec![Measure::share("accuracy", exact, words), Measure::new("perplexity", perplexity)]
        } else {
            protocol += "; taken is the choice of the highest sum of log-probabilities, and the one of the highest sum over its bytes without the space";
            let found = ChoiceScore::new(&self.questions, &scores);
            let ChoiceScore { questions, right, right_normalised, chance } = found;
            vec![
                Measure::share("accuracy", right, questions),
                Measure::share("accuracy by bytes", right_normalised, questions),
                Measure::new("chance", chance),
            ]
        };
        protocol += "; a context that is too long loses its beginning";
        if !self.is_whole {
            protocol += &format!("; the first {} questions", self.questions.len());
        }
        Ok(Outcome {
            task: name.into(),
            data: self.path.display().to_string(),
            weights: weights.into(),
            protocol,
            examples: self.questions.len(),
            measures,
        })
    }
}

/// The file of a benchmark among the data sets.
fn downloaded(benchmark: Benchmark, root: &Path, stop: &AtomicBool) -> anyhow::Result<PathBuf> {
    let name = benchmark.name();
    let manifest = Manifest::find(name, root)?;
    let Some(manifest) = manifest.filter(|found| found.benchmark.as_deref() == Some(name)) else {
        bail!(
            "it is not known where {name} can be downloaded; give its file with --task {name}=FILE"
        );
    };
    let bar = progress::bytes(Some(0), "");
    let mut last = String::new();
    let paths = fetch(&manifest, root, None, &mut |progress| {
        if stop.load(Ordering::Relaxed) {
            // The part that is there is where the next attempt goes on.
            std::process::exit(STOPPED);
        }
        show_download(&bar, progress, &mut last);
    })?;
    bar.finish_and_clear();
    paths.into_iter().next().with_context(|| format!("the data set {name} has no files"))
}
