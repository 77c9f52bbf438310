use burn::tensor::{Int, Tensor, TensorData};

use super::Sampler;
use crate::backend::GptBackend;
use crate::model::{Cache, Gpt};
use crate::tokenizer::Tokenizer;

/// Continues one sequence, a token at a time.
///
/// Where the context is full, the older half of it is forgotten and the newer half is read
/// again; a model with learned positions cannot move on without that.
pub struct Decoder<'a, B: GptBackend> {
    model: &'a Gpt<B>,
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

impl<'a, B: GptBackend> Decoder<'a, B> {
    /// `prompt` must not be empty; only its end is read where it exceeds the context.
    pub fn new(model: &'a Gpt<B>, prompt: &[u32], vocab_size: usize, sampler: Sampler) -> Self {
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
        let ids: Vec<i32> = self.unread.iter().map(|id| *id as i32).collect();
        let shape = [1, ids.len()];
        let tokens = Tensor::<B, 2, Int>::from_data(TensorData::new(ids, shape), &self.device);
        let logits = self
            .model
            .decode(tokens, &mut self.cache)
            .expect("the window above keeps within the context");
        self.seen.append(&mut self.unread);
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect(); // [V]
        let next = self.sampler.choose(&logits[..self.vocab_size]);
        self.unread.push(next);
        next
    }
}

impl<B: GptBackend> Iterator for Decoder<'_, B> {
    type Item = u32;

    /// Never ends by itself.
    fn next(&mut self) -> Option<u32> {
        Some(self.next_token())
    }
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
