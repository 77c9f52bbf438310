use super::Evaluate;
use crate::backend::GptBackend;
use crate::cli::EvalArgs;
use crate::config::RunConfig;
use crate::data::{DataError, Stories, StoryScore};
use crate::eval::{Measure, Outcome, StoryError, StoryWriter, write_stories};
use crate::generate::NextToken;
use crate::tokenizer::Tokenizer;

/// Stories that the model is to write.
pub(super) struct StoryTask {
    stories: Stories,
    writer: StoryWriter,
    count: usize,
    seed: u64,
}

impl StoryTask {
    pub(super) fn new(
        count: usize,
        args: &EvalArgs,
        config: &RunConfig,
        tokenizer: &dyn Tokenizer,
    ) -> Result<Self, DataError> {
        let stories = Stories::new()?;
        let together = args.batch.map_or(config.train.batch_size, |batch| batch as usize);
        let writer = StoryWriter::of_run(config, tokenizer, &stories, args.seed, together);
        Ok(Self { stories, writer, count, seed: args.seed })
    }

    /// Other counts and seeds are other stories.
    pub(super) fn name(&self) -> String {
        format!("stories{}-seed{}", self.count, self.seed)
    }

    pub(super) fn measure<B: GptBackend>(
        &self,
        model: &impl NextToken<B>,
        weights: &str,
        job: &Evaluate,
    ) -> anyhow::Result<Outcome> {
        let written = job.watched(self.count, "stories", |watch| {
            write_stories(model, job.tokenizer, &self.writer, self.count, watch)
        });
        let written = written.map_err(|error| match error {
            StoryError::Stopped(stopped) => anyhow::Error::new(stopped),
            other => other.into(),
        })?;
        let score = self.stories.score(&written);
        let StoryScore { stories, grammatical, names, object } = score;
        Ok(Outcome {
            task: "stories".into(),
            data: "written by the model".into(),
            weights: weights.into(),
            protocol: format!(
                "temperature 1, seeds from {}; grammatical: the grammar of the built-in corpus can write it; names: two children are named, and no third; object: there is one, always of one colour",
                self.seed
            ),
            examples: stories,
            measures: vec![
                Measure::share("grammatical", grammatical, stories),
                Measure::share("names", names, stories),
                Measure::share("object", object, stories),
            ],
        })
    }
}
