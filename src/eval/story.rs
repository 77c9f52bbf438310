use std::collections::BTreeMap;

use super::{Stopped, Watch};
use crate::backend::GptBackend;
use crate::config::{DataConfig, RunConfig};
use crate::data::Stories;
use crate::generate::{
    Batch, Finish, NextToken, Overflow, Request, RequestError, Sampling, begun, opening,
};
use crate::tokenizer::Tokenizer;

/// What ends a story.
const END: &str = "\n";

/// How stories are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoryWriter {
    prompt: Vec<u32>,
    seed: u64,
    /// Tokens after which no story can end any more.
    max_tokens: usize,
    /// Stories that are written together.
    batch_size: usize,
}

impl StoryWriter {
    /// Stories of at most so many bytes, that of number `n` with the seed `seed + n`. Each is what
    /// the model writes after the end of a document, where it has learned from `documents`, or else
    /// after a line break, which ends the story before.
    pub fn new(
        tokenizer: &dyn Tokenizer,
        documents: bool,
        seed: u64,
        longest: usize,
        batch_size: usize,
    ) -> Self {
        let prompt = match tokenizer.end_of_text().filter(|_| documents) {
            Some(end) => vec![end],
            None => opening(tokenizer, END),
        };
        let prompt = begun(tokenizer, prompt);
        Self { prompt, seed, max_tokens: longest + 1, batch_size }
    }

    /// As the model of a run is asked for stories that `stories` judges.
    pub fn of_run(
        config: &RunConfig,
        tokenizer: &dyn Tokenizer,
        stories: &Stories,
        seed: u64,
        batch_size: usize,
    ) -> Self {
        let documents = matches!(config.data, DataConfig::Tokens { .. });
        Self::new(tokenizer, documents, seed, stories.longest(), batch_size)
    }

    fn request(&self, tokenizer: &dyn Tokenizer, number: usize) -> Request {
        // The model's own distribution.
        let sampling = Sampling { temperature: 1.0, top_k: None, top_p: None, min_p: None };
        let seed = self.seed.wrapping_add(number as u64);
        Request {
            stop_strings: vec![END.into()],
            overflow: Overflow::slide(tokenizer),
            ..Request::new(self.prompt.clone(), sampling, seed, self.max_tokens)
        }
    }
}

/// Why there are no stories.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum StoryError {
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Stories by a model, each with the line break that ends it, if it came to one. What a story is
/// does not depend on how many are written together, where the backend computes rows alike.
///
/// # Errors
/// [`Stopped`]; or a prompt that is not the model's.
pub fn write_stories<B: GptBackend>(
    model: &impl NextToken<B>,
    tokenizer: &dyn Tokenizer,
    writer: &StoryWriter,
    count: usize,
    watch: Watch,
) -> Result<Vec<String>, StoryError> {
    let mut batch = Batch::new(model, tokenizer, tokenizer.end_of_text());
    let mut stories = vec![String::new(); count];
    let mut numbers = BTreeMap::new();
    let mut next = 0;
    while next < count || !batch.is_empty() {
        while next < count && batch.len() < writer.batch_size {
            numbers.insert(batch.enter(writer.request(tokenizer, next))?, next);
            next += 1;
        }
        let mut finished = 0;
        for (ticket, progress) in batch.step() {
            let Some(number) = numbers.get(&ticket) else { continue };
            let story = &mut stories[*number];
            *story += &progress.text;
            if let Some(finish) = progress.finish {
                if matches!(finish, Finish::StopString(_)) {
                    *story += END;
                }
                finished += 1;
            }
        }
        watch(finished)?;
    }
    Ok(stories)
}
