use super::{SavedTokenizer, Tokenizer, TokenizerError};

/// Token ids as text, for models that came without a tokenizer: `<12><7>` is 12, 7.
#[derive(Debug, Clone)]
pub struct IdTokenizer {
    vocab_size: usize,
}

impl IdTokenizer {
    pub fn new(vocab_size: usize) -> Self {
        Self { vocab_size }
    }
}

impl Tokenizer for IdTokenizer {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let wrong = || TokenizerError::NotIds { vocab_size: self.vocab_size };
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let inner = text.strip_prefix('<').and_then(|text| text.strip_suffix('>'));
        let id = |digits: &str| -> Option<u32> {
            // `parse` would take a sign and zeros in front, and the text would not come back.
            let id: u32 = digits.parse().ok()?;
            ((id as usize) < self.vocab_size && id.to_string() == digits).then_some(id)
        };
        inner.ok_or_else(wrong)?.split("><").map(|digits| id(digits).ok_or_else(wrong)).collect()
    }

    fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        ((id as usize) < self.vocab_size).then(|| format!("<{id}>").into_bytes())
    }

    fn end_of_text(&self) -> Option<u32> {
        None
    }

    fn saved(&self) -> SavedTokenizer {
        SavedTokenizer::Ids { vocab_size: self.vocab_size }
    }
}
