//! Tokenizers of Hugging Face's `tokenizers` library, as they are in `tokenizer.json`.

use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;
use tokenizers::Tokenizer as Inner;

use super::byte_level::ByteLevel;
use super::{SavedTokenizer, Tokenizer, TokenizerError};

/// One tokenizer of Hugging Face's.
///
/// Special tokens in a text are recognised, and stand for their own text when decoded. The exact
/// bytes of each token are known for byte-level vocabularies (GPT-2, Llama 3, Qwen) and for those
/// of SentencePiece (Llama 2, Mistral, Gemma); with the latter, `▁` is a space wherever it
/// stands, so a text that the tokenizer itself put a space before comes back with that space.
pub struct HuggingFaceTokenizer {
    json: String,
    inner: Inner,
    /// What encodes most texts.
    own: Option<ByteLevel>,
    /// What each id stands for.
    bytes: Vec<Option<Vec<u8>>>,
    beginning_of_text: Option<u32>,
    end_of_text: Option<u32>,
}

impl std::fmt::Debug for HuggingFaceTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HuggingFaceTokenizer").field("vocab_size", &self.bytes.len()).finish()
    }
}

/// How a vocabulary writes bytes as text.
#[derive(Clone, Copy)]
enum Alphabet {
    /// A character a byte (Radford et al. 2019).
    ByteLevel,
    /// As text, with `▁` for a space and `<0x0A>` for bytes that are no text.
    SentencePiece,
    Plain,
}

fn foreign(reason: impl std::fmt::Display) -> TokenizerError {
    // One line, whatever the library says.
    TokenizerError::HuggingFace { reason: reason.to_string().replace('\n', " ") }
}

impl HuggingFaceTokenizer {
    /// From the text of `tokenizer.json`.
    ///
    /// # Errors
    /// A text that is no tokenizer, or one whose tokens do not simply stand for bytes.
    pub fn new(json: &str, end_of_text: Option<u32>) -> Result<Self, TokenizerError> {
        let description: Value = serde_json::from_str(json).map_err(foreign)?;
        let alphabet = alphabet(&description)?;
        let mut inner: Inner = json.parse().map_err(foreign)?;
        // What was set for batches of another program's is not for us.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(foreign)?;

        let vocabulary = inner.get_vocab(true);
        let size = vocabulary.values().max().map_or(0, |id| *id as usize + 1);
        if size > 1 << 24 {
            return Err(foreign(format!("{size} tokens are too many")));
        }
        let added = inner.get_added_tokens_decoder();
        let mut bytes = vec![None; size];
        let byte_of = byte_level_alphabet();
        for (token, id) in vocabulary {
            let plain = match added.get(&id) {
                Some(token) => token.content.clone().into_bytes(),
                None => token_bytes(&token, alphabet, &byte_of),
            };
            if let Some(place) = bytes.get_mut(id as usize) {
                *place = Some(plain);
            }
        }
        if end_of_text.is_some_and(|id| id as usize >= size) {
            return Err(foreign(format!("its end of text is not among its {size} tokens")));
        }
        // What it would put before a text by itself.
        let marks = inner.encode("", true).map_err(foreign)?;
        let beginning_of_text =
            marks.get_ids().first().copied().filter(|id| added.contains_key(id));
        let own = ByteLevel::new(&description, &byte_of, |token| inner.token_to_id(token));
        Ok(Self { json: json.into(), inner, own, bytes, beginning_of_text, end_of_text })
    }

    /// From GPT-2's two files: `vocab.json` and `merges.txt`.
    ///
    /// # Errors
    /// Texts that are no such files.
    pub fn from_vocabulary_and_merges(
        vocabulary: &str,
        merges: &str,
        special: &[String],
        end_of_text: Option<u32>,
    ) -> Result<Self, TokenizerError> {
        let vocabulary: BTreeMap<String, u32> =
            serde_json::from_str(vocabulary).map_err(foreign)?;
        let merges: Vec<(&str, &str)> = merges
            .lines()
            .filter(|line| !line.starts_with("#version") && !line.is_empty())
            .map(|line| {
                line.split_once(' ').ok_or_else(|| foreign(format!("`{line}` is not a merge")))
            })
            .collect::<Result<_, _>>()?;
        let special: Vec<(&str, u32)> = special
            .iter()
            .filter_map(|token| Some((token.as_str(), *vocabulary.get(token)?)))
            .collect();
        Self::new(&byte_level_json(&vocabulary, &merges, &special), end_of_text)
    }

    /// The text of `tokenizer.json`.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The id of a token, special ones included.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}

/// A byte-level BPE, with GPT-2's regular expression, as a `tokenizer.json`.
pub(super) fn byte_level_json(
    vocabulary: &BTreeMap<String, u32>,
    merges: &[(impl AsRef<str>, impl AsRef<str>)],
    special: &[(&str, u32)],
) -> String {
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    let model = byte_level_model(vocabulary, merges);
    tokenizer_json(special, &byte_level, &byte_level, &model)
}

/// A byte-level BPE without what goes on before and after it.
pub(super) fn byte_level_model(
    vocabulary: &BTreeMap<String, u32>,
    merges: &[(impl AsRef<str>, impl AsRef<str>)],
) -> Value {
    let merges: Vec<[&str; 2]> =
        merges.iter().map(|(left, right)| [left.as_ref(), right.as_ref()]).collect();
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": false,
        "vocab": vocabulary,
        "merges": merges,
    })
}

/// A `tokenizer.json` of these parts.
pub(super) fn tokenizer_json(
    special: &[(&str, u32)],
    pre_tokenizer: &Value,
    decoder: &Value,
    model: &Value,
) -> String {
    tokenizer_description(special, pre_tokenizer, decoder, model).to_string()
}

pub(super) fn tokenizer_description(
    special: &[(&str, u32)],
    pre_tokenizer: &Value,
    decoder: &Value,
    model: &Value,
) -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special.iter().map(|(token, id)| special_token(token, *id)).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": decoder,
        "model": model,
    })
}

/// One of `added_tokens`.
pub(super) fn special_token(content: &str, id: u32) -> Value {
    json!({
        "id": id,
        "content": content,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": true,
    })
}

/// How tokens stand for bytes, from what the file says of decoding.
fn alphabet(description: &Value) -> Result<Alphabet, TokenizerError> {
    let decoder = &description["decoder"];
    let steps = match decoder["decoders"].as_array() {
        Some(steps) => steps.iter().collect(),
        None if decoder.is_null() => Vec::new(),
        None => vec![decoder],
    };
    let mut alphabet = Alphabet::Plain;
    for step in steps {
        match step["type"].as_str().unwrap_or("(none)") {
            "ByteLevel" => alphabet = Alphabet::ByteLevel,
            "ByteFallback" | "Metaspace" => alphabet = Alphabet::SentencePiece,
            "Replace" if step["pattern"]["String"] == "▁" && step["content"] == " " => {
                alphabet = Alphabet::SentencePiece;
            }
            // Joins tokens, which we do anyhow; takes away a space at the beginning of a text.
            "Fuse" | "Strip" => {}
            other => {
                return Err(foreign(format!(
                    "its decoder `{other}` does more than put bytes together; ByteLevel, ByteFallback, Metaspace, Replace of ▁, Fuse and Strip are supported"
                )));
            }
        }
    }
    Ok(alphabet)
}

fn token_bytes(token: &str, alphabet: Alphabet, byte_of: &HashMap<char, u8>) -> Vec<u8> {
    match alphabet {
        Alphabet::Plain => token.into(),
        Alphabet::ByteLevel => {
            let bytes: Option<Vec<u8>> = token.chars().map(|c| byte_of.get(&c).copied()).collect();
            // Tokens outside the alphabet were added as text.
            bytes.unwrap_or_else(|| token.into())
        }
        Alphabet::SentencePiece => {
            let digits = token.strip_prefix("<0x").and_then(|token| token.strip_suffix('>'));
            let byte = digits.filter(|digits| digits.len() == 2);
            match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into_bytes(),
            }
        }
    }
}

/// GPT-2 writes a byte as itself where that is visible, and else as one of the characters from
/// U+0100 on.
fn byte_level_characters() -> Vec<char> {
    let visible = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut hidden = (0x100..).filter_map(char::from_u32);
    (0..=u8::MAX)
        .map(|byte| match visible(&byte) {
            true => char::from(byte),
            false => hidden.next().unwrap_or(char::REPLACEMENT_CHARACTER),
        })
        .collect()
}

/// Bytes in GPT-2's alphabet.
pub fn byte_level_text(bytes: &[u8]) -> String {
    static CHARACTERS: LazyLock<Vec<char>> = LazyLock::new(byte_level_characters);
    bytes.iter().filter_map(|byte| CHARACTERS.get(usize::from(*byte))).collect()
}

pub(super) fn byte_level_alphabet() -> HashMap<char, u8> {
    byte_level_characters().into_iter().zip(0..=u8::MAX).collect()
}

impl Tokenizer for HuggingFaceTokenizer {
    fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        if let Some(own) = &self.own
            && let Some(ids) = own.encode(text)?
        {
            return Ok(ids);
        }
        let encoding = self.inner.encode_fast(text, false).map_err(foreign)?;
        Ok(encoding.get_ids().to_vec())
    }

    fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        self.bytes.get(id as usize)?.clone()
    }

    fn beginning_of_text(&self) -> Option<u32> {
        self.beginning_of_text
    }

    fn end_of_text(&self) -> Option<u32> {
        self.end_of_text
    }

    fn cut(&self, text: &str) -> Option<usize> {
        self.own.as_ref()?.cut(text)
    }

    fn saved(&self) -> SavedTokenizer {
        SavedTokenizer::HuggingFace { json: self.json.clone(), end_of_text: self.end_of_text }
    }
}
