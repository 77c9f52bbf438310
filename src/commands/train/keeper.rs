use burn::tensor::backend::AutodiffBackend;
use std::io::{self, Write};
use std::sync::Arc;

use crate::artifact::{Checkpoints, History, Run};
use crate::backend::{GptBackend, TrainBackend};
use crate::commands::sample::{gaps, stream, translation};
use crate::config::{RunConfig, SampleConfig};
use crate::data::{Corpus, DataError, Example, Stories, StoryScore, Task};
use crate::eval::{Stopped, StoryError, StoryWriter, write_stories};
use crate::generate::{Overflow, Request, Sampling, SamplingError, begun, opening};
use crate::model::{Gpt, Model};
use crate::tokenizer::Tokenizer;
use crate::train::{Best, Checkpoint, LanguageModel, RunKeeper, SaveError};

/// Pairs that a translator is shown on.
const SHOWN_EXAMPLES: usize = 3;

/// Puts checkpoints and samples into a run's folder.
pub(super) struct Keeper {
    history: History,
    checkpoints: Checkpoints,
    samples: Samples,
    stories: Option<StoryJudge>,
}

impl Keeper {
    pub(super) fn new(run: &Run, config: &RunConfig, corpus: &Corpus) -> anyhow::Result<Self> {
        let samples = Samples::new(config, corpus)?;
        let stories = match config.train.evaluation_stories {
            Some(count) => Some(StoryJudge::new(count, config, corpus)?),
            None => None,
        };
        Ok(Self { history: run.history(), checkpoints: run.checkpoints(), samples, stories })
    }
}

impl<B: TrainBackend> RunKeeper<B> for Keeper {
    fn save(&mut self, checkpoint: &Checkpoint<B>) -> Result<(), SaveError> {
        Ok(self.checkpoints.save(checkpoint)?)
    }

    fn mark_best(&mut self, best: Best) -> Result<(), SaveError> {
        Ok(self.checkpoints.mark_best(best)?)
    }

    fn judge_stories(
        &mut self,
        model: &LanguageModel<<B as AutodiffBackend>::InnerBackend>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<StoryScore>, SaveError> {
        match (&self.stories, &model.model) {
            (Some(stories), Model::Gpt(model)) => stories.judge(model, stopped),
            _ => Ok(None),
        }
    }

    fn sample(
        &mut self,
        step: usize,
        model: &LanguageModel<<B as AutodiffBackend>::InnerBackend>,
    ) -> Result<(), SaveError> {
        let mut text = Vec::new();
        self.samples.write(&model.model, &mut text)?;
        Ok(self.history.write_sample(step, &text)?)
    }
}

/// Stories that a model in training is asked for, and who reads them.
struct StoryJudge {
    tokenizer: Arc<dyn Tokenizer>,
    stories: Stories,
    writer: StoryWriter,
    count: usize,
}

impl StoryJudge {
    fn new(count: usize, config: &RunConfig, corpus: &Corpus) -> Result<Self, DataError> {
        let (tokenizer, stories) = (corpus.tokenizer.clone(), Stories::new()?);
        let together = config.train.batch_size;
        let writer =
            StoryWriter::of_run(config, tokenizer.as_ref(), &stories, config.seed, together);
        Ok(Self { tokenizer, stories, writer, count })
    }

    fn judge<B: GptBackend>(
        &self,
        model: &Gpt<B>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<StoryScore>, SaveError> {
        let mut watch = |_| if stopped() { Err(Stopped) } else { Ok(()) };
        let tokenizer = self.tokenizer.as_ref();
        match write_stories(model, tokenizer, &self.writer, self.count, &mut watch) {
            Ok(written) => Ok(Some(self.stories.score(&written))),
            Err(StoryError::Stopped(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a model in training is asked to write, the same every time.
struct Samples {
    tokenizer: Arc<dyn Tokenizer>,
    task: Task,
    examples: Vec<Example>,
    config: SampleConfig,
    sampling: Sampling,
    seed: u64,
}

impl Samples {
    fn new(config: &RunConfig, corpus: &Corpus) -> Result<Self, SamplingError> {
        let SampleConfig { temperature, top_k, .. } = config.sample;
        let sampling = Sampling { temperature, top_k, top_p: None, min_p: None };
        sampling.validate()?;
        let shown = corpus.validation.spread(config.model.context_length, SHOWN_EXAMPLES);
        let read = |place| Example::read(&corpus.validation, corpus.task, place);
        Ok(Self {
            tokenizer: corpus.tokenizer.clone(),
            task: corpus.task,
            examples: shown.into_iter().map(read).collect(),
            config: config.sample.clone(),
            sampling,
            seed: config.seed,
        })
    }

    fn write<B: GptBackend>(&self, model: &Model<B>, out: &mut impl Write) -> io::Result<()> {
        let tokenizer = self.tokenizer.as_ref();
        match model {
            Model::Gpt(model) => {
                let prompt = begun(tokenizer, opening(tokenizer, &self.config.prompt));
                let count = self.config.max_tokens;
                let request = Request {
                    overflow: Overflow::slide(tokenizer),
                    ..Request::new(prompt, self.sampling, self.seed, count)
                };
                stream(model, tokenizer, tokenizer.end_of_text(), request, out)?;
            }
            Model::Encoder(model) => gaps(model, tokenizer, self.task, &self.examples[0], out)?,
            Model::Seq2Seq(model) => {
                let sampling = (self.sampling, self.seed);
                for example in &self.examples {
                    translation(model, tokenizer, self.task, example, sampling, out)?;
                }
            }
        }
        writeln!(out)
    }
}
