//! Tokenizers as llama.cpp has them (its `src/llama-vocab.cpp`).
//!
//! Byte-level BPE is its model `gpt2`: tokens and merges as texts of GPT-2's byte alphabet, and
//! the name of a rule that splits text into words (`tokenizer.ggml.pre`).
//!
//! One token a character is its model `rwkv`, which takes the longest token that the text begins
//! with. `gpt2` would do for that too, but ends a text at token 11 where no other end is named,
//! and skips unknown characters, where `rwkv` gives an invalid token, which llama.cpp then refuses
//! to decode, as we do. Characters of several bytes are not possible: at one that begins with the
//! same byte as one it knows, `rwkv` starts over and never ends.

use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap};

use super::writer::Value;
use super::{GgufError, Note};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::{self, SavedTokenizer};

/// `enum llama_token_type` in llama.h, as far as models like ours need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    Normal = 1,
    /// Not part of a text; shown only on request.
    Control = 3,
    /// Found in text before it is split, and shown.
    UserDefined = 4,
    /// A row of the embedding that no text leads to.
    Unused = 5,
}

/// The tokens of a model for llama.cpp, in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// `gpt2` or `rwkv`.
    pub model: &'static str,
    /// How text is split before tokens are merged.
    pub pre: &'static str,
    pub tokens: Vec<String>,
    pub kinds: Vec<TokenKind>,
    /// Pairs of tokens, first to merge first, with a space between.
    pub merges: Vec<String>,
    /// Where generation stops; `gpt2` cannot be without.
    pub end_of_text: Option<u32>,
    /// What each text begins with.
    pub beginning_of_text: Option<u32>,
}

/// The vocabulary of a tokenizer for a model of so many rows, if llama.cpp can have one.
///
/// # Errors
/// A vocabulary that is larger than the model.
pub(super) fn of(
    saved: &SavedTokenizer,
    tokenizer: &dyn Tokenizer,
    vocab_size: usize,
    notes: &mut Vec<Note>,
) -> Result<Option<Vocabulary>, GgufError> {
    let vocabulary = match saved {
        SavedTokenizer::Character { characters } => {
            if !characters.is_ascii() {
                let reason = "llama.cpp has no tokenizer of single characters beyond ASCII";
                notes.push(Note::NoTokenizer { reason: reason.into() });
                return Ok(None);
            }
            characters_ascii(characters, vocab_size)?
        }
        SavedTokenizer::Tiktoken { encoding } => tiktoken(encoding, tokenizer, vocab_size)?,
        SavedTokenizer::HuggingFace { json, end_of_text } => {
            let mut read = |json: &str| {
                let wrong = |error: serde_json::Error| GgufError::TokenizerJson {
                    reason: error.to_string(),
                };
                let json = serde_json::from_str(json).map_err(wrong)?;
                huggingface_vocabulary(&json, vocab_size, *end_of_text, notes)
            };
            match read(json) {
                // The weights are of use without it.
                Err(GgufError::TokenizerJson { reason }) => {
                    notes.push(Note::NoTokenizer { reason });
                    return Ok(None);
                }
                vocabulary => vocabulary?,
            }
        }
        SavedTokenizer::Byte {} => {
            let reason = "llama.cpp has no tokenizer of single bytes";
            notes.push(Note::NoTokenizer { reason: reason.into() });
            return Ok(None);
        }
        SavedTokenizer::Merges { .. } => {
            let reason = "llama.cpp has no byte pairs over a text that is not split into words";
            notes.push(Note::NoTokenizer { reason: reason.into() });
            return Ok(None);
        }
        SavedTokenizer::Ids { .. } => {
            notes.push(Note::NoTokenizer { reason: "the run has token ids only".into() });
            return Ok(None);
        }
    };
    if vocabulary.model == "gpt2" && vocabulary.end_of_text.is_none() {
        let reason = "llama.cpp would take token 11 for the end of a text where there is none";
        notes.push(Note::NoTokenizer { reason: reason.into() });
        return Ok(None);
    }
    Ok(Some(vocabulary))
}

/// The keys of a vocabulary; without one, programs can still pass token ids.
pub(super) fn metadata(vocabulary: Option<&Vocabulary>) -> Vec<(String, Value)> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let Some(vocabulary) = vocabulary else {
        return vec![(key("model"), "no_vocab".into())];
    };
    let Vocabulary { model, pre, tokens, kinds, merges, .. } = vocabulary;
    let mut keys = vec![
        (key("model"), (*model).into()),
        (key("pre"), (*pre).into()),
        (key("tokens"), Value::Strings(tokens.clone())),
        (key("token_type"), Value::I32s(kinds.iter().map(|kind| *kind as i32).collect())),
    ];
    if *model == "gpt2" {
        keys.push((key("merges"), Value::Strings(merges.clone())));
    }
    if let Some(end) = vocabulary.end_of_text {
        keys.push((key("eos_token_id"), Value::U32(end)));
        // GPT-2's one token stands at both ends; llama.cpp's default would be token 11.
        let beginning = vocabulary.beginning_of_text.unwrap_or(end);
        keys.push((key("bos_token_id"), Value::U32(beginning)));
    }
    let has_beginning = vocabulary.beginning_of_text.is_some();
    keys.push((key("add_bos_token"), Value::Bool(has_beginning)));
    keys.push((key("add_eos_token"), Value::Bool(false)));
    keys
}

/// Tokens by id, for a model of so many rows.
struct Slots {
    tokens: Vec<Option<(String, TokenKind)>>,
}

impl Slots {
    /// # Errors
    /// [`GgufError::TooManyTokens`]
    fn new(tokens: usize, rows: usize) -> Result<Self, GgufError> {
        if tokens > rows {
            return Err(GgufError::TooManyTokens { tokens, rows });
        }
        Ok(Self { tokens: vec![None; rows] })
    }

    fn set(&mut self, id: usize, text: String, kind: TokenKind) {
        self.tokens[id] = Some((text, kind));
    }

    /// Texts and kinds; an id that stands for nothing gets a text of its own, since llama.cpp
    /// requires them to be distinct.
    fn finish(self, unused: impl Fn(usize) -> String) -> (Vec<String>, Vec<TokenKind>) {
        let slots = self.tokens.into_iter().enumerate();
        slots.map(|(id, slot)| slot.unwrap_or_else(|| (unused(id), TokenKind::Unused))).unzip()
    }
}

fn characters_ascii(characters: &str, vocab_size: usize) -> Result<Vocabulary, GgufError> {
    let mut slots = Slots::new(characters.len(), vocab_size)?;
    for (id, character) in characters.chars().enumerate() {
        // RWKV's escapes, of which `\\`, `\n` and the like are what Rust has too.
        let text = match character {
            '\\' | '\n' | '\r' | '\t' => character.escape_default().to_string(),
            ' '..='~' => character.to_string(),
            _ => format!("\\x{:02x}", character as u32),
        };
        slots.set(id, text, TokenKind::Normal);
    }
    // No text has the byte 0xff, so that none begins like one of these.
    let (tokens, kinds) = slots.finish(|id| format!("\\xff{id}"));
    Ok(Vocabulary {
        model: "rwkv",
        pre: "default",
        tokens,
        kinds,
        merges: Vec::new(),
        end_of_text: None,
        beginning_of_text: None,
    })
}

/// One of OpenAI's encodings. They have no list of merges, but each token has a rank, which is its
/// id: two neighbours are merged if they are a token, those of the lowest rank first.
fn tiktoken(
    encoding: &str,
    tokenizer: &dyn Tokenizer,
    vocab_size: usize,
) -> Result<Vocabulary, GgufError> {
    let mut slots = Slots::new(tokenizer.vocab_size(), vocab_size)?;
    let mut ordinary = BTreeMap::new();
    for id in 0..tokenizer.vocab_size() as u32 {
        let Some(bytes) = tokenizer.token_bytes(id) else {
            continue;
        };
        // No ordinary token of these encodings looks like this.
        if bytes.starts_with(b"<|") && bytes.ends_with(b"|>") {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            slots.set(id as usize, text, TokenKind::Control);
        } else {
            slots.set(id as usize, tokenizer::byte_level_text(&bytes), TokenKind::Normal);
            ordinary.insert(id, bytes);
        }
    }
    let ranks: HashMap<&[u8], u32> =
        ordinary.iter().map(|(rank, bytes)| (bytes.as_slice(), *rank)).collect();
    // A token that its own bytes are never merged to has no pair; none of the encodings has one.
    let merges = ordinary.iter().filter_map(|(rank, bytes)| {
        let (left, right) = tokenizer::last_merge(bytes, *rank, &ranks)?;
        Some(format!("{} {}", tokenizer::byte_level_text(left), tokenizer::byte_level_text(right)))
    });
    let merges = merges.collect();
    let (tokens, kinds) = slots.finish(unused_text);
    Ok(Vocabulary {
        model: "gpt2",
        pre: match encoding {
            "cl100k_base" => "dbrx",
            "o200k_base" | "o200k_harmony" => "gpt-4o",
            _ => "gpt-2",
        },
        tokens,
        kinds,
        merges,
        end_of_text: tokenizer.end_of_text(),
        beginning_of_text: None,
    })
}

/// The vocabulary of a `tokenizer.json` of byte-level BPE, for a model of so many rows.
/// `end_of_text` is the token that ends a document, which such a file does not say.
///
/// # Errors
/// A file that is not byte-level BPE, contradicts itself or splits text by a rule that llama.cpp
/// does not have, or a vocabulary that is larger than the model.
pub fn huggingface_vocabulary(
    json: &Json,
    vocab_size: usize,
    end_of_text: Option<u32>,
    notes: &mut Vec<Note>,
) -> Result<Vocabulary, GgufError> {
    let model = &json["model"];
    if model["type"] != "BPE" {
        return refuse(format!("its model is {}, not \"BPE\"", model["type"]));
    }
    for option in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model[option].as_str().is_some_and(|text| !text.is_empty()) {
            return refuse(format!("it has a {option}"));
        }
    }
    if model["byte_fallback"] == true {
        return refuse("it has byte_fallback, so it is not byte-level".into());
    }
    let pre = pre_tokenizer(json)?;
    match &json["normalizer"] {
        Json::Null => {}
        normalizer => {
            let normalizer = normalizer["type"].as_str().unwrap_or("a rule without a name");
            notes.push(Note::NotNormalised { normalizer: normalizer.into() });
        }
    }

    let mut listed = BTreeMap::new();
    let Some(vocab) = model["vocab"].as_object() else {
        return refuse("it has no model.vocab".into());
    };
    for (text, id) in vocab {
        let id = token_id(id, text)?;
        if let Some((other, _)) = listed.insert(id, (text.clone(), TokenKind::Normal)) {
            return refuse(format!("{other:?} and {text:?} both have the id {id}"));
        }
    }
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let Some(text) = token["content"].as_str() else {
            return refuse("an added token has no content".into());
        };
        let kind = match token["special"] == true {
            true => TokenKind::Control,
            false => TokenKind::UserDefined,
        };
        listed.insert(token_id(&token["id"], text)?, (text.into(), kind));
    }
    let count = listed.last_key_value().map_or(0, |(id, _)| id + 1);
    let mut slots = Slots::new(count, vocab_size)?;
    for (id, (text, kind)) in listed {
        slots.set(id, text, kind);
    }
    let (tokens, kinds) = slots.finish(unused_text);
    let mut ids = HashMap::new();
    for (id, text) in tokens.iter().enumerate() {
        if let Some(other) = ids.insert(text.as_str(), id) {
            return refuse(format!("the tokens {other} and {id} are both {text:?}"));
        }
    }
    let beginning_of_text = beginning(json).and_then(|text| ids.get(text)).map(|id| *id as u32);
    let merges = merges(model)?;
    // llama.cpp takes token 11 where no end is named; a row that no text leads to never comes up.
    let unused = || kinds.iter().position(|kind| *kind == TokenKind::Unused).map(|id| id as u32);
    let end_of_text = end_of_text.or_else(unused);
    Ok(Vocabulary { model: "gpt2", pre, tokens, kinds, merges, end_of_text, beginning_of_text })
}

fn refuse<T>(reason: String) -> Result<T, GgufError> {
    Err(GgufError::TokenizerJson { reason })
}

fn token_id(id: &Json, text: &str) -> Result<usize, GgufError> {
    match id.as_u64().map(u32::try_from) {
        Some(Ok(id)) => Ok(id as usize),
        _ => refuse(format!("the token {text:?} has the id {id}")),
    }
}

/// Merges as `"a b"` or, since tokenizers 0.20, as `["a", "b"]`.
fn merges(model: &Json) -> Result<Vec<String>, GgufError> {
    let Some(merges) = model["merges"].as_array() else {
        return refuse("it has no model.merges".into());
    };
    let text = |merge: &Json| {
        let pair = match merge {
            Json::String(text) => text.split_once(' '),
            Json::Array(pair) => match pair.as_slice() {
                [left, right] => left.as_str().zip(right.as_str()),
                _ => None,
            },
            _ => None,
        };
        // Bytes that are spaces have another character in the byte alphabet.
        match pair.filter(|(left, right)| !left.contains(' ') && !right.contains(' ')) {
            Some((left, right)) => Ok(format!("{left} {right}")),
            None => refuse(format!("the merge {merge} is not a pair of tokens")),
        }
    };
    merges.iter().map(text).collect()
}

/// The token that the template of a post-processor puts before each text.
fn beginning(json: &Json) -> Option<&str> {
    let processor = &json["post_processor"];
    let several = processor["processors"].as_array().into_iter().flatten();
    let template = several.chain([processor]).find(|it| it["type"] == "TemplateProcessing")?;
    template["single"][0]["SpecialToken"]["id"].as_str()
}

/// llama.cpp's name of the rule by which text is split into words.
fn pre_tokenizer(json: &Json) -> Result<&'static str, GgufError> {
    // As they stand in the files of Llama 3, Qwen 2 and GPT-4o.
    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    let pre = &json["pre_tokenizer"];
    let steps: Vec<&Json> = match pre["pretokenizers"].as_array() {
        Some(steps) => steps.iter().collect(),
        None => vec![pre],
    };
    let Some((bytes, before)) = steps.split_last().filter(|(last, _)| last["type"] == "ByteLevel")
    else {
        return refuse("its pre_tokenizer does not end in ByteLevel".into());
    };
    if bytes["add_prefix_space"] == true {
        return refuse("its pre_tokenizer has add_prefix_space".into());
    }
    let takes_whole_words = json["model"]["ignore_merges"] == true;
    // GPT-2's rule is part of ByteLevel, unless it is switched off.
    let name = match (before, bytes["use_regex"] != false) {
        ([], true) => Some("gpt-2"),
        ([digits], true) if digits["type"] == "Digits" && digits["individual_digits"] == true => {
            Some("smollm")
        }
        ([split], false)
            if split["type"] == "Split"
                && split["behavior"] == "Isolated"
                && split["invert"] != true =>
        {
            match split["pattern"]["Regex"].as_str() {
                // What sets these two apart is that one looks for whole words first.
                Some(LLAMA3) if takes_whole_words => return Ok("llama-bpe"),
                Some(LLAMA3) => Some("dbrx"),
                Some(QWEN2) => Some("qwen2"),
                Some(GPT4O) => Some("gpt-4o"),
                _ => None,
            }
        }
        _ => None,
    };
    match name {
        Some(name) if !takes_whole_words => Ok(name),
        Some(_) => refuse("it has ignore_merges with a pre_tokenizer other than Llama 3's".into()),
        None => refuse("its pre_tokenizer is not one of GPT-2, Llama 3, Qwen 2 or GPT-4o".into()),
    }
}

/// As llama.cpp's own conversion names them.
fn unused_text(id: usize) -> String {
    format!("[PAD{id}]")
}
