//! Style, script and icon: built in, each at an address that names its content, so that it may be kept for ever.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("assets/dashboard.css");
const SCRIPT: &str = include_str!("assets/dashboard.js");
const ICON: &str = include_str!("assets/icon.svg");

static FILES: LazyLock<[(String, &str, &str); 3]> = LazyLock::new(|| {
    [
        (named("dashboard", "css", STYLE), "text/css; charset=utf-8", STYLE),
        (named("dashboard", "js", SCRIPT), "text/javascript; charset=utf-8", SCRIPT),
        (named("icon", "svg", ICON), "image/svg+xml", ICON),
    ]
});

fn named(stem: &str, ending: &str, content: &str) -> String {
    let digest = Sha256::digest(content);
    let mut hash = String::new();
    for byte in digest.iter().take(6) {
        let _ = write!(hash, "{byte:02x}");
    }
    format!("{stem}.{hash}.{ending}")
}

pub(super) fn style() -> String {
    format!("/assets/{}", FILES[0].0)
}

pub(super) fn script() -> String {
    format!("/assets/{}", FILES[1].0)
}

pub(super) fn icon() -> String {
    format!("/assets/{}", FILES[2].0)
}

/// One of them.
pub(super) async fn asset(Path(name): Path<String>) -> Response {
    let Some((_, kind, content)) = FILES.iter().find(|(known, ..)| *known == name) else {
        return (StatusCode::NOT_FOUND, "no such file: reload the page\n").into_response();
    };
    let keep = HeaderValue::from_static("public, max-age=31536000, immutable");
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (header::CACHE_CONTROL, keep)], *content)
        .into_response()
}
