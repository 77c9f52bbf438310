//! Byte-level BPE of a `tokenizer.json`, encoded without Hugging Face's library.

use fancy_regex::Regex;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use tokenizers::NormalizedString;

use super::bpe::{BytePairEncoder, Merge};
use super::{Splitter, TokenizerError};
use crate::config::SplitPattern;

/// What a `tokenizer.json` describes, where it is nothing but byte-level BPE and added tokens.
#[derive(Debug)]
pub(super) struct ByteLevel {
    encoder: BytePairEncoder,
    /// First those that are found in the text as it is, then those in the text between them, which
    /// would be normalized.
    added: Vec<AddedTokens>,
    /// Texts are brought to Unicode's NFC, which only ASCII is without looking.
    nfc: bool,
    /// No added token goes over whitespace.
    can_cut: bool,
}

/// Tokens that are found in a text before it is split into words.
#[derive(Debug)]
struct AddedTokens {
    /// The longest of several that begin at the same place.
    regex: Regex,
    ids: HashMap<String, u32>,
}

impl ByteLevel {
    /// None where the file describes anything else.
    pub(super) fn new(
        description: &Value,
        byte_of: &HashMap<char, u8>,
        id: impl Fn(&str) -> Option<u32>,
    ) -> Option<Self> {
        let model = &description["model"];
        let off = |value: &Value| {
            matches!(value, Value::Null | Value::Bool(false)) || value == "" || value == 0.0
        };
        let plain = model["type"] == "BPE"
            && ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"]
                .into_iter()
                .all(|option| off(&model[option]));
        let nfc = match &description["normalizer"] {
            Value::Null => false,
            normalizer if normalizer["type"] == "NFC" => true,
            _ => return None,
        };
        if !plain {
            return None;
        }
        let splitter = Splitter::new(&pattern(&description["pre_tokenizer"])?).ok()?;

        let vocabulary: HashMap<&str, u32> = model["vocab"]
            .as_object()?
            .iter()
            .map(|(token, id)| Some((token.as_str(), u32::try_from(id.as_u64()?).ok()?)))
            .collect::<Option<_>>()?;
        let mut bytes = [None; 256];
        for (character, byte) in byte_of {
            bytes[usize::from(*byte)] = vocabulary.get(character.to_string().as_str()).copied();
        }
        // With all bytes there, nothing is unknown.
        if !off(&model["unk_token"]) && bytes.contains(&None) {
            return None;
        }
        let merges = model["merges"]
            .as_array()?
            .iter()
            .filter(|merge| !is_version(merge))
            .map(|merge| {
                let (left, right) = merge_parts(merge)?;
                let id = |token: &str| vocabulary.get(token).copied();
                let merged = id(&[left, right].concat())?;
                Some(Merge { left: id(left)?, right: id(right)?, merged })
            })
            .collect::<Option<Vec<_>>>()?;
        let words: Vec<(Vec<u8>, u32)> = vocabulary
            .iter()
            .filter(|_| model["ignore_merges"] == true)
            .filter_map(|(token, id)| {
                let bytes: Option<_> = token.chars().map(|it| byte_of.get(&it).copied()).collect();
                bytes.map(|bytes| (bytes, *id))
            })
            .collect();

        let listed: Vec<&Value> =
            description["added_tokens"].as_array().into_iter().flatten().collect();
        let mut contents = HashSet::new();
        for token in &listed {
            let content = token["content"].as_str()?;
            let simple =
                ["single_word", "lstrip", "rstrip"].into_iter().all(|option| off(&token[option]));
            if !simple || !contents.insert(content) || nfc && !content.is_ascii() {
                return None;
            }
        }
        let mut added = Vec::new();
        for normalized in [false, true] {
            let tokens = listed.iter().filter(|token| token["normalized"] == normalized);
            let tokens = tokens.filter_map(|token| token["content"].as_str());
            let ids = tokens
                .filter(|content| !content.is_empty())
                .map(|content| Some((content.to_string(), id(content)?)))
                .collect::<Option<HashMap<_, _>>>()?;
            if !ids.is_empty() {
                added.push(AddedTokens::new(ids)?);
            }
        }
        let can_cut = !contents.iter().any(|content| content.contains(char::is_whitespace));
        let encoder = BytePairEncoder::from_merges(splitter, bytes, &merges, &words);
        Some(Self { encoder, added, nfc, can_cut })
    }

    /// The ids of a text; none where only the library can tell.
    ///
    /// # Errors
    /// As for [`Splitter::split`]; the library would take the rest of the text for one word.
    pub(super) fn encode(&self, text: &str) -> Result<Option<Vec<u32>>, TokenizerError> {
        if self.nfc && !text.is_ascii() {
            return Ok(None);
        }
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.encode_between(&self.added, text, &mut ids)?;
        Ok(Some(ids))
    }

    fn encode_between(
        &self,
        added: &[AddedTokens],
        text: &str,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let Some((first, rest)) = added.split_first() else {
            return self.encoder.encode(text, ids);
        };
        let mut done = 0;
        for found in first.regex.find_iter(text) {
            let found = found.map_err(|e| TokenizerError::Split { reason: e.to_string() })?;
            self.encode_between(rest, &text[done..found.start()], ids)?;
            ids.extend(first.ids.get(found.as_str()));
            done = found.end();
        }
        self.encode_between(rest, &text[done..], ids)
    }

    /// As for a tokenizer. A place before whitespace is in no added token that has none. Nothing
    /// is composed across it, as all whitespace is a starter that is composed with nothing.
    pub(super) fn cut(&self, text: &str) -> Option<usize> {
        let mut text = Some(text).filter(|_| self.can_cut)?;
        loop {
            let cut = self.encoder.splitter().cut(text)?;
            let before = &text[..cut];
            if !self.nfc || !text[cut..].starts_with(['\r', '\n']) || !ends_with_mark(before) {
                return Some(cut);
            }
            text = before;
        }
    }
}

impl AddedTokens {
    fn new(ids: HashMap<String, u32>) -> Option<Self> {
        let mut contents: Vec<&String> = ids.keys().collect();
        // Of alternatives the first that matches is taken.
        contents.sort_by_key(|content| std::cmp::Reverse(content.len()));
        let pattern: Vec<_> = contents.into_iter().map(|it| fancy_regex::escape(it)).collect();
        Some(Self { regex: Regex::new(&pattern.join("|")).ok()?, ids })
    }
}

/// Whether NFC takes the last letter of a text apart, as some of Hebrew and of India's scripts,
/// into one and a mark, after which words may go on with the ends of lines.
fn ends_with_mark(text: &str) -> bool {
    let Some(last) = text.chars().next_back().filter(|last| !last.is_ascii()) else {
        return false;
    };
    let mut normalized = NormalizedString::from(last.to_string());
    normalized.nfc();
    normalized.get().chars().count() > 1
}

/// The first line of `merges.txt`, which some programs have copied into the list.
pub(super) fn is_version(merge: &Value) -> bool {
    merge.as_str().is_some_and(|merge| merge.starts_with("#version"))
}

/// The two tokens of a merge, in either of the forms that it is written in.
pub(super) fn merge_parts(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(merge) => merge.split_once(' '),
        merge => Some((merge[0].as_str()?, merge[1].as_str()?)),
    }
}

/// How a pre-tokenizer splits text into words, where it does nothing else but write them as bytes.
fn pattern(pre_tokenizer: &Value) -> Option<SplitPattern> {
    let steps: Vec<&Value> = match pre_tokenizer["type"].as_str()? {
        "Sequence" => pre_tokenizer["pretokenizers"].as_array()?.iter().collect(),
        _ => vec![pre_tokenizer],
    };
    let (bytes, before) = steps.split_last()?;
    if bytes["type"] != "ByteLevel" || bytes["add_prefix_space"] != false {
        return None;
    }
    match (before, bytes["use_regex"] != false) {
        ([], true) => Some(SplitPattern::Gpt2),
        ([], false) => Some(SplitPattern::None),
        ([split], false)
            if split["type"] == "Split"
                && split["behavior"] == "Isolated"
                && split["invert"] == false =>
        {
            Some(SplitPattern::Custom(split["pattern"]["Regex"].as_str()?.into()))
        }
        _ => None,
    }
}
