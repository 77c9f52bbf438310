use serde_json::Value;
use std::time::Duration;
use ureq::Agent;
use ureq::http::{Response, StatusCode, Uri};

use crate::data::is_loopback;

/// What answers too slowly counts as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Characters of a server's message that are repeated.
const MESSAGE: usize = 200;

/// Speaks MLflow's tracking interface, version 2.0 (<https://mlflow.org/docs/latest/rest-api.html>).
pub(super) struct Client {
    agent: Agent,
    root: String,
    /// For a request and its answer.
    pub(super) timeout: Duration,
}

/// Why a request came to nothing.
pub(super) enum Failure {
    /// The server says that there is no such thing.
    Missing,
    /// The server will not have it, now or later.
    Refused(String),
    /// Another time it may work.
    Unreachable(String),
}

impl Failure {
    pub(super) fn reason(self) -> String {
        match self {
            Self::Missing => "the server knows nothing of the run".into(),
            Self::Refused(reason) | Self::Unreachable(reason) => reason,
        }
    }
}

impl Client {
    pub(super) fn new(uri: &str, timeout: Duration) -> Self {
        let parsed = uri.parse::<Uri>().unwrap_or_default();
        let mut config = Agent::config_builder()
            // Statuses are told apart here.
            .http_status_as_error(false)
            .https_only(parsed.scheme_str() == Some("https"))
            .user_agent(concat!("emberlm/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT));
        if is_loopback(parsed.host().unwrap_or_default()) {
            config = config.proxy(None);
        }
        let root = format!("{}/api/2.0/mlflow", uri.trim_end_matches('/'));
        Self { agent: config.build().new_agent(), root, timeout }
    }

    pub(super) fn get(&self, path: &str, key: &str, value: &str) -> Result<Value, Failure> {
        let request = self.agent.get(format!("{}/{path}", self.root)).query(key, value);
        answer(request.config().timeout_global(Some(self.timeout)).build().call())
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.agent.post(format!("{}/{path}", self.root));
        let request = request.config().timeout_global(Some(self.timeout)).build();
        answer(request.content_type("application/json").send(body.to_string()))
    }
}

fn answer(sent: Result<Response<ureq::Body>, ureq::Error>) -> Result<Value, Failure> {
    let unreachable = |error: ureq::Error| Failure::Unreachable(one_line(&error.to_string()));
    let mut response = sent.map_err(unreachable)?;
    let status = response.status();
    let text = response.body_mut().read_to_string().map_err(unreachable)?;
    let found = serde_json::from_str::<Value>(&text);
    if status.is_success() {
        let foreign = |_| Failure::Unreachable("the server does not answer as MLflow does".into());
        return found.map_err(foreign);
    }
    let found = found.unwrap_or_default();
    let code = found["error_code"].as_str();
    if code == Some("RESOURCE_DOES_NOT_EXIST") {
        return Err(Failure::Missing);
    }
    let message = found["message"].as_str().or(code).unwrap_or_default();
    let message: String = one_line(message).chars().take(MESSAGE).collect();
    let separator = if message.is_empty() { "" } else { ": " };
    let reason = format!("the server answers {status}{separator}{message}");
    let waits = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    // Without a code it is not MLflow that answers, but what stands before it.
    if status.is_server_error() || waits.contains(&status) || code.is_none() {
        return Err(Failure::Unreachable(reason));
    }
    Err(Failure::Refused(reason))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
