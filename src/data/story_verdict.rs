use std::collections::BTreeSet;

use super::Stories;

/// What is right about a text as a story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoryVerdict {
    /// The grammar can write it, to the last character.
    pub grammatical: bool,
    /// It speaks of two children by their names, as all stories do, and of no third.
    pub names: bool,
    /// It speaks of one object, and every colour that stands before it is the same one.
    pub object: bool,
}

/// How many of several stories are right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoryScore {
    pub stories: usize,
    pub grammatical: usize,
    pub names: usize,
    pub object: usize,
}

impl Stories {
    /// Judges a text, which ends with a line break if it is a story. Names, objects and colours are
    /// looked for as whole words, so that a text that is no story is judged as well.
    pub fn judge(&self, text: &str) -> StoryVerdict {
        let grammar = self.grammar();
        let words: Vec<&str> = text.split(|c: char| !c.is_alphabetic()).collect();
        let known = |name| grammar.forms(name, "name").collect::<BTreeSet<&str>>();
        let (children, objects, colors) = (known("hero"), known("object"), known("color"));
        let used = |known: &BTreeSet<&str>| {
            let found: BTreeSet<&str> =
                words.iter().copied().filter(|word| known.contains(word)).collect();
            found.len()
        };
        let before_objects = words.windows(2).filter(|pair| objects.contains(pair[1]));
        let before_objects: BTreeSet<&str> =
            before_objects.map(|pair| pair[0]).filter(|word| colors.contains(word)).collect();
        StoryVerdict {
            grammatical: grammar.accepts(text),
            names: used(&children) == 2,
            object: used(&objects) == 1 && before_objects.len() == 1,
        }
    }

    /// Judges several texts.
    pub fn score<'a>(&self, texts: impl IntoIterator<Item = &'a String>) -> StoryScore {
        let mut score = StoryScore::default();
        for text in texts {
            let verdict = self.judge(text);
            score.stories += 1;
            score.grammatical += usize::from(verdict.grammatical);
            score.names += usize::from(verdict.names);
            score.object += usize::from(verdict.object);
        }
        score
    }

    /// The most bytes that a story can have.
    pub fn longest(&self) -> usize {
        self.grammar().longest()
    }
}
