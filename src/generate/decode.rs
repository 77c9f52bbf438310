use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

use super::Sampler;
use crate::backend::GptBackend;
use crate::model::{Cache, Gpt, Memory, ModelError, Seq2Seq};
use crate::tokenizer::Tokenizer;

/// What can be continued, a token at a time.
pub trait NextToken<B: GptBackend> {
    fn device(&self) -> B::Device;
    fn vocab_size(&self) -> usize;
    fn context_length(&self) -> usize;
    fn new_cache(&self) -> Cache<B>;

    /// Next-token logits after the last of the new tokens, which join those in the cache.
    ///
    /// # Shapes
    /// - `tokens` `[B, T]` -> `[B, V]`
    ///
    /// # Errors
    /// Where cached and new tokens exceed the context length.
    fn decode(
        &self,
        tokens: Tensor<B, 2, Int>,
        cache: &mut Cache<B>,
    ) -> Result<Tensor<B, 2>, ModelError>;
}

impl<B: GptBackend> NextToken<B> for Gpt<B> {
    fn device(&self) -> B::Device {
        Gpt::device(self)
    }

    fn vocab_size(&self) -> usize {
        Gpt::vocab_size(self)
    }

    fn context_length(&self) -> usize {
        Gpt::context_length(self)
    }

    fn new_cache(&self) -> Cache<B> {
        Gpt::new_cache(self)
    }

    fn decode(
        &self,
        tokens: Tensor<B, 2, Int>,
        cache: &mut Cache<B>,
    ) -> Result<Tensor<B, 2>, ModelError> {
        Gpt::decode(self, tokens, cache)
    }
}

/// A translator with the source that it has read.
#[derive(Debug)]
pub struct Translation<'a, B: Backend> {
    model: &'a Seq2Seq<B>,
    memory: Memory<B>,
}

impl<'a, B: GptBackend> Translation<'a, B> {
    /// Reads a source of at least one token and at most the context length.
    pub fn new(model: &'a Seq2Seq<B>, source: &[u32]) -> Self {
        let memory = model.encode(row(source, &model.device()), &[source.len()]);
        Self { model, memory }
    }
}

impl<B: GptBackend> NextToken<B> for Translation<'_, B> {
    fn device(&self) -> B::Device {
        self.model.device()
    }

    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn context_length(&self) -> usize {
        self.model.context_length()
    }

    fn new_cache(&self) -> Cache<B> {
        self.model.new_cache()
    }

    fn decode(
        &self,
        tokens: Tensor<B, 2, Int>,
        cache: &mut Cache<B>,
    ) -> Result<Tensor<B, 2>, ModelError> {
        self.model.decode(tokens, &self.memory, cache)
    }
}

/// Ids as a batch of one row, `[1, T]`.
pub(super) fn row<B: Backend>(ids: &[u32], device: &B::Device) -> Tensor<B, 2, Int> {
    let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let shape = [1, ids.len()];
    Tensor::from_data(TensorData::new(ids, shape), device)
}

/// Continues one sequence, a token at a time.
///
/// Where the context is full, the older half of it is forgotten and the newer half is read
/// again; a model with learned positions cannot move on without that.
pub struct Decoder<'a, B: GptBackend, M: NextToken<B>> {
    model: &'a M,
    device: B::Device,
    sampler: Sampler,
    /// Ids at and above this are padding of the vocabulary and never chosen.
    vocab_size: usize,
    cache: Cache<B>,
    /// What the cache holds.
    seen: Vec<u32>,
    /// What the model has yet to read.
    unread: Vec<u32>,
}

impl<'a, B: GptBackend, M: NextToken<B>> Decoder<'a, B, M> {
    /// `prompt` must not be empty; only its end is read where it exceeds the context.
    pub fn new(model: &'a M, prompt: &[u32], vocab_size: usize, sampler: Sampler) -> Self {
        let context_length = model.context_length();
        let start = prompt.len().saturating_sub(context_length);
        Self {
            device: model.device(),
            sampler,
            vocab_size: vocab_size.min(model.vocab_size()),
            cache: model.new_cache(),
            seen: Vec::new(),
            unread: prompt[start..].to_vec(),
            model,
        }
    }

    fn next_token(&mut self) -> u32 {
        let context_length = self.model.context_length();
        if self.seen.len() + self.unread.len() > context_length {
            self.seen.append(&mut self.unread);
            let kept = (context_length / 2).max(1);
            self.unread = self.seen.split_off(self.seen.len() - kept);
            self.seen.clear();
            self.cache = self.model.new_cache();
        }
        let logits = self
            .model
            .decode(row(&self.unread, &self.device), &mut self.cache)
            .expect("the window above keeps within the context");
        self.seen.append(&mut self.unread);
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect(); // [V]
        let next = self.sampler.choose(&logits[..self.vocab_size]);
        self.unread.push(next);
        next
    }
}

impl<B: GptBackend, M: NextToken<B>> Iterator for Decoder<'_, B, M> {
    type Item = u32;

    /// Never ends by itself.
    fn next(&mut self) -> Option<u32> {
        Some(self.next_token())
    }
}

/// A prompt after the token that a model has learned to begin with, where it has learned one and
/// the prompt does not begin with it already.
pub fn begun(tokenizer: &dyn Tokenizer, mut prompt: Vec<u32>) -> Vec<u32> {
    let beginning = tokenizer.beginning_of_text();
    if beginning.is_some() && prompt.first() != beginning.as_ref() {
        prompt.splice(0..0, beginning);
    }
    prompt
}

/// Tokens to begin a text with where nobody gave a prompt: `preferred`, or what the vocabulary
/// has instead.
pub fn opening(tokenizer: &dyn Tokenizer, preferred: &str) -> Vec<u32> {
    match tokenizer.encode(preferred) {
        Ok(tokens) if !tokens.is_empty() => tokens,
        // A text of one's own need not have the characters of the usual prompt.
        _ => vec![tokenizer.end_of_text().unwrap_or(0)],
    }
}

impl<B: GptBackend> Gpt<B> {
    /// At most `max_tokens` tokens after the prompt, which must not be empty.
    pub fn generate(&self, prompt: &[u32], max_tokens: usize, sampler: Sampler) -> Vec<u32> {
        Decoder::new(self, prompt, self.vocab_size(), sampler).take(max_tokens).collect()
    }
}

impl<B: GptBackend> Seq2Seq<B> {
    /// The target of a source, up to the `end` token or as many tokens as the context allows.
    /// The source must have at least one token and at most the context length.
    pub fn translate(&self, source: &[u32], begin: u32, end: u32, sampler: Sampler) -> Vec<u32> {
        let translation = Translation::new(self, source);
        Decoder::new(&translation, &[begin], self.vocab_size(), sampler)
            .take(self.context_length())
            .take_while(|id| *id != end)
            .collect()
    }
}
