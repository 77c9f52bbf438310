use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, Method, Uri};
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};
use std::sync::Arc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::answer::Answer;
use super::body::{self, Fields};
use super::error::{ApiError, SHOULD_RETRY};
use super::metrics::Timer;
use super::prompt::{Asked, Form};
use super::site::Site;
use super::{gate, info, page};

/// All that there is. `origins` are those whose pages may ask, `*` being any.
pub(super) fn router(site: Arc<Site>, origins: Vec<HeaderValue>) -> Router {
    let router = Router::new()
        .route("/", get(page::playground))
        .route("/health", get(info::health))
        .route("/metrics", get(info::metrics))
        .route("/v1/models", get(info::models))
        // A run in a folder of runs has a name with a slash.
        .route("/v1/models/{*name}", get(info::model))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/api/models/{name}", get(info::details))
        .route("/api/models/{name}/losses", get(info::losses))
        .fallback(async |uri: Uri| ApiError::no_route(uri.path()))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            ApiError::method(method.as_str(), uri.path())
        })
        .layer(middleware::from_fn_with_state(site.clone(), gate::pass))
        .with_state(site);
    if origins.is_empty() {
        return router;
    }
    let origins = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(origins),
    };
    let cors = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        // Each client has some of its own, as OpenAI's says what it is.
        .allow_headers(AllowHeaders::mirror_request())
        // What else a page may see of an answer: when it may ask again, and whether.
        .expose_headers([RETRY_AFTER, SHOULD_RETRY]);
    router.layer(cors)
}

async fn completions(
    State(site): State<Arc<Site>>,
    request: Request,
) -> Result<Response, ApiError> {
    generate(&site, Form::Completion, request).await
}

async fn chat_completions(
    State(site): State<Arc<Site>>,
    request: Request,
) -> Result<Response, ApiError> {
    generate(&site, Form::Chat, request).await
}

async fn generate(site: &Site, form: Form, request: Request) -> Result<Response, ApiError> {
    let deadline = Instant::now() + site.timeout;
    let timer = request.extensions().get::<Arc<Timer>>().cloned();
    let (head, body) = request.into_parts();
    let bytes = timeout_at(deadline, body::read(&head.headers, body, site.max_body)).await;
    let fields = Fields::parse(&bytes.map_err(|_| ApiError::slow_body())??)?;
    let served = site.find(fields.model.as_deref())?;
    if site.is_stopping() {
        return Err(ApiError::stopping());
    }
    let reader = served.clone();
    // A long text takes a while.
    let asked = spawn_blocking(move || (Asked::new(&reader, form, &fields), fields)).await;
    let (asked, fields) = asked.map_err(|_| ApiError::stopped())?;
    let asked = asked?;
    let prompt_tokens = asked.prompt_tokens;
    let events = served.engine.order(asked.requests).map_err(|_| ApiError::full())?;
    served.metrics.prompt.inc_by(prompt_tokens as u64);
    let answer = Answer::new(served, form, events, asked.echoes, prompt_tokens, &fields)
        .until(deadline, site.timeout)
        .timed(timer);
    if fields.streams() { answer.stream().await } else { answer.whole().await }
}
