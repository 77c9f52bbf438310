use burn::tensor::Int;
use burn::tensor::Tensor;
use std::collections::VecDeque;

use super::decode::batch;
use super::{LogProbabilities, NextToken, Sampler};
use crate::backend::{GptBackend, on_host};
use crate::model::Cache;
use crate::tokenizer::Tokenizer;

/// What happens to a sequence whose context is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// It ends.
    Stop,
    /// It goes on after half a context: the first so many tokens of the prompt, of which a text's
    /// first token is one where a model has learned to begin with it, and after them the newest.
    /// They are read again as one text, since a model with learned positions cannot move on
    /// without that. Of a prompt that is longer than the context, as much is read in this way as
    /// the context holds.
    Slide { kept: usize },
}

impl Overflow {
    /// Slides, and keeps the token that a text begins with, where the model has learned one.
    pub fn slide(tokenizer: &dyn Tokenizer) -> Self {
        Self::Slide { kept: usize::from(tokenizer.beginning_of_text().is_some()) }
    }
}

/// A sequence to be continued.
#[derive(Debug)]
pub struct Sequence {
    /// What it is the translation of; empty for a model that reads no source.
    pub source: Vec<u32>,
    /// At least one token.
    pub prompt: Vec<u32>,
    pub sampler: Sampler,
    pub overflow: Overflow,
    /// The likeliest tokens at every step whose log-probabilities are wanted beside the chosen
    /// one's; none where not even that is.
    pub alternatives: Option<usize>,
}

impl Sequence {
    /// A text that goes on beyond its context.
    pub fn new(prompt: &[u32], sampler: Sampler) -> Self {
        Self {
            source: Vec::new(),
            prompt: prompt.to_vec(),
            sampler,
            overflow: Overflow::Slide { kept: 0 },
            alternatives: None,
        }
    }

    /// The translation of a source, which is whole or ends with the context.
    pub fn translation(source: &[u32], begin: u32, sampler: Sampler) -> Self {
        let source = source.to_vec();
        Self { source, overflow: Overflow::Stop, ..Self::new(&[begin], sampler) }
    }
}

/// Why a sequence cannot be continued.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SequenceError {
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    #[error("there is no token {id}; the model has {vocab_size}")]
    UnknownToken { id: u32, vocab_size: usize },
    #[error(
        "the prompt has {length} tokens, the model sees at most {context_length}; shorten it, or let it slide"
    )]
    LongPrompt { length: usize, context_length: usize },
    #[error(
        "the source has {length} tokens, the model reads up to {most} and needs one if it does"
    )]
    Source { length: usize, most: usize },
}

/// A token that was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    pub token: u32,
    /// Where they were asked for.
    pub log_probabilities: Option<LogProbabilities>,
}

/// What a step has brought to a sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    Token(Choice),
    /// Its context is full, and it has left.
    Full,
}

/// A sequence's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// Tokens of a prompt that go through the model at once, the last ones up to twice as many: what
/// others have to wait for in a step. Whole blocks of attention, and more rows than are multiplied
/// one by one: without a window, the processor's kernels compute a piece as in the whole.
const PIECE: usize = 128;

/// Continues any number of sequences together, a token each a step. They enter and leave between
/// any two steps, and what becomes of one does not depend on the others: a prompt is read by
/// itself, in pieces that follow from its length alone, and no more rows go through the model
/// together than the backend computes as it would compute each alone
/// ([`GptBackend::equal_rows`]). On a backend that promises that for no number all go together, and
/// their logits may differ in the last digits.
///
/// A step reads a piece of a prompt, or of several short ones, so that a long prompt delays the
/// others by no more than that; who is not read yet gets no token in that step. A source is read
/// whole, since each of its tokens sees all others, and counts like a prompt.
#[derive(Debug)]
pub struct Slots<'a, B: GptBackend, M: NextToken<B>> {
    model: &'a M,
    device: B::Device,
    /// Ids at and above this are padding of the vocabulary and never chosen.
    vocab_size: usize,
    groups: Vec<Group<B>>,
    /// Sequences that are to be read before they join a group, first come, first served.
    unread: VecDeque<Unread<B>>,
    entered: u64,
}

/// Sequences that go through the model together.
#[derive(Debug)]
struct Group<B: GptBackend> {
    cache: Cache<B>,
    /// In the order of the cache's rows.
    members: Vec<Member>,
}

/// A sequence of which some has been read, or nothing.
#[derive(Debug)]
struct Unread<B: GptBackend> {
    member: Member,
    cache: Option<Cache<B>>,
}

#[derive(Debug)]
struct Member {
    ticket: Ticket,
    sequence: Sequence,
    /// What the cache holds.
    seen: Vec<u32>,
    /// What the model has yet to read: the last token chosen, or all that its cache is to hold.
    new: Vec<u32>,
}

impl Member {
    fn choose(&mut self, logits: &[f32]) -> Choice {
        let token = self.sequence.sampler.choose(logits);
        let log_probabilities =
            self.sequence.alternatives.map(|count| LogProbabilities::new(logits, token, count));
        self.seen.append(&mut self.new);
        self.new.push(token);
        Choice { token, log_probabilities }
    }

    /// The next tokens to be read of a text, and whether it ends with them; until then they count
    /// as seen from now on.
    fn piece(&mut self) -> (Vec<u32>, bool) {
        let length = piece_length(self.new.len());
        if length == self.new.len() {
            return (self.new.clone(), true);
        }
        let piece: Vec<u32> = self.new.drain(..length).collect();
        self.seen.extend_from_slice(&piece);
        (piece, false)
    }

    /// What is left of a text of `length` tokens or more.
    fn slide(&mut self, kept: usize, length: usize) {
        let mut text = std::mem::take(&mut self.seen);
        text.append(&mut self.new);
        self.new = slid(text, kept, length);
    }
}

/// The first `kept` tokens of a text and the newest, at most `length` in all, one of them new.
fn slid(mut text: Vec<u32>, kept: usize, length: usize) -> Vec<u32> {
    if text.len() > length {
        let kept = kept.min(length - 1);
        text.drain(kept..text.len() - (length - kept));
    }
    text
}

impl<'a, B: GptBackend, M: NextToken<B>> Slots<'a, B, M> {
    /// Ids at and above `vocab_size` are never chosen.
    pub fn new(model: &'a M, vocab_size: usize) -> Self {
        Self {
            model,
            device: model.device(),
            vocab_size: vocab_size.min(model.vocab_size()),
            groups: Vec::new(),
            unread: VecDeque::new(),
            entered: 0,
        }
    }

    /// Sequences that have entered and not left.
    pub fn len(&self) -> usize {
        self.unread.len() + self.groups.iter().map(|group| group.members.len()).sum::<usize>()
    }

    /// Whether there is nothing to continue.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes part from the next step on, which reads the prompt.
    ///
    /// # Errors
    /// A prompt or a source that the model cannot read.
    pub fn enter(&mut self, mut sequence: Sequence) -> Result<Ticket, SequenceError> {
        check(self.model, &sequence.source, &sequence.prompt)?;
        let context_length = self.model.context_length();
        sequence.sampler.read(&sequence.prompt);
        let prompt = std::mem::take(&mut sequence.prompt);
        let new = match sequence.overflow {
            Overflow::Slide { kept } => slid(prompt, kept, context_length),
            Overflow::Stop if prompt.len() > context_length => {
                return Err(SequenceError::LongPrompt { length: prompt.len(), context_length });
            }
            Overflow::Stop => prompt,
        };
        let ticket = Ticket(self.entered);
        self.entered += 1;
        let member = Member { ticket, sequence, seen: Vec::new(), new };
        self.unread.push_back(Unread { member, cache: None });
        Ok(ticket)
    }

    /// Ends a sequence; whether it was there.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        if let Some(place) = self.unread.iter().position(|it| it.member.ticket == ticket) {
            self.unread.remove(place);
            return true;
        }
        let is_there = self.remove(ticket).is_some();
        self.merge();
        is_there
    }

    /// A token for every sequence that has been read, in the order in which they have entered; and
    /// some more of the others is read.
    pub fn step(&mut self) -> Vec<(Ticket, Next)> {
        let mut all = Vec::with_capacity(self.len());
        self.make_room(&mut all);
        for group in &mut self.groups {
            let rows: Vec<&[u32]> = group.members.iter().map(|member| &member.new[..]).collect();
            let logits = read(self.model, batch(&rows, &self.device), &mut group.cache);
            let vocab_size = self.model.vocab_size();
            for (member, logits) in group.members.iter_mut().zip(logits.chunks(vocab_size)) {
                let choice = member.choose(&logits[..self.vocab_size]);
                all.push((member.ticket, Next::Token(choice)));
            }
        }
        let mut count = 0;
        while count < PIECE
            && let Some(Unread { mut member, cache }) = self.unread.pop_front()
        {
            let mut cache = match cache {
                Some(cache) => cache,
                None => {
                    let source = &member.sequence.source;
                    count += source.len();
                    self.model.new_cache(source)
                }
            };
            let (piece, is_last) = member.piece();
            count += piece.len();
            let logits = read(self.model, batch(&[&piece], &self.device), &mut cache);
            if is_last {
                let choice = member.choose(&logits[..self.vocab_size]);
                all.push((member.ticket, Next::Token(choice)));
                self.join(member, cache);
            } else {
                self.unread.push_front(Unread { member, cache: Some(cache) });
            }
        }
        all.sort_by_key(|(ticket, _)| *ticket);
        all
    }

    /// Sees to the sequences whose context is full.
    fn make_room(&mut self, all: &mut Vec<(Ticket, Next)>) {
        let context_length = self.model.context_length();
        let members = self.groups.iter().flat_map(|group| &group.members);
        let full: Vec<Ticket> = members
            .filter(|member| member.seen.len() + member.new.len() > context_length)
            .map(|member| member.ticket)
            .collect();
        for ticket in &full {
            let Some(mut member) = self.remove(*ticket) else { continue };
            match member.sequence.overflow {
                Overflow::Stop => all.push((*ticket, Next::Full)),
                Overflow::Slide { kept } => {
                    member.slide(kept, (context_length / 2).max(1));
                    // Before those who have got nothing yet: it is in the middle of a text.
                    self.unread.push_front(Unread { member, cache: None });
                }
            }
        }
        if !full.is_empty() {
            self.merge();
        }
    }

    /// Takes a sequence out of its group.
    fn remove(&mut self, ticket: Ticket) -> Option<Member> {
        let place_in = |group: &Group<B>| group.members.iter().position(|it| it.ticket == ticket);
        let (number, row) =
            (0..).zip(&self.groups).find_map(|(number, group)| Some((number, place_in(group)?)))?;
        let group: &mut Group<B> = &mut self.groups[number];
        if group.members.len() > 1 {
            group.cache.swap_remove(row);
            return Some(group.members.swap_remove(row));
        }
        self.groups.remove(number).members.pop()
    }

    fn most_rows() -> usize {
        B::equal_rows().unwrap_or(usize::MAX)
    }

    /// Joins the first group that has room.
    fn join(&mut self, member: Member, cache: Cache<B>) {
        let has_room = |group: &&mut Group<B>| group.members.len() < Self::most_rows();
        match self.groups.iter_mut().find(has_room) {
            Some(group) => {
                group.cache.append(cache);
                group.members.push(member);
            }
            None => self.groups.push(Group { cache, members: vec![member] }),
        }
    }

    /// Makes one of two groups that have room for each other.
    fn merge(&mut self) {
        self.groups.sort_by_key(|group| std::cmp::Reverse(group.members.len()));
        while let [.., before, last] = &self.groups[..]
            && before.members.len() + last.members.len() <= Self::most_rows()
        {
            let (Some(last), Some(before)) = (self.groups.pop(), self.groups.last_mut()) else {
                return;
            };
            before.cache.append(last.cache);
            before.members.extend(last.members);
        }
    }
}

/// # Errors
/// A prompt or a source that the model cannot read.
pub(super) fn check<B: GptBackend>(
    model: &impl NextToken<B>,
    source: &[u32],
    prompt: &[u32],
) -> Result<(), SequenceError> {
    let (vocab_size, context_length) = (model.vocab_size(), model.context_length());
    if prompt.is_empty() {
        return Err(SequenceError::EmptyPrompt);
    }
    if let Some(id) = prompt.iter().chain(source).find(|id| **id as usize >= vocab_size) {
        return Err(SequenceError::UnknownToken { id: *id, vocab_size });
    }
    let fits = if model.reads_source() { 1..=context_length } else { 0..=0 };
    if !fits.contains(&source.len()) {
        return Err(SequenceError::Source { length: source.len(), most: *fits.end() });
    }
    Ok(())
}

/// The logits that follow a prompt, which is read in pieces. None where `goes_on` says so before
/// one of them.
pub(super) fn read_prompt<B: GptBackend>(
    model: &impl NextToken<B>,
    prompt: &[u32],
    cache: &mut Cache<B>,
    goes_on: &mut dyn FnMut() -> bool,
) -> Option<Vec<f32>> {
    let mut rest = prompt;
    let device = model.device();
    while goes_on() {
        let (piece, others) = rest.split_at(piece_length(rest.len()));
        let logits = read(model, batch(&[piece], &device), cache);
        if others.is_empty() {
            return Some(logits);
        }
        rest = others;
    }
    None
}

/// How many of so many tokens go through the model first.
fn piece_length(tokens: usize) -> usize {
    if tokens < 2 * PIECE { tokens } else { PIECE }
}

/// The logits that follow, `B` times the vocabulary.
pub(super) fn read<B: GptBackend>(
    model: &impl NextToken<B>,
    tokens: Tensor<B, 2, Int>,
    cache: &mut Cache<B>,
) -> Vec<f32> {
    let logits = model.decode(tokens, cache);
    let logits = logits.expect("room was made, and a group goes on by a token each");
    on_host(logits)
}
