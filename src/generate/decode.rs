use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

use super::{Next, Sampler, Sequence, Slots};
use crate::backend::GptBackend;
use crate::model::{Cache, Gpt, ModelError, Seq2Seq};
use crate::tokenizer::Tokenizer;

/// What can be continued, a token at a time.
pub trait NextToken<B: GptBackend> {
    fn device(&self) -> B::Device;
    fn vocab_size(&self) -> usize;
    fn context_length(&self) -> usize;

    /// Whether it continues the translation of a source, and nothing else.
    fn reads_source(&self) -> bool;

    /// A cache for one sequence that has not begun. `source` is what it is the translation of, of
    /// at least one token and at most the context length; nothing for a model that reads none.
    fn new_cache(&self, source: &[u32]) -> Cache<B>;

    /// Next-token logits after the last of the new tokens, which join those in the cache.
    ///
    /// # Shapes
    /// - `tokens` `[B, T]` -> `[B, V]`
    ///
    /// # Errors
    /// Where cached and new tokens exceed the context length, or do not belong together.
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

    fn reads_source(&self) -> bool {
        false
    }

    fn new_cache(&self, _source: &[u32]) -> Cache<B> {
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

impl<B: GptBackend> NextToken<B> for Seq2Seq<B> {
    fn device(&self) -> B::Device {
        Seq2Seq::device(self)
    }

    fn vocab_size(&self) -> usize {
        Seq2Seq::vocab_size(self)
    }

    fn context_length(&self) -> usize {
        Seq2Seq::context_length(self)
    }

    fn reads_source(&self) -> bool {
        true
    }

    fn new_cache(&self, source: &[u32]) -> Cache<B> {
        let tokens = batch(&[source], &Seq2Seq::device(self));
        Seq2Seq::new_cache(self, &self.encode(tokens, &[source.len()]))
    }

    fn decode(
        &self,
        tokens: Tensor<B, 2, Int>,
        cache: &mut Cache<B>,
    ) -> Result<Tensor<B, 2>, ModelError> {
        Seq2Seq::decode(self, tokens, cache)
    }
}

/// Ids as a batch, `[B, T]`, of rows of one length.
pub(super) fn batch<B: Backend>(rows: &[&[u32]], device: &B::Device) -> Tensor<B, 2, Int> {
    let ids: Vec<i32> = rows.iter().flat_map(|row| row.iter().map(|id| *id as i32)).collect();
    let shape = [rows.len(), rows.first().map_or(0, |row| row.len())];
    Tensor::from_data(TensorData::new(ids, shape), device)
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

/// The tokens of one sequence, until its context is full where it may not slide.
pub fn tokens<'a, B: GptBackend + 'a, M: NextToken<B>>(
    model: &'a M,
    vocab_size: usize,
    sequence: Sequence,
) -> impl Iterator<Item = u32> + 'a {
    let mut slots = Slots::new(model, vocab_size);
    let entered = slots.enter(sequence);
    std::iter::from_fn(move || {
        entered.as_ref().ok()?;
        // A long prompt is read in several steps.
        while !slots.is_empty() {
            match slots.step().pop() {
                Some((_, Next::Token(choice))) => return Some(choice.token),
                Some((_, Next::Full)) => return None,
                None => {}
            }
        }
        None
    })
}

impl<B: GptBackend> Gpt<B> {
    /// At most `max_tokens` tokens after the prompt, of which there must be some; the newest half
    /// of a context is read again where it is full.
    pub fn generate(&self, prompt: &[u32], max_tokens: usize, sampler: Sampler) -> Vec<u32> {
        let sequence = Sequence::new(prompt, sampler);
        tokens(self, self.vocab_size(), sequence).take(max_tokens).collect()
    }
}

impl<B: GptBackend> Seq2Seq<B> {
    /// The target of a source, up to the `end` token or as many tokens as the context allows.
    /// The source must have at least one token and at most the context length.
    pub fn translate(&self, source: &[u32], begin: u32, end: u32, sampler: Sampler) -> Vec<u32> {
        let sequence = Sequence::translation(source, begin, sampler);
        tokens(self, self.vocab_size(), sequence).take_while(|id| *id != end).collect()
    }
}
