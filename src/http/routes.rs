//! The routes and their answers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::time::timeout;

use super::dashboard::guard::{self, Hosts};
use super::metrics::Metrics;
use super::readiness::Ready;
use crate::latch::Latch;

/// Longest that an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// What Prometheus asks for; the text format before it has no place for units and infos.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that answers are made of.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) live: Latch,
    pub(super) ready: Ready,
    pub(super) metrics: Metrics,
}

/// All routes; GET and HEAD only, but for those of the dashboard's desk.
pub(super) fn router(answers: Answers, api: Router, dashboard: Router, hosts: Hosts) -> Router {
    let shown = Router::new().nest("/api/v1", api).merge(dashboard);
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .fallback(async || {
            (StatusCode::NOT_FOUND, "not found: there are /, /live, /ready, /metrics and /api/v1\n")
        })
        .with_state(Arc::new(answers))
        // probes and scrapers come by any name; what tells of the work does not
        .merge(shown.layer(middleware::from_fn_with_state(hosts, guard::known_host)))
        .layer(middleware::from_fn(in_time))
}

/// 200 while all tasks of the process run.
async fn live(State(answers): State<Arc<Answers>>) -> (StatusCode, String) {
    let standing = answers.live.standing();
    if standing.ready {
        (StatusCode::OK, "live\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not live: {}\n", standing.words))
    }
}

/// 200 when every component is ready, else 503 with what is missing.
async fn ready(State(answers): State<Arc<Answers>>, headers: HeaderMap) -> Response {
    let report = answers.ready.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if wants_json(&headers) {
        (status, Json(report)).into_response()
    } else {
        (status, report.to_string()).into_response()
    }
}

/// 200 always: a database that does not answer is a metric, too.
async fn metrics(State(answers): State<Arc<Answers>>) -> Response {
    match answers.metrics.text().await {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|one| one.trim_start().starts_with("application/json"))
}

/// Gives every answer a deadline, and keeps it out of caches.
async fn in_time(request: Request, next: Next) -> Response {
    let late = || (StatusCode::GATEWAY_TIMEOUT, format!("no answer within {ANSWER_WITHIN:?}\n"));
    let answered = timeout(ANSWER_WITHIN, next.run(request)).await;
    let mut response = answered.unwrap_or_else(|_| late().into_response());
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(no_store);
    response
}
