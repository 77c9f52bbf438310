use std::collections::BTreeMap;

use super::{
    Choice, Next, NextToken, Overflow, Penalties, Sampler, Sampling, SamplingError, Sequence,
    SequenceError, Slots, TextStream, Ticket,
};
use crate::backend::GptBackend;
use crate::tokenizer::Tokenizer;

/// A text that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What is to be translated; empty for a model that reads no source.
    pub source: Vec<u32>,
    /// What is to be continued, of at least one token.
    pub prompt: Vec<u32>,
    pub sampling: Sampling,
    pub penalties: Penalties,
    /// Same seed, same text, whoever else asks for something at the same time.
    pub seed: u64,
    /// Tokens after which the text ends, the stop token included.
    pub max_tokens: usize,
    /// Tokens that end the text, beside the one that ends every text of the model.
    pub stop_tokens: Vec<u32>,
    /// Strings that end the text, and are no part of it.
    pub stop_strings: Vec<String>,
    pub overflow: Overflow,
    /// As [`Sequence::alternatives`].
    pub alternatives: Option<usize>,
}

impl Request {
    /// A text that is continued, beyond its context too, and that nothing ends early.
    pub fn new(prompt: Vec<u32>, sampling: Sampling, seed: u64, max_tokens: usize) -> Self {
        Self {
            source: Vec::new(),
            prompt,
            sampling,
            penalties: Penalties::NONE,
            seed,
            max_tokens,
            stop_tokens: Vec::new(),
            stop_strings: Vec::new(),
            overflow: Overflow::Slide { kept: 0 },
            alternatives: None,
        }
    }

    /// The translation of a source, after the token that begins every target.
    pub fn translation(
        source: Vec<u32>,
        begin: u32,
        sampling: Sampling,
        seed: u64,
        max_tokens: usize,
    ) -> Self {
        let overflow = Overflow::Stop;
        Self { source, overflow, ..Self::new(vec![begin], sampling, seed, max_tokens) }
    }
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum RequestError {
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    #[error(transparent)]
    Sequence(#[from] SequenceError),
}

/// Why a text has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    StopToken(u32),
    StopString(String),
    MaxTokens,
    /// The context is full.
    Context,
}

impl Finish {
    /// As OpenAI's `finish_reason` has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::StopToken(_) | Self::StopString(_) => "stop",
            Self::MaxTokens | Self::Context => "length",
        }
    }
}

/// What a step has brought to a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The next token; none where the text ends without one.
    pub choice: Option<Choice>,
    /// The text that is certain by now and was not before.
    pub text: String,
    /// Where this is the last that is heard of the request.
    pub finish: Option<Finish>,
}

/// Texts that are written together, a token each a step. Requests come and go between any two
/// steps.
#[derive(Debug)]
pub struct Batch<'a, B: GptBackend, M: NextToken<B>> {
    slots: Slots<'a, B, M>,
    tokenizer: &'a dyn Tokenizer,
    end: Option<u32>,
    texts: BTreeMap<Ticket, Text>,
}

/// How many ids may be chosen, those of padding not counted: what ends a text may be a token beyond
/// the tokenizer's.
pub fn vocabulary(tokenizer: &dyn Tokenizer, end: Option<u32>) -> usize {
    end.map_or(0, |end| end as usize + 1).max(tokenizer.vocab_size())
}

#[derive(Debug)]
struct Text {
    stream: TextStream,
    stop_tokens: Vec<u32>,
    /// Tokens that it may still have.
    left: usize,
}

impl<'a, B: GptBackend, M: NextToken<B>> Batch<'a, B, M> {
    /// `end` is the token that ends every text of the model, where there is one.
    pub fn new(model: &'a M, tokenizer: &'a dyn Tokenizer, end: Option<u32>) -> Self {
        let vocab_size = vocabulary(tokenizer, end);
        Self { slots: Slots::new(model, vocab_size), tokenizer, end, texts: BTreeMap::new() }
    }

    /// Requests that are not finished.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Takes part from the next step on.
    ///
    /// # Errors
    /// Settings that are out of range, or a prompt that the model cannot read.
    pub fn enter(&mut self, request: Request) -> Result<Ticket, RequestError> {
        let sampler = Sampler::new(request.sampling, request.seed)?;
        let ticket = self.slots.enter(Sequence {
            source: request.source,
            prompt: request.prompt,
            sampler: sampler.with_penalties(request.penalties)?,
            overflow: request.overflow,
            alternatives: request.alternatives,
        })?;
        let text = Text {
            stream: TextStream::new(&request.stop_strings),
            stop_tokens: self.end.into_iter().chain(request.stop_tokens).collect(),
            left: request.max_tokens,
        };
        self.texts.insert(ticket, text);
        Ok(ticket)
    }

    /// Forgets a request; whether it was there.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        self.slots.leave(ticket);
        self.texts.remove(&ticket).is_some()
    }

    /// Writes a token of every text whose prompt has been read, and reads on in the others'. Those
    /// that finish leave.
    pub fn step(&mut self) -> Vec<(Ticket, Progress)> {
        let mut all = Vec::new();
        let asks_nothing = |(ticket, text): (&Ticket, &Text)| (text.left == 0).then_some(*ticket);
        for ticket in self.texts.iter().filter_map(asks_nothing).collect::<Vec<_>>() {
            self.leave(ticket);
            let finish = Some(Finish::MaxTokens);
            all.push((ticket, Progress { choice: None, text: String::new(), finish }));
        }
        for (ticket, next) in self.slots.step() {
            let Some(text) = self.texts.get_mut(&ticket) else { continue };
            let progress = text.progress(next, self.tokenizer);
            if progress.finish.is_some() {
                self.leave(ticket);
            }
            all.push((ticket, progress));
        }
        all.sort_by_key(|(ticket, _)| *ticket);
        all
    }
}

impl Text {
    fn progress(&mut self, next: Next, tokenizer: &dyn Tokenizer) -> Progress {
        let Next::Token(choice) = next else {
            let text = self.stream.finish();
            return Progress { choice: None, text, finish: Some(Finish::Context) };
        };
        self.left -= 1;
        let token = choice.token;
        let choice = Some(choice);
        if self.stop_tokens.contains(&token) {
            let text = self.stream.finish();
            return Progress { choice, text, finish: Some(Finish::StopToken(token)) };
        }
        let mut text = self.stream.push(&tokenizer.decode_bytes(&[token]));
        let mut finish = self.stopped();
        if finish.is_none() && self.left == 0 {
            text += &self.stream.finish();
            // The last bytes may have made a stop string whole.
            finish = self.stopped().or(Some(Finish::MaxTokens));
        }
        Progress { choice, text, finish }
    }

    fn stopped(&self) -> Option<Finish> {
        self.stream.stopped_by().map(|stop| Finish::StopString(stop.into()))
    }
}
