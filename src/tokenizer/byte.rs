use super::{SavedTokenizer, Tokenizer, TokenizerError, last_character};

/// Ids of bytes; the one after them is the end of a text.
const BYTES: u32 = 256;

/// One token a byte, and one for the end of a text, which stands for no bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByteTokenizer;

impl Tokenizer for ByteTokenizer {
    fn vocab_size(&self) -> usize {
        BYTES as usize + 1
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        match id {
            BYTES => Some(Vec::new()),
            _ => u8::try_from(id).ok().map(|byte| vec![byte]),
        }
    }

    fn end_of_text(&self) -> Option<u32> {
        Some(BYTES)
    }

    fn cut(&self, text: &str) -> Option<usize> {
        last_character(text)
    }

    fn saved(&self) -> SavedTokenizer {
        SavedTokenizer::Byte {}
    }
}
