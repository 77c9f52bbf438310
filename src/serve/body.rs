use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::error::ApiError;
use crate::generate::{Penalties, Sampling};

/// Bytes beyond the limit that are read and thrown away, so that a client that sends before it
/// listens hears why.
const DRAINED: usize = 8 << 20;
/// Strings that may end a text, and bytes of each.
const STOPS: usize = 16;
const STOP_BYTES: usize = 1024;
/// Likeliest tokens that may be asked for at each place.
const ALTERNATIVES: usize = 20;

/// What a client may say to either of the two routes that generate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fields {
    pub(super) model: Option<String>,
    pub(super) prompt: Option<Prompt>,
    pub(super) messages: Option<Vec<Message>>,
    pub(super) echo: Option<bool>,
    logprobs: Option<Logprobs>,
    top_logprobs: Option<usize>,
    pub(super) n: Option<usize>,
    best_of: Option<usize>,
    stop: Option<Stop>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    pub(super) seed: Option<i64>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    // Not of OpenAI's interface.
    top_k: Option<usize>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    pub(super) overflow: Option<Policy>,
    // Refused where they ask for something.
    suffix: Option<String>,
    logit_bias: Option<Map<String, Value>>,
    tools: Option<Vec<IgnoredAny>>,
    tool_choice: Option<Value>,
    response_format: Option<ResponseFormat>,
    // These change nothing of an answer.
    #[serde(rename = "user")]
    _user: Option<IgnoredAny>,
    #[serde(rename = "parallel_tool_calls")]
    _parallel_tool_calls: Option<IgnoredAny>,
    #[serde(rename = "metadata")]
    _metadata: Option<IgnoredAny>,
    #[serde(rename = "store")]
    _store: Option<IgnoredAny>,
    #[serde(rename = "service_tier")]
    _service_tier: Option<IgnoredAny>,
    #[serde(rename = "safety_identifier")]
    _safety_identifier: Option<IgnoredAny>,
    #[serde(rename = "prompt_cache_key")]
    _prompt_cache_key: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string, strings, token ids, or lists of token ids")]
pub(super) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

#[derive(Debug, Deserialize)]
pub(super) struct Message {
    pub(super) role: Role,
    pub(super) content: Option<Content>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    #[serde(alias = "developer")]
    System,
    User,
    Assistant,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string, or a list of parts of type text")]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
pub(super) struct Part {
    #[serde(rename = "type")]
    _kind: TextKind,
    text: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TextKind {
    Text,
}

impl Content {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => parts.iter().map(|part| &part.text[..]).collect(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number or a boolean")]
enum Logprobs {
    Wanted(bool),
    Count(usize),
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum Stop {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
}

/// What becomes of a text whose context is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Policy {
    Stop,
    Slide,
}

/// The bytes of a body.
///
/// # Errors
/// One that is too large, breaks off, or is no JSON by its header.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    most: usize,
) -> Result<Vec<u8>, ApiError> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    // A page of another site cannot send this unless it is allowed to.
    if !media_type.trim().eq_ignore_ascii_case("application/json") {
        return Err(ApiError::no_json());
    }
    let (mut bytes, mut size) = (Vec::new(), 0);
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| ApiError::bad("the body broke off"))?;
        size += part.len();
        match size {
            size if size <= most => bytes.extend_from_slice(&part),
            size if size > most.saturating_add(DRAINED) => break,
            _ => bytes.clear(),
        }
    }
    if size > most { Err(ApiError::large_body(most)) } else { Ok(bytes) }
}

impl Fields {
    /// # Errors
    /// What is no JSON, a field that is unknown or of another type, or one that asks for what
    /// there is not.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(ApiError::bad("the body must be a JSON object"));
        }
        let mut document = serde_json::Deserializer::from_slice(bytes);
        let fields: Self = serde_path_to_error::deserialize(&mut document).map_err(|error| {
            let path = error.path().to_string();
            let wrong = ApiError::bad(error.into_inner().to_string());
            // A path that is not known is written so.
            if [".", "?"].contains(&&path[..]) { wrong } else { wrong.of(path) }
        })?;
        document.end().map_err(|error| ApiError::bad(error.to_string()))?;
        fields.check()?;
        Ok(fields)
    }

    fn check(&self) -> Result<(), ApiError> {
        let not = |asks: bool, field: &str| match asks {
            true => Err(ApiError::bad(format!("`{field}` is not supported here")).of(field)),
            false => Ok(()),
        };
        not(self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()), "suffix")?;
        not(self.logit_bias.as_ref().is_some_and(|bias| !bias.is_empty()), "logit_bias")?;
        not(self.tools.as_ref().is_some_and(|tools| !tools.is_empty()), "tools")?;
        // Which without tools is all the same.
        let is_free = |choice: &Value| *choice == "none" || *choice == "auto";
        not(!self.tool_choice.as_ref().is_none_or(is_free), "tool_choice")?;
        let is_text = |format: &ResponseFormat| format.kind == "text";
        not(!self.response_format.as_ref().is_none_or(is_text), "response_format")?;
        not(self.best_of.is_some_and(|best_of| best_of != self.texts()), "best_of")?;
        if self.n == Some(0) {
            return Err(ApiError::bad("`n` must be at least 1").of("n"));
        }
        let stops = self.stops();
        if stops.len() > STOPS || stops.iter().any(|stop| stop.len() > STOP_BYTES) {
            let message = format!("at most {STOPS} stop strings of {STOP_BYTES} bytes are taken");
            return Err(ApiError::bad(message).of("stop"));
        }
        let of_completion = match self.logprobs {
            Some(Logprobs::Count(count)) => Some(count),
            Some(Logprobs::Wanted(_)) | None => None,
        };
        for (count, field) in [(of_completion, "logprobs"), (self.top_logprobs, "top_logprobs")] {
            if count.is_some_and(|count| count > ALTERNATIVES) {
                let message = format!("at most {ALTERNATIVES} of the likeliest tokens are listed");
                return Err(ApiError::bad(message).of(field));
            }
        }
        let has_logprobs = matches!(self.logprobs, Some(Logprobs::Wanted(true)));
        if self.top_logprobs.is_some_and(|count| count > 0) && !has_logprobs {
            let message = "`top_logprobs` needs `logprobs` to be true; give both";
            return Err(ApiError::bad(message).of("top_logprobs"));
        }
        Ok(())
    }

    /// Texts for each prompt.
    pub(super) fn texts(&self) -> usize {
        self.n.unwrap_or(1)
    }

    /// The likeliest tokens that are to be listed at each place, where any are.
    pub(super) fn alternatives(&self) -> Option<usize> {
        match self.logprobs {
            Some(Logprobs::Count(count)) => Some(count),
            Some(Logprobs::Wanted(true)) => Some(self.top_logprobs.unwrap_or_default()),
            Some(Logprobs::Wanted(false)) | None => None,
        }
    }

    pub(super) fn stops(&self) -> Vec<String> {
        match &self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop.clone()],
            Some(Stop::Several(stops)) => stops.clone(),
        }
    }

    /// Tokens that a text may have, and the field that says so.
    pub(super) fn most_tokens(&self) -> Option<(usize, &'static str)> {
        let newer = self.max_completion_tokens.map(|most| (most, "max_completion_tokens"));
        newer.or(self.max_tokens.map(|most| (most, "max_tokens")))
    }

    pub(super) fn streams(&self) -> bool {
        self.stream.unwrap_or_default()
    }

    pub(super) fn includes_usage(&self) -> bool {
        let options = self.stream_options.as_ref();
        options.and_then(|options| options.include_usage).unwrap_or_default()
    }

    /// # Errors
    /// A setting that is out of range.
    pub(super) fn sampling(&self) -> Result<(Sampling, Penalties), ApiError> {
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(1.0),
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
        };
        let penalties = Penalties {
            repetition: self.repetition_penalty.unwrap_or(1.0),
            frequency: self.frequency_penalty.unwrap_or_default(),
            presence: self.presence_penalty.unwrap_or_default(),
        };
        let valid = sampling.validate().and_then(|()| penalties.validate());
        valid.map_err(|error| {
            // As the client calls it.
            let field = error.setting().replace('-', "_");
            ApiError::bad(error.to_string().replacen(error.setting(), &field, 1)).of(field)
        })?;
        Ok((sampling, penalties))
    }
}
