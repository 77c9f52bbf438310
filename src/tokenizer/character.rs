use std::collections::{BTreeSet, HashMap};

use super::{SavedTokenizer, Tokenizer, TokenizerError, last_character};

/// One token a character.
#[derive(Debug, Clone)]
pub struct CharacterTokenizer {
    characters: Vec<char>,
    ids: HashMap<char, u32>,
}

impl CharacterTokenizer {
    /// The characters of some texts, in the order of their code points.
    pub fn train(texts: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut characters = BTreeSet::new();
        for text in texts {
            characters.extend(text.as_ref().chars());
        }
        Self::from_distinct(characters.into_iter().collect())
    }

    /// # Errors
    /// [`TokenizerError::RepeatedCharacter`]: ids would not be unique.
    pub fn from_characters(characters: &str) -> Result<Self, TokenizerError> {
        let tokenizer = Self::from_distinct(characters.chars().collect());
        for (id, character) in tokenizer.characters.iter().enumerate() {
            if tokenizer.ids[character] as usize != id {
                return Err(TokenizerError::RepeatedCharacter { character: *character });
            }
        }
        Ok(tokenizer)
    }

    fn from_distinct(characters: Vec<char>) -> Self {
        let ids = characters.iter().zip(0..).map(|(character, id)| (*character, id)).collect();
        Self { characters, ids }
    }
}

impl Tokenizer for CharacterTokenizer {
    fn vocab_size(&self) -> usize {
        self.characters.len()
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        text.chars()
            .enumerate()
            .map(|(index, character)| {
                self.ids.get(&character).copied().ok_or(TokenizerError::UnknownCharacter {
                    character,
                    position: index + 1,
                    known: self.characters.len(),
                })
            })
            .collect()
    }

    fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let character = self.characters.get(id as usize)?;
        Some(character.to_string().into_bytes())
    }

    fn end_of_text(&self) -> Option<u32> {
        None
    }

    fn cut(&self, text: &str) -> Option<usize> {
        last_character(text)
    }

    fn saved(&self) -> SavedTokenizer {
        SavedTokenizer::Character { characters: self.characters.iter().collect() }
    }
}
