use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;
use tiktoken_rs::{CoreBPE, O200K_BASE_PAT_STR};

use super::bpe::BytePairEncoder;
use super::split::{TIKTOKEN_CL100K, TIKTOKEN_GPT2};
use super::{SavedTokenizer, Splitter, Tokenizer, TokenizerError};
use crate::config::SplitPattern;

/// A published encoding.
struct Encoding {
    name: &'static str,
    load: fn() -> &'static CoreBPE,
    vocab_size: usize,
    end_of_text: u32,
    pattern: &'static str,
    /// Made when it is first used, and kept.
    encoder: OnceLock<BytePairEncoder>,
}

impl Encoding {
    const fn new(
        name: &'static str,
        load: fn() -> &'static CoreBPE,
        vocab_size: usize,
        end_of_text: u32,
        pattern: &'static str,
    ) -> Self {
        Self { name, load, vocab_size, end_of_text, pattern, encoder: OnceLock::new() }
    }
}

static ENCODINGS: [Encoding; 7] = [
    Encoding::new("gpt2", tiktoken_rs::r50k_base_singleton, 50257, 50256, TIKTOKEN_GPT2),
    Encoding::new("r50k_base", tiktoken_rs::r50k_base_singleton, 50257, 50256, TIKTOKEN_GPT2),
    Encoding::new("p50k_base", tiktoken_rs::p50k_base_singleton, 50281, 50256, TIKTOKEN_GPT2),
    Encoding::new("p50k_edit", tiktoken_rs::p50k_edit_singleton, 50284, 50256, TIKTOKEN_GPT2),
    Encoding::new(
        "cl100k_base",
        tiktoken_rs::cl100k_base_singleton,
        100_277,
        100_257,
        TIKTOKEN_CL100K,
    ),
    Encoding::new(
        "o200k_base",
        tiktoken_rs::o200k_base_singleton,
        200_019,
        199_999,
        O200K_BASE_PAT_STR,
    ),
    Encoding::new(
        "o200k_harmony",
        tiktoken_rs::o200k_harmony_singleton,
        201_088,
        199_999,
        O200K_BASE_PAT_STR,
    ),
];

/// One of OpenAI's byte-pair encodings.
#[derive(Clone)]
pub struct TiktokenTokenizer {
    encoding: &'static Encoding,
    tokens: &'static CoreBPE,
    encoder: &'static BytePairEncoder,
}

impl TiktokenTokenizer {
    /// The names that there are.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ENCODINGS.iter().map(|encoding| encoding.name)
    }

    /// The number of ids of an encoding, without loading it.
    pub fn size_of(name: &str) -> Option<usize> {
        ENCODINGS.iter().find(|it| it.name == name).map(|encoding| encoding.vocab_size)
    }

    /// # Errors
    /// [`TokenizerError::UnknownEncoding`], with those that there are.
    pub fn new(name: &str) -> Result<Self, TokenizerError> {
        let encoding = ENCODINGS.iter().find(|it| it.name == name).ok_or_else(|| {
            let known = Self::names().collect::<Vec<_>>().join(", ");
            TokenizerError::UnknownEncoding { name: name.into(), known }
        })?;
        let splitter = Splitter::new(&SplitPattern::Custom(encoding.pattern.into()))?;
        let tokens = (encoding.load)();
        let encoder = encoding.encoder.get_or_init(|| {
            let special = tokens.special_tokens();
            let ordinary = |id: u32| {
                let token = tokens.decode_bytes(&[id]).ok()?;
                let special = str::from_utf8(&token).is_ok_and(|token| special.contains(token));
                (!special).then_some((token, id))
            };
            let ranks: Vec<_> = (0..encoding.vocab_size as u32).filter_map(ordinary).collect();
            BytePairEncoder::from_ranks(splitter, &ranks)
        });
        Ok(Self { encoding, tokens, encoder })
    }
}

impl std::fmt::Debug for TiktokenTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TiktokenTokenizer").field(&self.encoding.name).finish()
    }
}

impl Tokenizer for TiktokenTokenizer {
    fn vocab_size(&self) -> usize {
        self.encoding.vocab_size
    }

    /// Special tokens in the text are encoded as the plain text that they are.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.encoder.encode(text, &mut ids)?;
        Ok(ids)
    }

    fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        self.tokens.decode_bytes(&[id]).ok()
    }

    fn end_of_text(&self) -> Option<u32> {
        Some(self.encoding.end_of_text)
    }

    fn cut(&self, text: &str) -> Option<usize> {
        self.encoder.splitter().cut(text)
    }

    fn saved(&self) -> SavedTokenizer {
        SavedTokenizer::Tiktoken { encoding: self.encoding.name.into() }
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
