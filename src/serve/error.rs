use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An answer that says what is wrong, in OpenAI's form.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    /// The field of the body that is wrong.
    param: Option<String>,
    code: Option<&'static str>,
}

/// Seconds after which a server that is full may be asked again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");
/// Whether OpenAI's clients ask again, as they do after any error of a server's.
pub(super) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    /// What was asked for makes no sense.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The field of the body that it is about.
    pub(super) fn of(self, param: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    fn coded(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub(super) fn long_prompt(message: impl Into<String>) -> Self {
        Self::bad(message).coded("context_length_exceeded")
    }

    pub(super) fn key(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message).coded("invalid_api_key")
    }

    pub(super) fn no_model(name: &str, known: &[&str]) -> Self {
        let known = known.join(", ");
        let message = format!("there is no model `{name}`; there are {known}");
        Self::new(StatusCode::NOT_FOUND, message).of("model").coded("model_not_found")
    }

    pub(super) fn which_model(known: &[&str]) -> Self {
        let known = known.join(", ");
        Self::bad(format!("`model` is missing; there are {known}")).of("model")
    }

    pub(super) fn no_route(path: &str) -> Self {
        let message = format!("there is nothing at {path}; see GET /v1/models");
        Self::new(StatusCode::NOT_FOUND, message).coded("unknown_url")
    }

    pub(super) fn method(method: &str, path: &str) -> Self {
        let message = format!("{path} is not for {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, message).coded("method_not_supported")
    }

    pub(super) fn no_json() -> Self {
        let message = "the body must be JSON, with the header Content-Type: application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
    }

    pub(super) fn large_body(most: usize) -> Self {
        let message = format!("the body has more than the {most} bytes that are taken");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    pub(super) fn slow_body() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")
    }

    pub(super) fn full() -> Self {
        let message = "the queue is full; try again in a moment";
        Self::new(StatusCode::TOO_MANY_REQUESTS, message).coded("rate_limit_exceeded")
    }

    pub(super) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping")
    }

    pub(super) fn stopped() -> Self {
        let message = "the model has stopped; the server must be restarted";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(super) fn timeout(seconds: f64) -> Self {
        let message = format!("this took longer than {seconds} seconds; ask for less");
        Self::new(StatusCode::GATEWAY_TIMEOUT, message).coded("timeout")
    }

    pub(super) fn unreadable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// What the body of the answer is, and in a stream an event.
    pub(super) fn document(&self) -> Value {
        let Self { message, param, code, .. } = self;
        json!({ "error": { "message": message, "type": self.kind(), "param": param, "code": code } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = self.document().to_string();
        let mut response =
            (self.status, [(CONTENT_TYPE, "application/json")], body).into_response();
        let headers = response.headers_mut();
        if [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&self.status) {
            headers.insert(RETRY_AFTER, RETRY_SECONDS);
        }
        // What took too long takes as long again, and what has failed will not mend itself.
        if [StatusCode::GATEWAY_TIMEOUT, StatusCode::INTERNAL_SERVER_ERROR].contains(&self.status) {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }
}

/// JSON with the status 200.
pub(super) fn json_response(document: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], document.to_string()).into_response()
}
