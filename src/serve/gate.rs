use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::http::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use subtle::ConstantTimeEq;

use super::error::ApiError;
use super::site::Site;

/// What anybody may see: that the server is there, and the page that asks for the key.
const OPEN: [&str; 2] = ["/", "/health"];

/// The bearer token that every request must have, as its hash: comparing hashes, and those in
/// constant time, tells nothing of the token nor of its length.
#[derive(Clone, Copy)]
pub struct Key([u8; 32]);

/// An empty key would let everybody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key is empty; give one, or leave it out")]
pub struct EmptyKey;

impl FromStr for Key {
    type Err = EmptyKey;

    fn from_str(token: &str) -> Result<Self, EmptyKey> {
        match token {
            "" => Err(EmptyKey),
            _ => Ok(Self(Sha256::digest(token).into())),
        }
    }
}

/// Says nothing of the token, and so can be logged.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let header = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let Some((scheme, token)) = header.and_then(|header| header.split_at_checked(7)) else {
            let message = "this server needs a key, as Authorization: Bearer KEY";
            return Err(ApiError::key(message));
        };
        let Self(given) = Self(Sha256::digest(token).into());
        if scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(given.ct_eq(&self.0)) {
            return Ok(());
        }
        Err(ApiError::key("this is not the key of this server"))
    }
}

/// What every request goes through: it is counted, timed, and let in or not.
pub(super) async fn pass(
    State(site): State<Arc<Site>>,
    mut request: Request,
    next: Next,
) -> Response {
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or("other", MatchedPath::as_str).to_string();
    // It lives as long as the answer, which takes its part.
    let timer = Arc::new(site.metrics.timer(&route));
    request.extensions_mut().insert(timer.clone());
    let is_open = OPEN.contains(&request.uri().path());
    let refused = match &site.key {
        Some(key) if !is_open => key.check(request.headers()).err(),
        _ => None,
    };
    let mut response = match refused {
        Some(error) => {
            let challenge = [(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
            (challenge, error).into_response()
        }
        None => next.run(request).await,
    };
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    site.metrics.count(&route, response.status().as_u16());
    response
}
