//! Our tokenizers as `tokenizer.json` of Hugging Face's.

use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

use super::huggingface::{byte_level_json, byte_level_text, tokenizer_json};
use super::tiktoken::last_merge;
use super::{CharacterTokenizer, HuggingFaceTokenizer, SavedTokenizer, Tokenizer, TokenizerError};

/// What the end of a text is called where a token is a byte.
const BYTES_END: &str = "<|eos|>";

/// A tokenizer in Hugging Face's words.
#[derive(Debug)]
pub struct HuggingFaceFiles {
    /// The text of `tokenizer.json`.
    pub json: String,
    beginning: Option<(String, u32)>,
    end: Option<(String, u32)>,
    /// Other tokens that have a name in their files.
    named: Vec<(&'static str, &'static str)>,
}

/// What our own tokenizers call them.
const NAMED: [(&str, &str); 3] =
    [("bos_token", "<|bos|>"), ("pad_token", "<|pad|>"), ("unk_token", "<|unk|>")];

impl HuggingFaceFiles {
    /// The id of the token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.beginning.as_ref().map(|(_, id)| *id)
    }

    /// The id of the token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.end.as_ref().map(|(_, id)| *id)
    }

    /// `tokenizer_config.json`
    pub fn settings(&self, context_length: Option<usize>) -> Value {
        let mut settings = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
        });
        if let Some(context_length) = context_length {
            settings["model_max_length"] = json!(context_length);
        }
        for (key, token) in &self.named {
            settings[*key] = json!(token);
        }
        for (key, token) in [("bos_token", &self.beginning), ("eos_token", &self.end)] {
            if let Some((text, _)) = token {
                settings[key] = json!(text);
            }
        }
        settings
    }
}

/// The same tokenizer as `tokenizer.json`, which gives the same ids for every text; but unlike
/// ours it takes the text of a special token for that token.
///
/// # Errors
/// [`TokenizerError::NoHuggingFace`] where it cannot be said in their words.
pub fn to_hugging_face(saved: &SavedTokenizer) -> Result<HuggingFaceFiles, TokenizerError> {
    let no = |reason: &str| Err(TokenizerError::NoHuggingFace { reason: reason.into() });
    match saved {
        SavedTokenizer::HuggingFace { json, end_of_text } => {
            let tokenizer = HuggingFaceTokenizer::new(json, *end_of_text)?;
            let token = |id: Option<u32>| {
                let id = id?;
                Some((String::from_utf8(tokenizer.token_bytes(id)?).ok()?, id))
            };
            let (beginning, end) = (token(tokenizer.beginning_of_text()), token(*end_of_text));
            let mut named = NAMED.to_vec();
            named.retain(|(_, text)| tokenizer.id(text).is_some());
            Ok(HuggingFaceFiles { json: json.clone(), beginning, end, named })
        }
        SavedTokenizer::Character { characters } => {
            let tokenizer = CharacterTokenizer::from_characters(characters)?;
            let vocabulary: BTreeMap<String, usize> =
                characters.chars().map(String::from).zip(0..tokenizer.vocab_size()).collect();
            // Its unknown token is not in the vocabulary, so unknown characters are an error.
            let model = json!({"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"});
            let each = json!({
                "type": "Split",
                "pattern": {"Regex": "[\\s\\S]"},
                "behavior": "Isolated",
                "invert": false,
            });
            let json = tokenizer_json(&[], &each, &json!({"type": "Fuse"}), &model);
            Ok(HuggingFaceFiles { json, beginning: None, end: None, named: Vec::new() })
        }
        SavedTokenizer::Byte {} => {
            let tokenizer = saved.restore()?;
            let end = tokenizer.vocab_size() as u32 - 1;
            let tokens: Vec<Vec<u8>> =
                (0..end).filter_map(|id| tokenizer.token_bytes(id)).collect();
            let json =
                byte_level_json(&vocabulary(&tokens), &written(&tokens, &[]), &[(BYTES_END, end)]);
            let json = json.replace("\"use_regex\":true", "\"use_regex\":false");
            Ok(HuggingFaceFiles {
                json,
                beginning: None,
                end: Some((BYTES_END.into(), end)),
                named: Vec::new(),
            })
        }
        SavedTokenizer::Tiktoken { encoding }
            if ["gpt2", "r50k_base"].contains(&encoding.as_str()) =>
        {
            let tokenizer = saved.restore()?;
            let end = ("<|endoftext|>", tokenizer.end_of_text().unwrap_or_default());
            let tokens: Vec<Vec<u8>> =
                (0..end.1).filter_map(|id| tokenizer.token_bytes(id)).collect();
            let merges = merges_of_ranks(&tokens);
            let json = byte_level_json(&vocabulary(&tokens), &written(&tokens, &merges), &[end]);
            Ok(HuggingFaceFiles {
                json,
                beginning: None,
                end: Some((end.0.into(), end.1)),
                named: Vec::new(),
            })
        }
        SavedTokenizer::Tiktoken { encoding } => {
            no(&format!("tiktoken's {encoding} splits words unlike any tokenizer that is exported"))
        }
        SavedTokenizer::Merges { merges } => {
            let tokenizer = saved.restore()?;
            let first = tokenizer.vocab_size() as u32 - 3;
            let tokens: Vec<Vec<u8>> =
                (0..first).filter_map(|id| tokenizer.token_bytes(id)).collect();
            let vocabulary = vocabulary(&tokens);
            if vocabulary.len() != tokens.len() {
                return no("two of its tokens stand for the same bytes");
            }
            let special = [("<s>", first), ("</s>", first + 1), ("<pad>", first + 2)];
            let json = byte_level_json(&vocabulary, &written(&tokens, merges), &special);
            // The whole text is one word.
            let json = json.replace("\"use_regex\":true", "\"use_regex\":false");
            let token = |(text, id): (&str, u32)| Some((text.to_string(), id));
            Ok(HuggingFaceFiles {
                json,
                beginning: token(special[0]),
                end: token(special[1]),
                named: Vec::new(),
            })
        }
        SavedTokenizer::Ids { .. } => no("the model has none"),
    }
}

/// Bytes as GPT-2 writes them.
fn vocabulary(tokens: &[Vec<u8>]) -> BTreeMap<String, u32> {
    tokens.iter().map(|token| byte_level_text(token)).zip(0..).collect()
}

fn written(tokens: &[Vec<u8>], merges: &[(u32, u32)]) -> Vec<(String, String)> {
    let token = |id: u32| tokens.get(id as usize).map_or("".into(), |t| byte_level_text(t));
    merges.iter().map(|(left, right)| (token(*left), token(*right))).collect()
}

/// The merges that made tiktoken's tokens.
fn merges_of_ranks(tokens: &[Vec<u8>]) -> Vec<(u32, u32)> {
    let ids: HashMap<&[u8], u32> = tokens.iter().map(Vec::as_slice).zip(0..).collect();
    let merge = |(rank, token): (u32, &Vec<u8>)| {
        let (left, right) = last_merge(token, rank, &ids)?;
        Some((*ids.get(left)?, *ids.get(right)?))
    };
    (0..).zip(tokens).filter_map(merge).collect()
}
