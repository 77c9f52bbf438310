use std::collections::HashMap;
use std::ops::Range;
use tiktoken_rs::CoreBPE;

use super::{SavedTokenizer, Tokenizer, TokenizerError};

/// A published encoding: its name, its loader, the number of its ids, its end-of-text token.
type Encoding = (&'static str, fn() -> &'static CoreBPE, usize, u32);

const ENCODINGS: [Encoding; 7] = [
    ("gpt2", tiktoken_rs::r50k_base_singleton, 50257, 50256),
    ("r50k_base", tiktoken_rs::r50k_base_singleton, 50257, 50256),
    ("p50k_base", tiktoken_rs::p50k_base_singleton, 50281, 50256),
    ("p50k_edit", tiktoken_rs::p50k_edit_singleton, 50284, 50256),
    ("cl100k_base", tiktoken_rs::cl100k_base_singleton, 100_277, 100_257),
    ("o200k_base", tiktoken_rs::o200k_base_singleton, 200_019, 199_999),
    ("o200k_harmony", tiktoken_rs::o200k_harmony_singleton, 201_088, 199_999),
];

/// One of OpenAI's byte-pair encodings.
#[derive(Clone)]
pub struct TiktokenTokenizer {
    name: &'static str,
    encoding: &'static CoreBPE,
    vocab_size: usize,
    end_of_text: u32,
}

impl TiktokenTokenizer {
    /// The number of ids of an encoding, without loading it.
    pub fn size_of(name: &str) -> Option<usize> {
        ENCODINGS.into_iter().find(|(known, ..)| *known == name).map(|(_, _, size, _)| size)
    }

    /// # Errors
    /// [`TokenizerError::UnknownEncoding`], with those that there are.
    pub fn new(name: &str) -> Result<Self, TokenizerError> {
        let (name, load, vocab_size, end_of_text) = ENCODINGS
            .into_iter()
            .find(|(known, ..)| *known == name)
            .ok_or_else(|| TokenizerError::UnknownEncoding {
                name: name.into(),
                known: ENCODINGS.map(|(known, ..)| known).join(", "),
            })?;
        Ok(Self { name, encoding: load(), vocab_size, end_of_text })
    }
}

impl std::fmt::Debug for TiktokenTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TiktokenTokenizer").field(&self.name).finish()
    }
}

impl Tokenizer for TiktokenTokenizer {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Special tokens in the text are encoded as the plain text that they are.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.encoding.encode_ordinary(text))
    }

    fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        self.encoding.decode_bytes(&[id]).ok()
    }

    fn end_of_text(&self) -> Option<u32> {
        Some(self.end_of_text)
    }

    fn saved(&self) -> SavedTokenizer {
        SavedTokenizer::Tiktoken { encoding: self.name.into() }
    }
}

/// The two tokens that were merged last into one of this rank; none for a byte. tiktoken keeps no
/// merges, only tokens in the order in which they were merged.
pub fn last_merge<'a>(
    token: &'a [u8],
    rank: u32,
    ranks: &HashMap<&[u8], u32>,
) -> Option<(&'a [u8], &'a [u8])> {
    let mut parts: Vec<Range<usize>> = (0..token.len()).map(|at| at..at + 1).collect();
    while parts.len() > 2 {
        let merged = |at: usize| ranks.get(&token[parts[at].start..parts[at + 1].end]);
        // Of several the first, as encoders do.
        let (_, at) = (0..parts.len() - 1)
            .filter_map(|at| Some((*merged(at)?, at)))
            .filter(|(found, _)| *found < rank)
            .min()?;
        parts[at].end = parts.remove(at + 1).end;
    }
    match parts.as_slice() {
        [left, right] => Some((&token[left.clone()], &token[right.clone()])),
        _ => None,
    }
}
