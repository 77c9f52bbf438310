//! A text as the words within which byte pairs are merged.

use fancy_regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Class as Set, HirKind};
use std::sync::LazyLock;
use tiktoken_rs::O200K_BASE_PAT_STR;

use super::TokenizerError;
use crate::config::SplitPattern;

/// Radford et al. 2019.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const GPT4: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// tiktoken's own ways to write them, of which the second one differs at the end of a text.
pub(super) const TIKTOKEN_GPT2: &str =
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s";
pub(super) const TIKTOKEN_CL100K: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s";
/// As in the files of Llama 3 and of Qwen 2.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Bytes of the pieces in which long texts are split in parallel.
const PIECE: usize = 1 << 18;

/// Splits texts into words.
#[derive(Debug, Clone)]
pub struct Splitter {
    rule: Rule,
    pattern: Option<String>,
}

#[derive(Debug, Clone)]
enum Rule {
    Gpt2,
    Gpt4(Gpt4),
    Whole,
    /// A regular expression but for whitespace: it would look back from the end of a run, and
    /// gives up on long ones.
    O200k(Box<Regex>),
    Regex(Box<Regex>),
}

/// What sets the relatives of GPT-4's pattern apart.
#[derive(Debug, Clone, Copy)]
struct Gpt4 {
    /// Digits of a word at most.
    digits: usize,
    /// Whitespace at the end of the text is one word, whatever lines are in it.
    one_end: bool,
}

impl Splitter {
    /// # Errors
    /// [`TokenizerError::SplitPattern`]
    pub fn new(pattern: &SplitPattern) -> Result<Self, TokenizerError> {
        let pattern = match pattern {
            SplitPattern::Gpt2 => GPT2,
            SplitPattern::Gpt4 => GPT4,
            SplitPattern::None => return Ok(Self { rule: Rule::Whole, pattern: None }),
            SplitPattern::Custom(pattern) => pattern,
        };
        let gpt4 = |digits, one_end| Rule::Gpt4(Gpt4 { digits, one_end });
        // Patterns that match the same text are scanned by the same code.
        let rule = match pattern {
            GPT2 | TIKTOKEN_GPT2 => Rule::Gpt2,
            GPT4 | LLAMA3 => gpt4(3, false),
            QWEN2 => gpt4(1, false),
            TIKTOKEN_CL100K => gpt4(3, true),
            O200K_BASE_PAT_STR => Rule::O200k(Box::new(regex(pattern)?)),
            _ => Rule::Regex(Box::new(regex(pattern)?)),
        };
        Ok(Self { rule, pattern: Some(pattern.into()) })
    }

    /// The pattern as Hugging Face's `tokenizers` understands it; none where a text is one word.
    pub fn regex(&self) -> Option<&str> {
        self.pattern.as_deref()
    }

    /// A text in pieces of about the same length, cut where that does not change its words.
    pub(super) fn pieces<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let (mut pieces, mut rest, mut length) = (Vec::new(), text, PIECE);
        while length < rest.len() {
            // A word may be longer than a piece.
            match self.cut(&rest[..rest.floor_char_boundary(length)]) {
                Some(cut) => {
                    let (piece, after) = rest.split_at(cut);
                    pieces.push(piece);
                    (rest, length) = (after, PIECE);
                }
                None => length *= 2,
            }
        }
        pieces.push(rest);
        pieces
    }

    /// Calls `each` with every word in order. Words are not empty, and together they are the text.
    ///
    /// # Errors
    /// [`TokenizerError::Split`], from patterns of one's own alone.
    pub fn split<'a>(
        &self,
        text: &'a str,
        mut each: impl FnMut(&'a str),
    ) -> Result<(), TokenizerError> {
        self.ranges(text, |start, end| each(&text[start..end]))
    }

    /// As [`Self::split`], but calls `each` with where a word begins and ends.
    pub(super) fn ranges(
        &self,
        text: &str,
        mut each: impl FnMut(usize, usize),
    ) -> Result<(), TokenizerError> {
        match &self.rule {
            Rule::Gpt2 => {
                let scanner = Scanner::new(text);
                scanner.words(|start| scanner.gpt2(start), each);
            }
            Rule::Gpt4(rule) => {
                let scanner = Scanner::new(text);
                scanner.words(|start| scanner.gpt4(start, *rule), each);
            }
            Rule::Whole if text.is_empty() => {}
            Rule::Whole => each(0, text.len()),
            Rule::O200k(regex) => {
                let scanner = Scanner::new(text);
                let mut start = 0;
                while start < text.len() {
                    let end = match scanner.blank(start) {
                        Some(end) => end,
                        // Every text begins with a word, which is not empty.
                        None => regex
                            .find_from_pos(text, start)
                            .map_err(gave_up)?
                            .map_or(text.len(), |found| found.end()),
                    };
                    each(start, end);
                    start = end;
                }
            }
            Rule::Regex(regex) => {
                let mut word = |start, end| {
                    if start < end {
                        each(start, end);
                    }
                };
                let mut done = 0;
                for found in regex.find_iter(text) {
                    let found = found.map_err(gave_up)?;
                    word(done, found.start());
                    word(found.start(), found.end());
                    done = found.end();
                }
                word(done, text.len());
            }
        }
        Ok(())
    }

    /// The last place inside a text where it may be cut: the words of both parts are the words of
    /// the whole, whatever text stands before and after it. None where there is no such place, or
    /// none is known for the pattern.
    ///
    /// That is between a character that is not whitespace and one that is; but before the end of
    /// a line only after letters and digits, since words of other characters go on there, in all but GPT-2's.
    /// Such a place is always between two words: whitespace stands in words of whitespace alone,
    /// at the beginning of others, and in these ends of lines. What is after it does not change
    /// the words before it, since all that these look ahead for is where a run of letters, digits
    /// or others ends, which is there in any case, or whether whitespace comes before something
    /// else, and before the place comes no whitespace. And nothing looks behind.
    pub fn cut(&self, text: &str) -> Option<usize> {
        if !matches!(self.rule, Rule::Gpt2 | Rule::Gpt4(_) | Rule::O200k(_)) {
            return None;
        }
        let scanner = Scanner::new(text);
        let mut after: Option<(usize, char)> = None;
        for (place, character) in text.char_indices().rev() {
            let class = scanner.class_of(character as usize);
            if let Some((cut, after)) = after
                && scanner.class_of(after as usize) == Class::Whitespace
                && match class {
                    Class::Letter | Class::Number => true,
                    Class::Other => !matches!(after, '\r' | '\n'),
                    Class::Whitespace => false,
                }
            {
                return Some(cut);
            }
            after = Some((place, character));
        }
        None
    }
}

/// `^` and `$` are at the ends of lines, as always in the Python package `tokenizers`.
fn regex(pattern: &str) -> Result<Regex, TokenizerError> {
    RegexBuilder::new(pattern).multi_line(true).build().map_err(|error| {
        TokenizerError::SplitPattern {
            pattern: pattern.into(),
            reason: error.to_string().replace('\n', " "),
        }
    })
}

fn gave_up(error: fancy_regex::Error) -> TokenizerError {
    TokenizerError::Split { reason: error.to_string().replace('\n', " ") }
}

/// What patterns tell apart: `\p{L}`, `\p{N}`, `\s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Letter,
    Number,
    Whitespace,
}

/// Characters of a block of the table.
const BLOCK: usize = 256;
const ASCII: usize = 128;

/// The class of every character, in blocks of which equal ones are there once.
struct Classes {
    ascii: [Class; ASCII],
    block_of: Vec<u16>,
    blocks: Vec<[Class; BLOCK]>,
}

/// From the tables that regular expressions have, so that both agree.
static CLASSES: LazyLock<Classes> = LazyLock::new(|| {
    let mut all = vec![Class::Other; char::MAX as usize + 1];
    for (pattern, class) in
        [(r"\p{L}", Class::Letter), (r"\p{N}", Class::Number), (r"\s", Class::Whitespace)]
    {
        let parsed =
            regex_syntax::parse(pattern).expect("a property that regex-syntax is built with");
        if let HirKind::Class(Set::Unicode(set)) = parsed.kind() {
            for range in set.ranges() {
                all[range.start() as usize..=range.end() as usize].fill(class);
            }
        }
    }
    let mut ascii = [Class::Other; ASCII];
    ascii.copy_from_slice(&all[..ASCII]);
    let mut blocks: Vec<[Class; BLOCK]> = Vec::new();
    let mut block_of = Vec::new();
    for block in all.as_chunks::<BLOCK>().0 {
        let known = blocks.iter().rposition(|known| known == block);
        block_of.push(known.unwrap_or(blocks.len()) as u16);
        if known.is_none() {
            blocks.push(*block);
        }
    }
    Classes { ascii, block_of, blocks }
});

/// Finds where words end. Places are in bytes, and always between characters.
struct Scanner<'a> {
    bytes: &'a [u8],
    classes: &'static Classes,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), classes: &CLASSES }
    }

    fn words(&self, end_of: impl Fn(usize) -> usize, mut each: impl FnMut(usize, usize)) {
        let mut start = 0;
        while start < self.bytes.len() {
            let end = end_of(start);
            each(start, end);
            start = end;
        }
    }

    fn class_of(&self, code: usize) -> Class {
        self.classes.blocks[usize::from(self.classes.block_of[code / BLOCK])][code % BLOCK]
    }

    /// The class of the character at a place, and the place after it; none at the end.
    #[inline]
    fn class(&self, at: usize) -> Option<(Class, usize)> {
        let byte = usize::from(*self.bytes.get(at)?);
        if byte < ASCII {
            return Some((self.classes.ascii[byte], at + 1));
        }
        Some(self.wide(at))
    }

    #[cold]
    #[inline(never)]
    fn wide(&self, at: usize) -> (Class, usize) {
        let low = |offset: usize| usize::from(self.bytes[at + offset] & 0x3F);
        let first = usize::from(self.bytes[at]);
        // The text is UTF-8.
        let (code, length) = match first {
            0..0xE0 => ((first & 0x1F) << 6 | low(1), 2),
            0xE0..0xF0 => ((first & 0x0F) << 12 | low(1) << 6 | low(2), 3),
            _ => ((first & 0x07) << 18 | low(1) << 12 | low(2) << 6 | low(3), 4),
        };
        (self.class_of(code), at + length)
    }

    /// The end of the run of a class that goes on at a place.
    #[inline]
    fn run(&self, mut at: usize, class: Class) -> usize {
        while let Some((found, next)) = self.class(at) {
            if found != class {
                break;
            }
            at = next;
        }
        at
    }

    /// The end of the word of GPT-2's that begins at a place.
    #[inline]
    fn gpt2(&self, start: usize) -> usize {
        let Some((class, next)) = self.class(start) else { return start };
        match (class, self.bytes[start]) {
            (Class::Other, b'\'') => match self.bytes[next..] {
                [b's' | b't' | b'm' | b'd', ..] => next + 1,
                [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => next + 2,
                _ => self.run(next, Class::Other),
            },
            (Class::Whitespace, b' ') => match self.class(next) {
                Some((Class::Whitespace, _)) | None => self.whitespace(start).0,
                Some((class, next)) => self.run(next, class),
            },
            (Class::Whitespace, _) => self.whitespace(start).0,
            _ => self.run(next, class),
        }
    }

    /// The end of the word of GPT-4's that begins at a place.
    #[inline]
    fn gpt4(&self, start: usize, rule: Gpt4) -> usize {
        let Some((class, next)) = self.class(start) else { return start };
        let byte = self.bytes[start];
        match class {
            Class::Letter => return self.run(next, Class::Letter),
            Class::Number => return self.digits(next, rule.digits - 1),
            Class::Other if byte == b'\'' => {
                let ignore_case =
                    |offset| self.bytes.get(next + offset).map(u8::to_ascii_lowercase);
                match (ignore_case(0), ignore_case(1)) {
                    (Some(b's' | b't' | b'm' | b'd'), _) => return next + 1,
                    (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) => return next + 2,
                    // The long s is another case of s.
                    (Some(0xC5), Some(0xBF)) => return next + 2,
                    _ => {}
                }
            }
            Class::Other | Class::Whitespace => {}
        }
        let after = self.class(next);
        match after {
            // Any one character before letters, but not the end of a line.
            Some((Class::Letter, after)) if !matches!(byte, b'\r' | b'\n') => {
                return self.run(after, Class::Letter);
            }
            Some((Class::Other, after)) if byte == b' ' => return self.others(after),
            _ => {}
        }
        if class == Class::Other {
            return self.others(next);
        }
        let (end, line_end) = self.whitespace(start);
        match line_end {
            Some(_) if rule.one_end && self.run(end, Class::Whitespace) == self.bytes.len() => {
                self.bytes.len()
            }
            Some(line_end) => line_end,
            None => end,
        }
    }

    /// The end of at most so many more digits.
    fn digits(&self, mut at: usize, most: usize) -> usize {
        for _ in 0..most {
            match self.class(at) {
                Some((Class::Number, next)) => at = next,
                _ => break,
            }
        }
        at
    }

    /// The end of other characters and of the ends of lines after them.
    fn others(&self, at: usize) -> usize {
        let end = self.run(at, Class::Other);
        let lines = self.bytes[end..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
        end + lines.count()
    }

    /// The end of the first word of two or more whitespace characters, in the pattern of o200k.
    fn blank(&self, start: usize) -> Option<usize> {
        let (first, next) = self.class(start)?;
        let (second, _) = self.class(next)?;
        if [first, second] != [Class::Whitespace; 2] {
            return None;
        }
        let (end, line_end) = self.whitespace(start);
        Some(line_end.unwrap_or(end))
    }

    /// The end of `\s+(?!\S)|\s+`, which leaves the last whitespace of several to what comes after
    /// them; and the last end of a line among them all.
    fn whitespace(&self, start: usize) -> (usize, Option<usize>) {
        let (mut at, mut last, mut line_end) = (start, start, None);
        while let Some((Class::Whitespace, next)) = self.class(at) {
            if matches!(self.bytes[at], b'\r' | b'\n') {
                line_end = Some(next);
            }
            (last, at) = (at, next);
        }
        let whole = at == self.bytes.len() || last == start;
        (if whole { at } else { last }, line_end)
    }
}
