use serde_json::{Map, Value, json};

use crate::generate::Choice;
use crate::tokenizer::Tokenizer;

/// A token as bytes, and the natural logarithm of its probability.
#[derive(Debug)]
struct Scored {
    bytes: Vec<u8>,
    log_probability: f64,
}

/// A token that was chosen, beside those that were likeliest.
#[derive(Debug)]
pub(super) struct ScoredChoice {
    chosen: Scored,
    top: Vec<Scored>,
}

impl ScoredChoice {
    /// None where no log-probabilities were asked for.
    pub(super) fn new(choice: &Choice, tokenizer: &dyn Tokenizer) -> Option<Self> {
        let found = choice.log_probabilities.as_ref()?;
        let scored = |id: u32, log_probability: f64| Scored {
            bytes: tokenizer.decode_bytes(&[id]),
            log_probability,
        };
        let top = found.top.iter().map(|(id, log_probability)| scored(*id, *log_probability));
        Some(Self { chosen: scored(choice.token, found.token), top: top.collect() })
    }
}

impl Scored {
    /// As a key: bytes that are no text are told apart.
    fn name(&self) -> String {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => text.into(),
            Err(_) => {
                let bytes = self.bytes.iter().map(|byte| format!("\\x{byte:02x}"));
                std::iter::once("bytes:".into()).chain(bytes).collect()
            }
        }
    }

    fn of_chat(&self) -> Map<String, Value> {
        let mut entry = Map::new();
        entry.insert("token".into(), String::from_utf8_lossy(&self.bytes).into());
        entry.insert("logprob".into(), self.log_probability.into());
        entry.insert("bytes".into(), self.bytes.clone().into());
        entry
    }
}

/// As completions have them. `offset` counts the characters of the text before the tokens, and
/// then those after them too.
pub(super) fn of_completion(choices: &[ScoredChoice], offset: &mut usize) -> Value {
    let mut offsets = Vec::new();
    for choice in choices {
        offsets.push(*offset);
        let begins_character = |byte: &&u8| **byte & 0xC0 != 0x80;
        *offset += choice.chosen.bytes.iter().filter(begins_character).count();
    }
    let top = |choice: &ScoredChoice| -> Map<String, Value> {
        choice.top.iter().map(|it| (it.name(), it.log_probability.into())).collect()
    };
    let chosen = || choices.iter().map(|choice| &choice.chosen);
    json!({
        "tokens": chosen().map(Scored::name).collect::<Vec<_>>(),
        "token_logprobs": chosen().map(|it| it.log_probability).collect::<Vec<_>>(),
        "top_logprobs": choices.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

/// As chat completions have them.
pub(super) fn of_chat(choices: &[ScoredChoice]) -> Value {
    let entry = |choice: &ScoredChoice| {
        let mut entry = choice.chosen.of_chat();
        let top: Vec<_> = choice.top.iter().map(|it| Value::Object(it.of_chat())).collect();
        entry.insert("top_logprobs".into(), top.into());
        Value::Object(entry)
    };
    json!({ "content": choices.iter().map(entry).collect::<Vec<_>>(), "refusal": null })
}
