//! Byte-pair encoding, learned from text (Sennrich et al. 2016; on bytes, Radford et al. 2019).
//!
//! Texts are cut into words by a pattern. Every word begins as its bytes; then the most frequent
//! pair of neighbouring tokens becomes a token, over and over. Of equally frequent pairs that with
//! the smallest left id is taken, and among those the one with the smallest right id. So the same
//! text always leads to the same tokens, whatever its order and however many threads there are.
//!
//! Ids: the special tokens in their order; the 256 bytes in the order of the characters that GPT-2
//! writes for them (`!` to `~`, `¡` to `¬`, `®` to `ÿ`, then the others); the merges in theirs. All
//! of that is as in Hugging Face's `BpeTrainer`, with three exceptions: a pair that would spell a
//! token that there is already, such as a special one, is never merged; nor is one that would be
//! longer than 64 KiB; and counts do not wrap at 2^31.

use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::growing::{GrowingTokenizer, MOST_TOKENS};
use super::hash::QuickHash;
use super::merges::LONGEST_TOKEN;
use super::pairs::WordPairs;
use super::split::Splitter;
use super::{SavedTokenizer, TokenizerError, to_hugging_face};
use crate::config::SplitPattern;

/// What stands between documents.
const END_OF_TEXT: &str = "<|eos|>";

/// Learns a byte-level BPE. Memory grows with the number of different words.
pub struct Trainer {
    start: GrowingTokenizer,
    splitter: Splitter,
    /// Those that each thread has counted.
    words: Vec<HashMap<Box<str>, u64, QuickHash>>,
    end_of_text: Option<u32>,
}

/// A tokenizer fresh from its training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainedTokenizer {
    pub saved: SavedTokenizer,
    /// Fewer than asked for where the words have no more pairs.
    pub vocab_size: usize,
    pub different_words: usize,
    /// Tokens of the text that it was trained on.
    pub tokens: u64,
}

impl Trainer {
    /// Of a new tokenizer. `<|eos|>`, where it is among the special tokens, ends a text.
    ///
    /// # Errors
    /// A pattern that is no regular expression; special tokens that are empty, repeated, or
    /// single characters that stand for bytes.
    pub fn new(split: &SplitPattern, special_tokens: &[String]) -> Result<Self, TokenizerError> {
        let splitter = Splitter::new(split)?;
        let start = GrowingTokenizer::new(split, &splitter, special_tokens)?;
        let end_of_text = start.id(END_OF_TEXT);
        Ok(Self::with(start, splitter, end_of_text))
    }

    /// Of more merges for a tokenizer that there is: its ids stay as they are, and new special
    /// tokens and new merges get the next free ones. `<|eos|>` ends a text where nothing does yet.
    ///
    /// # Errors
    /// A tokenizer that is no byte-level BPE, and special tokens as for [`Self::new`].
    pub fn grow(
        existing: &SavedTokenizer,
        special_tokens: &[String],
    ) -> Result<Self, TokenizerError> {
        let (json, end_of_text) = match existing {
            SavedTokenizer::HuggingFace { json, end_of_text } => (json.clone(), *end_of_text),
            other => {
                let files = to_hugging_face(other)?;
                let end_of_text = files.eos();
                (files.json, end_of_text)
            }
        };
        let mut start = GrowingTokenizer::read(&json)?;
        start.byte_ids()?;
        start.add_special(special_tokens)?;
        let splitter = Splitter::new(start.split())?;
        let end_of_text = end_of_text.or_else(|| start.id(END_OF_TEXT));
        Ok(Self::with(start, splitter, end_of_text))
    }

    fn with(start: GrowingTokenizer, splitter: Splitter, end_of_text: Option<u32>) -> Self {
        let words = vec![HashMap::default(); rayon::current_num_threads()];
        Self { start, splitter, words, end_of_text }
    }

    /// Ids before any training.
    pub fn start_size(&self) -> usize {
        self.start.size()
    }

    /// Whether so many tokens can be trained.
    ///
    /// # Errors
    /// [`TokenizerError::VocabularySize`]
    pub fn check_size(&self, vocab_size: usize) -> Result<(), TokenizerError> {
        let (size, grows) = (self.start.size(), self.start.has_merges());
        if vocab_size < size || grows && vocab_size == size {
            let reason = match grows {
                true => format!("the tokenizer has {size} already"),
                false => format!("256 bytes and {} special tokens are {size}", size - 256),
            };
            return Err(TokenizerError::VocabularySize { asked: vocab_size, reason });
        }
        if vocab_size > MOST_TOKENS {
            let reason = format!("{MOST_TOKENS} are the most");
            return Err(TokenizerError::VocabularySize { asked: vocab_size, reason });
        }
        Ok(())
    }

    /// How texts are cut into words.
    pub fn splitter(&self) -> &Splitter {
        &self.splitter
    }

    /// Counts the words of some texts, in parallel.
    ///
    /// # Errors
    /// A pattern that fails on a text.
    pub fn feed(&mut self, texts: &[&str]) -> Result<(), TokenizerError> {
        let pieces: Vec<&str> = texts.iter().flat_map(|text| self.splitter.pieces(text)).collect();
        let next = AtomicUsize::new(0);
        let splitter = &self.splitter;
        self.words.par_iter_mut().try_for_each(|words| {
            while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                splitter.split(piece, |word| match words.get_mut(word) {
                    Some(count) => *count += 1,
                    None => {
                        words.insert(word.into(), 1);
                    }
                })?;
            }
            Ok(())
        })
    }

    /// Learns merges until there are `vocab_size` tokens, or no pairs any more. `progress` is
    /// told the number of tokens after each.
    ///
    /// # Errors
    /// A size that leaves no room for merges, or different words of 4 GiB together.
    pub fn train(
        self,
        vocab_size: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<TrainedTokenizer, TokenizerError> {
        self.check_size(vocab_size)?;
        let Self { start: mut tokenizer, words, end_of_text, .. } = self;
        let mut parts = words.into_iter();
        let mut words = parts.next().unwrap_or_default();
        for (word, count) in parts.flatten() {
            *words.entry(word).or_default() += count;
        }
        let different_words = words.len();
        let counted = words.iter().map(|(word, count)| (word.as_ref(), *count));
        let bytes = tokenizer.byte_ids()?;
        let encoder = tokenizer.has_merges().then(|| tokenizer.encoder()).transpose()?;
        let encode = |word: &str, ids: &mut Vec<u32>| match &encoder {
            Some(encoder) => encoder.encode(word, ids),
            None => {
                ids.extend(word.bytes().map(|byte| bytes[usize::from(byte)]));
                Ok(())
            }
        };
        let mut pairs = WordPairs::new(counted, tokenizer.lengths(), encode)?;
        drop((words, encoder));

        pairs.sort();
        while tokenizer.size() < vocab_size {
            let Some(pair) = pairs.most_frequent() else { break };
            if pairs.length(pair) > LONGEST_TOKEN {
                continue;
            }
            if let Some(id) = tokenizer.add_merge(pair) {
                pairs.merge(pair, id);
                progress(tokenizer.size());
            }
        }
        let vocab_size = tokenizer.size();
        let saved = SavedTokenizer::HuggingFace { json: tokenizer.json(), end_of_text };
        Ok(TrainedTokenizer { saved, vocab_size, different_words, tokens: pairs.tokens() })
    }
}
