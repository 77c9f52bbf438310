use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;
use std::{fs, io};

use super::{HuggingFaceTokenizer, MergesTokenizer, SavedTokenizer, Tokenizer, TokenizerError};

/// templateGPT's byte-pair encoding, with its pickle rewritten as JSON.
#[derive(Deserialize)]
struct MergesFile {
    first_id: u32,
    merges: Vec<(u32, u32)>,
    special_tokens: SpecialTokens,
}

#[derive(Deserialize)]
struct SpecialTokens {
    bos: u32,
    eos: u32,
    pad: u32,
}

/// What files of tokenizers are called.
const FILES: [&str; 3] = ["tokenizer.json", "vocab.json", "merges.json"];

/// The tokenizer in a file, with what the files beside it say of the end of a text.
///
/// - a folder stands for the first of these that it has:
/// - `tokenizer.json` is Hugging Face's, or a saved one of our own;
/// - `vocab.json` is GPT-2's, with `merges.txt` beside it;
/// - `merges.json` is templateGPT's.
///
/// # Errors
/// A file that cannot be read, or is none of these.
pub fn read(path: &Path) -> Result<SavedTokenizer, TokenizerError> {
    if path.is_dir() {
        let found = FILES.map(|name| path.join(name)).into_iter().find(|path| path.is_file());
        let reason = || format!("the folder has none of {}", FILES.join(", "));
        return read(&found.ok_or_else(|| unreadable(path, reason()))?);
    }
    let text = read_text(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    match path.file_name().and_then(|name| name.to_str()) {
        Some("merges.json") => read_merges(&text),
        Some("vocab.json") => {
            let merges = read_text(&folder.join("merges.txt"))?;
            let mut special = special_tokens(folder)?;
            special.push("<|endoftext|>".into());
            let mut seen = HashSet::new();
            special.retain(|token| seen.insert(token.clone()));
            let tokenizer =
                HuggingFaceTokenizer::from_vocabulary_and_merges(&text, &merges, &special, None)?;
            with_end_of_text(tokenizer, folder)
        }
        _ if is_saved(&text) => {
            serde_json::from_str(&text).map_err(|error| unreadable(path, error))
        }
        _ => with_end_of_text(HuggingFaceTokenizer::new(&text, None)?, folder),
    }
}

/// Ours names its kind; Hugging Face's has a model.
fn is_saved(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "kind")]
        _kind: String,
    }
    serde_json::from_str::<Kind>(text).is_ok()
}

fn read_merges(text: &str) -> Result<SavedTokenizer, TokenizerError> {
    let wrong = |reason: String| TokenizerError::Unreadable { path: "merges.json".into(), reason };
    let file: MergesFile = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let tokenizer = MergesTokenizer::new(file.merges)?;
    let SpecialTokens { bos, eos, pad } = file.special_tokens;
    let end = tokenizer.vocab_size() as u32;
    if file.first_id != 256 || [bos, eos, pad] != [end - 3, end - 2, end - 1] {
        let expected = "merges must begin at id 256, and bos, eos and pad follow them";
        return Err(wrong(expected.into()));
    }
    Ok(tokenizer.saved())
}

/// The end of a text as `tokenizer_config.json` names it, or as one of the model's files numbers
/// it.
fn with_end_of_text(
    tokenizer: HuggingFaceTokenizer,
    folder: &Path,
) -> Result<SavedTokenizer, TokenizerError> {
    let mut end_of_text = beside(folder, "tokenizer_config.json")?
        .and_then(|settings| token_text(&settings["eos_token"]))
        .and_then(|token| tokenizer.id(&token));
    for name in ["generation_config.json", "config.json"] {
        if end_of_text.is_none()
            && let Some(settings) = beside(folder, name)?
        {
            let id = &settings["eos_token_id"];
            // Some models have several; the first is the one between documents.
            let id = id.get(0).unwrap_or(id).as_u64().and_then(|id| u32::try_from(id).ok());
            end_of_text = id.filter(|id| (*id as usize) < tokenizer.vocab_size());
        }
    }
    Ok(SavedTokenizer::HuggingFace { json: tokenizer.json().into(), end_of_text })
}

/// The special tokens that the files of a folder name.
fn special_tokens(folder: &Path) -> Result<Vec<String>, TokenizerError> {
    let mut tokens = Vec::new();
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        if let Some(settings) = beside(folder, name)? {
            let keys = ["bos_token", "eos_token", "unk_token", "pad_token"];
            tokens.extend(keys.into_iter().filter_map(|key| token_text(&settings[key])));
        }
    }
    Ok(tokens)
}

/// A token is its text, or an object that has it.
fn token_text(token: &Value) -> Option<String> {
    token.as_str().or_else(|| token["content"].as_str()).map(String::from)
}

/// A file that need not be there; but one that is there is read.
fn beside(folder: &Path, name: &str) -> Result<Option<Value>, TokenizerError> {
    let path = folder.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| unreadable(&path, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&path, error)),
    }
}

fn read_text(path: &Path) -> Result<String, TokenizerError> {
    fs::read_to_string(path).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: impl std::fmt::Display) -> TokenizerError {
    TokenizerError::Unreadable { path: path.display().to_string(), reason: error.to_string() }
}
