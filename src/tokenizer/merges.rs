use std::collections::HashSet;

use super::bpe::{BytePairEncoder, Merge};
use super::{SavedTokenizer, Splitter, Tokenizer, TokenizerError};
use crate::config::SplitPattern;

/// Ids of single bytes.
const BYTES: u32 = 256;
/// Begin of text, end of text, padding: the ids after those of the merges.
const SPECIAL: u32 = 3;

/// Byte-pair encoding of the whole text at once, without splitting it into words before: the
/// tokenizer of templateGPT. Id `256 + i` is merge `i`; then come begin of text, end of text and
/// padding, which stand for no bytes.
#[derive(Debug)]
pub struct MergesTokenizer {
    merges: Vec<(u32, u32)>,
    encoder: BytePairEncoder,
    /// What each id below the special ones stands for.
    bytes: Vec<Vec<u8>>,
}

/// Bytes of a token at most.
pub(super) const LONGEST_TOKEN: usize = 1 << 16;
/// Bytes of all tokens together at most.
const ALL_TOKENS: usize = 64 << 20;

impl MergesTokenizer {
    /// # Errors
    /// A merge of ids that come after it, one that is there twice, or one that makes a token of
    /// more than 64 KiB, or all tokens together of more than 64 MiB.
    pub fn new(merges: Vec<(u32, u32)>) -> Result<Self, TokenizerError> {
        let mut bytes: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
        let mut pairs = HashSet::with_capacity(merges.len());
        let mut joined = Vec::with_capacity(merges.len());
        let mut size = bytes.len();
        for (rank, &(left, right)) in (0..).zip(&merges) {
            let known = |id: u32| bytes.get(id as usize);
            let (Some(first), Some(second)) = (known(left), known(right)) else {
                return Err(TokenizerError::Merge { number: rank as usize, left, right });
            };
            // Merges of merges double, and a few dozen of them would not fit into any memory.
            let length = first.len() + second.len();
            size += length;
            if length > LONGEST_TOKEN || size > ALL_TOKENS {
                return Err(TokenizerError::LongMerge { number: rank as usize, length, size });
            }
            let whole = [first.as_slice(), second].concat();
            bytes.push(whole);
            if !pairs.insert((left, right)) {
                return Err(TokenizerError::Merge { number: rank as usize, left, right });
            }
            joined.push(Merge { left, right, merged: BYTES + rank });
        }
        let splitter = Splitter::new(&SplitPattern::None)?;
        let byte_ids = std::array::from_fn(|byte| Some(byte as u32));
        let encoder = BytePairEncoder::from_merges(splitter, byte_ids, &joined, &[]);
        Ok(Self { merges, encoder, bytes })
    }

    fn special(&self, number: u32) -> u32 {
        self.bytes.len() as u32 + number
    }
}

impl Tokenizer for MergesTokenizer {
    fn vocab_size(&self) -> usize {
        self.bytes.len() + SPECIAL as usize
    }

    /// Earlier merges first, each from left to right.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        self.encoder.encode(text, &mut ids)?;
        Ok(ids)
    }

    fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let special = self.special(0)..self.special(SPECIAL);
        let nothing = || special.contains(&id).then(Vec::new);
        self.bytes.get(id as usize).cloned().or_else(nothing)
    }

    fn beginning_of_text(&self) -> Option<u32> {
        Some(self.special(0))
    }

    fn end_of_text(&self) -> Option<u32> {
        Some(self.special(1))
    }

    fn saved(&self) -> SavedTokenizer {
        SavedTokenizer::Merges { merges: self.merges.clone() }
    }
}
