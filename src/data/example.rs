//! What a model learns from: how a text becomes inputs and targets.
//!
//! T time, C context length

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::permutation::mix;
use super::{Pair, Split, SplitTokens, TokenStream, Window};
use crate::config::Architecture;
use crate::config::Packing;
use crate::config::RunConfig;
use crate::tokenizer::Tokenizer;

/// What a model of some architecture is asked, and with which tokens beyond its tokenizer's.
///
/// Those tokens are the last ids of the vocabulary, so that every tokenizer can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Each token, from those before it.
    NextToken,
    /// A share of the tokens, from all others (Devlin et al. 2019).
    MaskedTokens {
        /// Stands for a token that is to be guessed.
        mask: u32,
        /// Decides, with the number of the example, which tokens are masked.
        seed: u64,
    },
    /// Each token of a target, from those before it and from a source. In plain text the source
    /// is the first half of a window, and the target the second.
    Translation {
        /// Precedes the target.
        begin: u32,
        /// Follows it.
        end: u32,
    },
}

/// Of the masked language model, as in BERT.
const MASKED_SHARE: f64 = 0.15;
/// Of the masked tokens, those that are replaced by the mask itself..
const REPLACED_BY_MASK: f64 = 0.8;
/// ..and, with those before them, by the mask or by any token; the rest stay as they are.
const REPLACED: f64 = 0.9;

impl Task {
    /// The task of an architecture whose tokenizer has so many ids.
    pub fn new(architecture: Architecture, tokenizer_vocab_size: usize, seed: u64) -> Self {
        let first = tokenizer_vocab_size as u32;
        match architecture {
            Architecture::Decoder => Self::NextToken,
            Architecture::Encoder => Self::MaskedTokens { mask: first, seed },
            Architecture::EncoderDecoder => Self::Translation { begin: first, end: first + 1 },
        }
    }

    /// The token that begins every text of a model, where it is not the tokenizer's.
    pub fn begin(self) -> Option<u32> {
        match self {
            Self::Translation { begin, .. } => Some(begin),
            Self::NextToken | Self::MaskedTokens { .. } => None,
        }
    }

    /// The token that ends every text of a model, where there is one.
    pub fn end(self, tokenizer: &dyn Tokenizer) -> Option<u32> {
        match self {
            Self::Translation { end, .. } => Some(end),
            Self::NextToken | Self::MaskedTokens { .. } => tokenizer.end_of_text(),
        }
    }

    /// That of a whole recipe.
    pub fn of(config: &RunConfig, tokenizer: &dyn Tokenizer) -> Self {
        Self::new(config.model.architecture, tokenizer.vocab_size(), config.seed)
    }

    /// Ids beyond the tokenizer's.
    pub fn special_tokens(architecture: Architecture) -> usize {
        match architecture {
            Architecture::Decoder => 0,
            Architecture::Encoder => 1,
            Architecture::EncoderDecoder => 2,
        }
    }

    /// Targets that are asked for in a window of a text, on average.
    pub fn targets_of_window(architecture: Architecture, length: usize) -> f64 {
        match architecture {
            Architecture::Decoder => length as f64,
            Architecture::Encoder => MASKED_SHARE * length as f64,
            // The second half, and the token that follows it.
            Architecture::EncoderDecoder => (length / 2 + 1) as f64,
        }
    }
}

/// Where an example is found, and a number that tells it from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExamplePlace {
    pub place: Place,
    pub number: u64,
}

/// A part of a [`Split`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Window(Window),
    Pair(usize),
}

/// The documents that the places of a window belong to, counted from the first; none where there
/// is one only.
fn documents_within(stream: &TokenStream, window: Window) -> Option<Vec<u32>> {
    let end = window.start + window.length;
    let first = stream.document_at(window.start);
    if stream.document(first).end >= end {
        return None;
    }
    let mut numbers = Vec::with_capacity(window.length);
    for number in 0.. {
        let document = stream.document(first + number as usize);
        let places = document.end.min(end) - document.start.max(window.start);
        numbers.resize(numbers.len() + places, number);
        if document.end >= end {
            break;
        }
    }
    Some(numbers)
}

/// One row of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// What an encoder reads beside a decoder.
    pub source: Option<Vec<u32>>,
    /// What the decoder reads, or the encoder where it is alone.
    pub input: Vec<u32>,
    /// As many as inputs.
    pub target: Vec<u32>,
    /// The places whose targets are asked for; all where absent.
    pub asked: Option<Vec<usize>>,
    /// The document of each input, counted from 0; all are of one where absent. Attention does
    /// not leave it.
    pub documents: Option<Vec<u32>>,
}

impl Example {
    /// The place must lie within the split.
    pub fn read(split: &Split, task: Task, at: ExamplePlace) -> Self {
        match (&split.tokens, at.place, task) {
            (SplitTokens::Text(tokens), Place::Window(window), task) => {
                let Window { start, length } = window;
                let documents = match split.packing {
                    Packing::MaskedStream => documents_within(tokens, window),
                    Packing::Stream | Packing::Documents => None,
                };
                let input = tokens.read(start..start + length);
                match task {
                    Task::NextToken => Self {
                        source: None,
                        input,
                        target: tokens.read(start + 1..start + length + 1),
                        asked: None,
                        documents,
                    },
                    Task::MaskedTokens { mask, seed } => {
                        let example = Self::masked(&input, mask, mix(seed ^ mix(at.number)));
                        Self { documents, ..example }
                    }
                    Task::Translation { begin, end } => {
                        let (source, target) = input.split_at(length.div_ceil(2));
                        Self::translation(source, target, begin, end)
                    }
                }
            }
            (SplitTokens::Pairs(pairs), Place::Pair(index), Task::Translation { begin, end }) => {
                let Pair { source, target } = &pairs[index];
                Self::translation(source, target, begin, end)
            }
            _ => unreachable!(
                "corpora refuse pairs for tasks without a source, and places follow the split"
            ),
        }
    }

    fn masked(window: &[u32], mask: u32, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut asked: Vec<usize> =
            (0..window.len()).filter(|_| rng.random::<f64>() < MASKED_SHARE).collect();
        if asked.is_empty() {
            asked.push(rng.random_range(0..window.len()));
        }
        let mut input = window.to_vec();
        for place in &asked {
            let draw = rng.random::<f64>();
            if draw < REPLACED_BY_MASK {
                input[*place] = mask;
            } else if draw < REPLACED {
                input[*place] = rng.random_range(0..mask);
            }
        }
        let target = window.to_vec();
        Self { source: None, input, target, asked: Some(asked), documents: None }
    }

    fn translation(source: &[u32], target: &[u32], begin: u32, end: u32) -> Self {
        Self {
            source: Some(source.to_vec()),
            input: [&[begin], target].concat(),
            target: [target, &[end]].concat(),
            asked: None,
            documents: None,
        }
    }

    /// Targets that are asked for.
    pub fn targets(&self) -> usize {
        self.asked.as_ref().map_or(self.target.len(), Vec::len)
    }
}
