use axum::response::sse::{Event as ServerSentEvent, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout_at};

use super::body::Fields;
use super::engine::Event;
use super::error::{ApiError, json_response};
use super::logprobs::{ScoredChoice, of_chat, of_completion};
use super::metrics::Timer;
use super::prompt::Form;
use super::site::Served;
use crate::generate::Finish;

/// The answer to a request whose texts are being written. Those are forgotten where it is dropped,
/// as it is when the client goes away.
pub(super) struct Answer {
    served: Arc<Served>,
    form: Form,
    id: String,
    created: u64,
    events: UnboundedReceiver<Event>,
    choices: Vec<Choice>,
    /// Texts that are not whole.
    left: usize,
    prompt_tokens: usize,
    completion_tokens: usize,
    scores: bool,
    includes_usage: bool,
    deadline: Instant,
    timeout: Duration,
    _timer: Option<Arc<Timer>>,
}

/// One of the texts.
struct Choice {
    /// What stands before it.
    echo: String,
    /// Characters up to the next token.
    offset: usize,
}

/// What has come of one of the texts.
struct Part {
    index: usize,
    text: String,
    scored: Option<ScoredChoice>,
    finish: Option<&'static str>,
}

impl Answer {
    pub(super) fn new(
        served: Arc<Served>,
        form: Form,
        events: UnboundedReceiver<Event>,
        echoes: Vec<String>,
        prompt_tokens: usize,
        fields: &Fields,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let prefix = match form {
            Form::Completion => "cmpl",
            Form::Chat => "chatcmpl",
        };
        let choice = |echo: String| Choice { offset: echo.chars().count(), echo };
        Self {
            served,
            form,
            id: format!("{prefix}-{:032x}", rand::random::<u128>()),
            created: now.as_secs(),
            events,
            left: echoes.len(),
            choices: echoes.into_iter().map(choice).collect(),
            prompt_tokens,
            completion_tokens: 0,
            scores: fields.alternatives().is_some(),
            includes_usage: fields.includes_usage(),
            deadline: Instant::now(),
            timeout: Duration::ZERO,
            _timer: None,
        }
    }

    /// It is whole by then or given up.
    pub(super) fn until(self, deadline: Instant, timeout: Duration) -> Self {
        Self { deadline, timeout, ..self }
    }

    /// Measured for as long as it takes.
    pub(super) fn timed(self, timer: Option<Arc<Timer>>) -> Self {
        Self { _timer: timer, ..self }
    }

    /// What has come next; none when all texts are whole.
    async fn next(&mut self) -> Result<Option<Part>, ApiError> {
        if self.left == 0 {
            return Ok(None);
        }
        let event = timeout_at(self.deadline, self.events.recv()).await;
        let event = event.map_err(|_| ApiError::timeout(self.timeout.as_secs_f64()))?;
        let (index, progress) = event.ok_or_else(ApiError::stopped)?;
        let progress = progress.map_err(|error| ApiError::bad(error.to_string()))?;
        self.completion_tokens += usize::from(progress.choice.is_some());
        self.left -= usize::from(progress.finish.is_some());
        // A token that says that the text ends is no part of it.
        let is_end = matches!(progress.finish, Some(Finish::StopToken(_)));
        let choice = progress.choice.filter(|_| self.scores && !is_end);
        let tokenizer = self.served.tokenizer.as_ref();
        Ok(Some(Part {
            index,
            text: progress.text,
            scored: choice.and_then(|choice| ScoredChoice::new(&choice, tokenizer)),
            finish: progress.finish.as_ref().map(Finish::name),
        }))
    }

    /// When all texts are whole.
    ///
    /// # Errors
    /// Texts that take too long, or that the engine refuses.
    pub(super) async fn whole(mut self) -> Result<Response, ApiError> {
        let echo = |choice: &Choice| (choice.echo.clone(), Vec::new(), None);
        let mut texts: Vec<(String, Vec<ScoredChoice>, Option<&str>)> =
            self.choices.iter().map(echo).collect();
        while let Some(part) = self.next().await? {
            let Some((text, scored, finish)) = texts.get_mut(part.index) else { continue };
            *text += &part.text;
            scored.extend(part.scored);
            *finish = part.finish;
        }
        let mut choices = Vec::new();
        for (index, (text, scored, finish)) in texts.into_iter().enumerate() {
            let logprobs = self.logprobs(index, &scored);
            let (key, content) = match self.form {
                Form::Completion => ("text", text.into()),
                Form::Chat => {
                    let message = json!({ "role": "assistant", "content": text, "refusal": null });
                    ("message", message)
                }
            };
            choices.push(json!({
                "index": index, key: content, "logprobs": logprobs, "finish_reason": finish,
            }));
        }
        let mut document = self.document("", choices);
        document["usage"] = self.usage();
        Ok(json_response(&document))
    }

    /// As they come. What is wrong before the first token has its own status; later it is an
    /// event.
    ///
    /// # Errors
    /// A first token that takes too long, or texts that the engine refuses.
    pub(super) async fn stream(mut self) -> Result<Response, ApiError> {
        let mut ready = self.opening();
        if let Some(part) = self.next().await? {
            ready.extend(self.chunks(part));
        }
        let state = (self, ready, false);
        let events = stream::unfold(state, async |(mut answer, mut ready, mut ended)| {
            while ready.is_empty() {
                if ended {
                    return None;
                }
                match answer.next().await {
                    Ok(Some(part)) => ready.extend(answer.chunks(part)),
                    Ok(None) => {
                        ready.extend(answer.closing());
                        ended = true;
                    }
                    Err(error) => {
                        ready.push_back(error.document().to_string());
                        ended = true;
                    }
                }
            }
            let event = ServerSentEvent::default().data(ready.pop_front()?);
            Some((Ok::<_, Infallible>(event), (answer, ready, ended)))
        });
        Ok(Sse::new(Box::pin(events)).into_response())
    }

    /// What comes before the first token.
    fn opening(&self) -> VecDeque<String> {
        let mut ready = VecDeque::new();
        for (index, choice) in self.choices.iter().enumerate() {
            match self.form {
                Form::Completion if choice.echo.is_empty() => {}
                Form::Completion => {
                    ready.push_back(self.chunk(index, choice.echo.clone().into(), None, None));
                }
                Form::Chat => {
                    let delta = json!({ "role": "assistant", "content": "", "refusal": null });
                    ready.push_back(self.chunk(index, delta, None, None));
                }
            }
        }
        ready
    }

    fn chunks(&mut self, part: Part) -> Vec<String> {
        let Part { index, text, scored, finish } = part;
        let has_scores = scored.is_some();
        let logprobs = has_scores.then(|| self.logprobs(index, scored.as_slice()));
        let mut chunks = Vec::new();
        match self.form {
            // Text that may still become a stop string waits.
            _ if text.is_empty() && !has_scores && finish.is_none() => {}
            Form::Completion => chunks.push(self.chunk(index, text.into(), logprobs, finish)),
            Form::Chat => {
                if !text.is_empty() || has_scores {
                    let delta = json!({ "content": text });
                    chunks.push(self.chunk(index, delta, logprobs, None));
                }
                if finish.is_some() {
                    chunks.push(self.chunk(index, json!({}), None, finish));
                }
            }
        }
        chunks
    }

    fn closing(&self) -> Vec<String> {
        let mut chunks = Vec::new();
        if self.includes_usage {
            let mut document = self.document(".chunk", Vec::new());
            document["usage"] = self.usage();
            chunks.push(document.to_string());
        }
        chunks.push("[DONE]".into());
        chunks
    }

    fn chunk(
        &self,
        index: usize,
        content: Value,
        logprobs: Option<Value>,
        finish: Option<&str>,
    ) -> String {
        let key = match self.form {
            Form::Completion => "text",
            Form::Chat => "delta",
        };
        let choice =
            json!({ "index": index, key: content, "logprobs": logprobs, "finish_reason": finish });
        let mut document = self.document(".chunk", vec![choice]);
        if self.includes_usage {
            document["usage"] = Value::Null;
        }
        document.to_string()
    }

    fn logprobs(&mut self, index: usize, scored: &[ScoredChoice]) -> Value {
        let offset = self.choices.get_mut(index).map(|choice| &mut choice.offset);
        match (self.scores, self.form, offset) {
            (true, Form::Completion, Some(offset)) => of_completion(scored, offset),
            (true, Form::Chat, _) => of_chat(scored),
            _ => Value::Null,
        }
    }

    /// Only chats name their chunks otherwise than what is whole.
    fn document(&self, chunk: &str, choices: Vec<Value>) -> Value {
        let object = match self.form {
            Form::Completion => "text_completion".into(),
            Form::Chat => format!("chat.completion{chunk}"),
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.served.run.name(),
            "choices": choices,
        })
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        })
    }
}
