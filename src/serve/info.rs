use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::task::spawn_blocking;

use super::error::{ApiError, json_response};
use super::metrics::MEDIA_TYPE;
use super::site::{Served, Site};
use crate::data::Task;
use crate::report::{CurvePoint, Curves};

/// Points of a curve; more are no wider on a screen.
const POINTS: usize = 1000;

pub(super) async fn health(State(site): State<Arc<Site>>) -> Response {
    let has_failed = site.served.iter().any(|served| served.engine.has_ended());
    let (status, word) = match (site.is_stopping(), has_failed) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
        _ => (StatusCode::OK, "ok"),
    };
    let key_required = site.key.is_some();
    (status, json_response(&json!({ "status": word, "key_required": key_required })))
        .into_response()
}

pub(super) async fn metrics(State(site): State<Arc<Site>>) -> Response {
    ([(CONTENT_TYPE, MEDIA_TYPE)], site.metrics.text()).into_response()
}

pub(super) async fn models(State(site): State<Arc<Site>>) -> Response {
    let models: Vec<Value> = site.served.iter().map(|served| listed(served)).collect();
    json_response(&json!({ "object": "list", "data": models }))
}

pub(super) async fn model(
    State(site): State<Arc<Site>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    Ok(json_response(&listed(site.find(Some(&name))?.as_ref())))
}

/// As OpenAI lists a model.
fn listed(served: &Served) -> Value {
    json!({
        "id": served.run.name(),
        "object": "model",
        "created": served.created(),
        "owned_by": "emberlm",
    })
}

/// All that is known of a run.
pub(super) async fn details(
    State(site): State<Arc<Site>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let served = site.find(Some(&name))?;
    let config = served.run.config();
    let summary = served.run.history().summary_so_far();
    let summary = summary.map_err(|error| ApiError::unreadable(error.to_string()))?;
    let translates = matches!(served.task, Task::Translation { .. });
    Ok(json_response(&json!({
        "id": served.run.name(),
        "parameters": served.params,
        "backend": served.backend.name(),
        "weights": if served.int8 { "int8" } else { "f32" },
        "context_length": served.context_length,
        "vocab_size": served.vocab_size,
        "max_tokens": served.most_tokens,
        "chat_template": (!translates).then_some(served.template.name),
        "tokenizer": config.tokenizer,
        "model": config.model,
        "prompt": config.sample.prompt,
        // A run that was imported, or is being trained, has none.
        "summary": summary,
    })))
}

/// The curves of a run, `[step, loss]` a point.
pub(super) async fn losses(
    State(site): State<Arc<Site>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let history = site.find(Some(&name))?.run.history();
    let read = spawn_blocking(move || history.losses()).await;
    let points = read.map_err(|_| ApiError::stopped())?;
    let points = points.map_err(|error| ApiError::unreadable(error.to_string()))?;
    let curves = Curves::new(&points, None).thinned(POINTS);
    let pairs = |curve: &[CurvePoint]| -> Vec<(u64, f64)> {
        curve.iter().map(|point| (point.step, point.loss)).collect()
    };
    Ok(json_response(&json!({ "train": pairs(&curves.train), "valid": pairs(&curves.valid) })))
}
