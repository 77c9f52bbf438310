use axum::http::HeaderName;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::{IntoResponse, Response};

use crate::report::LOOK;

const PAGE: &str = include_str!("playground/page.html");
const STYLE: &str = include_str!("playground/style.css");
const SCRIPT: &str = include_str!("playground/script.js");

/// A page to try a model on. It loads nothing, and asks nothing but this server.
pub(super) async fn playground() -> Response {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers: [(HeaderName, String); 4] = [
        (CONTENT_TYPE, "text/html; charset=utf-8".into()),
        (CONTENT_SECURITY_POLICY, policy),
        (REFERRER_POLICY, "no-referrer".into()),
        (CACHE_CONTROL, "no-store".into()),
    ];
    // The nonce first, and so nowhere but where the page has it.
    let style = format!("{LOOK}{STYLE}");
    let page = PAGE.replace("NONCE", &nonce).replace("STYLE", &style).replace("SCRIPT", SCRIPT);
    (headers, page).into_response()
}
