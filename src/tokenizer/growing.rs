//! A byte-level BPE as a `tokenizer.json` that grows.

use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};

use super::TokenizerError;
use super::bpe::{BytePairEncoder, Merge};
use super::byte_level::{is_version, merge_parts};
use super::huggingface::{
    byte_level_alphabet, byte_level_model, byte_level_text, special_token, tokenizer_description,
};
use super::pairs::Pair;
use super::split::Splitter;
use crate::config::SplitPattern;

/// Tokens at most.
pub(super) const MOST_TOKENS: usize = 1 << 24;

/// Tokens that stand for themselves, bytes, and merges.
pub(super) struct GrowingTokenizer {
    description: Value,
    split: SplitPattern,
    vocabulary: Map<String, Value>,
    /// The token of each id.
    tokens: HashMap<u32, String>,
    merges: Vec<Value>,
    /// Ids so far; holes count as well.
    size: usize,
}

fn not_growing(reason: impl Into<String>) -> TokenizerError {
    TokenizerError::NotGrowing { reason: reason.into() }
}

fn same_id(id: u32, one: &str, other: &str) -> TokenizerError {
    not_growing(format!("its tokens `{one}` and `{other}` have the same id {id}"))
}

impl GrowingTokenizer {
    /// The special tokens, then the bytes in the order of GPT-2's characters for them; no merges.
    pub(super) fn new(
        split: &SplitPattern,
        splitter: &Splitter,
        special_tokens: &[String],
    ) -> Result<Self, TokenizerError> {
        let byte_level = |use_regex: bool| {
            json!({
                "type": "ByteLevel",
                "add_prefix_space": false,
                "trim_offsets": true,
                "use_regex": use_regex,
            })
        };
        let pre_tokenizer = match (split, splitter.regex()) {
            // The one regular expression that their format has a word for.
            (SplitPattern::Gpt2, _) => byte_level(true),
            (_, None) => byte_level(false),
            (_, Some(regex)) => json!({
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split",
                        "pattern": {"Regex": regex},
                        "behavior": "Isolated",
                        "invert": false,
                    },
                    byte_level(false),
                ],
            }),
        };
        let model = byte_level_model(&Default::default(), &[] as &[(&str, &str)]);
        let description = tokenizer_description(&[], &pre_tokenizer, &byte_level(true), &model);
        let mut tokenizer = Self {
            description,
            split: split.clone(),
            vocabulary: Map::new(),
            tokens: HashMap::new(),
            merges: Vec::new(),
            size: 0,
        };
        tokenizer.add_special(special_tokens)?;
        let mut bytes: Vec<String> = (0..=u8::MAX).map(|byte| byte_level_text(&[byte])).collect();
        bytes.sort_unstable();
        for byte in bytes {
            tokenizer.add(byte);
        }
        Ok(tokenizer)
    }

    /// From the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError::NotGrowing`] for one that is no byte-level BPE of this structure.
    pub(super) fn read(json: &str) -> Result<Self, TokenizerError> {
        let mut description: Value =
            serde_json::from_str(json).map_err(|error| not_growing(error.to_string()))?;
        let split = split_of(&description)?;
        let model = &mut description["model"];
        if model["type"] != "BPE" {
            return Err(not_growing("its model is no BPE"));
        }
        for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
            if model[key].as_str().is_some_and(|text| !text.is_empty()) {
                return Err(not_growing(format!("it has a {key}")));
            }
        }
        let (Value::Object(vocabulary), Value::Array(merges)) =
            (model["vocab"].take(), model["merges"].take())
        else {
            return Err(not_growing("its model has no vocab and merges"));
        };
        let mut tokenizer =
            Self { description, split, vocabulary, tokens: HashMap::new(), merges, size: 0 };
        for (token, id) in &tokenizer.vocabulary {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.filter(|id| (*id as usize) < MOST_TOKENS);
            let id = id.ok_or_else(|| not_growing(format!("its token `{token}` has no id")))?;
            if let Some(other) = tokenizer.tokens.insert(id, token.clone()) {
                return Err(same_id(id, &other, token));
            }
            tokenizer.size = tokenizer.size.max(id as usize + 1);
        }
        // Where the model does not know them, their ids would follow from its size, which grows.
        let added = tokenizer.description["added_tokens"].as_array().cloned().unwrap_or_default();
        for token in added {
            let (Some(content), Some(id)) = (token["content"].as_str(), token["id"].as_u64())
            else {
                return Err(not_growing("one of its added tokens has no content or no id"));
            };
            if id as usize >= MOST_TOKENS {
                return Err(not_growing(format!("its token `{content}` has the id {id}")));
            }
            if *tokenizer.vocabulary.entry(content).or_insert(json!(id)) != id {
                return Err(not_growing(format!("its token `{content}` has two ids")));
            }
            if let Some(other) = tokenizer.tokens.insert(id as u32, content.into())
                && other != content
            {
                return Err(same_id(id as u32, &other, content));
            }
            tokenizer.size = tokenizer.size.max(id as usize + 1);
        }
        Ok(tokenizer)
    }

    /// How it cuts a text into words.
    pub(super) fn split(&self) -> &SplitPattern {
        &self.split
    }

    /// Ids so far.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn has_merges(&self) -> bool {
        !self.merges.is_empty()
    }

    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.vocabulary.get(token)?.as_u64().map(|id| id as u32)
    }

    /// The id of each byte.
    pub(super) fn byte_ids(&self) -> Result<[u32; 256], TokenizerError> {
        let mut ids = [0; 256];
        for (byte, id) in (0..=u8::MAX).zip(&mut ids) {
            *id = self
                .id(&byte_level_text(&[byte]))
                .ok_or_else(|| not_growing(format!("it has no token for the byte {byte:#04x}")))?;
        }
        Ok(ids)
    }

    /// What encodes words with the merges so far.
    pub(super) fn encoder(&self) -> Result<BytePairEncoder, TokenizerError> {
        let read = |merge: &Value| {
            let (left, right) = merge_parts(merge)?;
            let merged = self.id(&format!("{left}{right}"))?;
            Some(Merge { left: self.id(left)?, right: self.id(right)?, merged })
        };
        let read = |merge| {
            read(merge).ok_or_else(|| not_growing(format!("its merge {merge} is of no tokens")))
        };
        let merges: Vec<Merge> = self
            .merges
            .iter()
            .filter(|merge| !is_version(merge))
            .map(read)
            .collect::<Result<_, _>>()?;
        let mut words = Vec::new();
        if self.description["model"]["ignore_merges"] == true {
            let added = self.description["added_tokens"].as_array().into_iter().flatten();
            let added: HashSet<&str> =
                added.filter_map(|token| token["content"].as_str()).collect();
            let byte_of = byte_level_alphabet();
            let plain = self.tokens.iter().filter(|(_, token)| !added.contains(token.as_str()));
            words.extend(plain.filter_map(|(id, token)| {
                let bytes: Option<_> = token.chars().map(|it| byte_of.get(&it).copied()).collect();
                Some((bytes?, *id))
            }));
        }
        let whole = Splitter::new(&SplitPattern::None)?;
        Ok(BytePairEncoder::from_merges(whole, self.byte_ids()?.map(Some), &merges, &words))
    }

    /// Bytes of the token of each id, as far as it stands for any.
    pub(super) fn lengths(&self) -> Vec<u32> {
        let mut lengths = vec![0; self.size];
        for (id, token) in &self.tokens {
            // A character a byte.
            lengths[*id as usize] = token.chars().count() as u32;
        }
        lengths
    }

    /// Special tokens with the next ids.
    pub(super) fn add_special(&mut self, tokens: &[String]) -> Result<(), TokenizerError> {
        for token in tokens {
            let refused =
                |reason| Err(TokenizerError::SpecialToken { token: token.clone(), reason });
            let mut characters = token.chars();
            let first = characters.next();
            if first.is_none() {
                return refused("it is empty");
            }
            if self.id(token).is_some() {
                return refused("there is a token of that text already");
            }
            // Bytes are written as characters.
            let is_byte = (0..=u8::MAX).any(|byte| byte_level_text(&[byte]) == *token);
            if is_byte {
                return refused("a single character of this kind stands for a byte");
            }
            let id = self.add(token.clone());
            if let Some(added) = self.description["added_tokens"].as_array_mut() {
                added.push(special_token(token, id));
            }
        }
        Ok(())
    }

    /// Makes a pair a token; none where there is one of that text already.
    pub(super) fn add_merge(&mut self, (left, right): Pair) -> Option<u32> {
        let (Some(left), Some(right)) = (self.tokens.get(&left), self.tokens.get(&right)) else {
            return None;
        };
        let whole = format!("{left}{right}");
        if self.vocabulary.contains_key(&whole) {
            return None;
        }
        // As those that are there: older programs cannot read the newer form.
        let merge = match self.merges.first() {
            Some(Value::String(_)) => json!(format!("{left} {right}")),
            _ => json!([left, right]),
        };
        self.merges.push(merge);
        Some(self.add(whole))
    }

    fn add(&mut self, token: String) -> u32 {
        let id = self.size as u32;
        self.vocabulary.insert(token.clone(), json!(id));
        self.tokens.insert(id, token);
        self.size += 1;
        id
    }

    /// The text of its `tokenizer.json`.
    pub(super) fn json(mut self) -> String {
        self.description["model"]["vocab"] = Value::Object(self.vocabulary);
        self.description["model"]["merges"] = Value::Array(self.merges);
        self.description.to_string()
    }
}

/// How a `tokenizer.json` cuts a text into words.
fn split_of(description: &Value) -> Result<SplitPattern, TokenizerError> {
    if !description["normalizer"].is_null() {
        return Err(not_growing("it changes texts before it splits them"));
    }
    let before = &description["pre_tokenizer"];
    let steps: Vec<&Value> = match before["pretokenizers"].as_array() {
        Some(steps) => steps.iter().collect(),
        None => vec![before],
    };
    let kind = |step: &Value| step["type"].as_str().unwrap_or("none").to_string();
    let (first, byte_level) = match steps.as_slice() {
        [byte_level] if kind(byte_level) == "ByteLevel" => (None, byte_level),
        [first, byte_level] if kind(first) == "Split" && kind(byte_level) == "ByteLevel" => {
            (Some(first), byte_level)
        }
        other => {
            let kinds: Vec<String> = other.iter().map(|step| kind(step)).collect();
            let kinds = kinds.join(", ");
            return Err(not_growing(format!(
                "its pre-tokenizer is {kinds}; ByteLevel is supported, alone or after one Split"
            )));
        }
    };
    if byte_level["add_prefix_space"] == true {
        return Err(not_growing("it puts a space before a text"));
    }
    let use_regex = byte_level["use_regex"].as_bool().unwrap_or(true);
    let Some(first) = first else {
        return Ok(if use_regex { SplitPattern::Gpt2 } else { SplitPattern::None });
    };
    if use_regex || first["behavior"] != "Isolated" || first["invert"] == true {
        return Err(not_growing("it splits in another way than Isolated, or twice"));
    }
    let regex = first["pattern"]["Regex"].as_str();
    let regex =
        regex.ok_or_else(|| not_growing("it splits at a text, not a regular expression"))?;
    Ok(SplitPattern::Custom(regex.into()))
}
