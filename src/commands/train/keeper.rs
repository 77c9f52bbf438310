use burn::tensor::backend::AutodiffBackend;
use std::io::{self, Write};
use std::sync::Arc;

use crate::artifact::{Checkpoints, History, Run};
use crate::backend::{GptBackend, TrainBackend};
use crate::commands::sample::{gaps, stream, translation};
use crate::config::{RunConfig, SampleConfig};
use crate::data::{Corpus, Example, Task};
use crate::generate::{Overflow, Request, Sampling, SamplingError, begun, opening};
use crate::model::Model;
use crate::tokenizer::Tokenizer;
use crate::train::{Best, Checkpoint, LanguageModel, RunKeeper, SaveError};

/// Pairs that a translator is shown on.
const SHOWN_EXAMPLES: usize = 3;

/// Puts checkpoints and samples into a run's folder.
pub(super) struct Keeper {
    history: History,
    checkpoints: Checkpoints,
    samples: Samples,
}

impl Keeper {
    pub(super) fn new(
        run: &Run,
        config: &RunConfig,
        corpus: &Corpus,
    ) -> Result<Self, SamplingError> {
        let samples = Samples::new(config, corpus)?;
        Ok(Self { history: run.history(), checkpoints: run.checkpoints(), samples })
    }
}

impl<B: TrainBackend> RunKeeper<B> for Keeper {
    fn save(&mut self, checkpoint: &Checkpoint<B>) -> Result<(), SaveError> {
        Ok(self.checkpoints.save(checkpoint)?)
    }

    fn mark_best(&mut self, best: Best) -> Result<(), SaveError> {
        Ok(self.checkpoints.mark_best(best)?)
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
