//! The built-in corpus: short stories from the grammar in `datasets/stories`.

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

use super::grammar::{Grammar, GrammarError};

const GRAMMAR: &str = include_str!("../../datasets/stories/grammar.json");

/// The source of the stories.
pub struct Stories {
    grammar: Grammar,
}

impl Stories {
    /// # Errors
    /// A mistake in the grammar that is compiled in.
    pub fn new() -> Result<Self, GrammarError> {
        Grammar::parse(GRAMMAR, "story").map(|grammar| Self { grammar })
    }

    /// `count` stories, one after the other, each ending with a line break. Different streams of
    /// a seed are independent of each other.
    pub fn generate(&self, count: usize, seed: u64, stream: u64) -> String {
        self.documents(count, seed, stream).collect()
    }

    /// The same, a story at a time.
    pub fn documents(
        &self,
        count: usize,
        seed: u64,
        stream: u64,
    ) -> impl Iterator<Item = String> + '_ {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        (0..count).map(move |_| self.grammar.generate(&mut rng))
    }

    /// Entropy of the source in nats a character, or, what is the same as stories are ASCII, a
    /// byte: the loss that no model can beat in the long run.
    pub fn entropy_per_character(&self) -> f64 {
        self.grammar.entropy() / self.grammar.expected_length()
    }

    /// The probability model itself.
    pub fn grammar(&self) -> &Grammar {
        &self.grammar
    }
}
