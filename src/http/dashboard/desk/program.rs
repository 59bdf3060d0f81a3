//! Programs at the same addresses: the token as `Authorization: Bearer`, answers in JSON. A dry run unless `apply` is true.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::act::{Order, Told};
use super::ask::{Typed, checked};
use super::carry::COUNT_WITHIN;
use super::orders::{Confirmed, outcome};
use super::{Desk, Unknown, seconds, sign_in, status};
use crate::error::Result;

/// Answers by `end`, or a moment later where something was done.
pub(super) async fn order(desk: &Desk, what: &str, typed: &Typed, end: Instant) -> Response {
    let Some(name) = sign_in::name(&typed.by) else {
        return usage("by", "who asks is needed, in 1 to 60 characters");
    };
    let done = async {
        Ok(match checked(desk, what, typed, name, end).await? {
            None => complaint(
                StatusCode::NOT_FOUND,
                "usage",
                "there are pause, resume, triage, replay and gate",
                None,
            ),
            Some(Err((field, fault))) => usage(field, &fault),
            Some(Ok(order)) if typed.apply => told(&apply(desk, order, end).await),
            Some(Ok(order)) => told(&desk.dry_run(&order, end).await?),
        })
    };
    let done: Result<Response> = done.await;
    done.unwrap_or_else(|error| {
        complaint(
            status(&error),
            &format!("{:?}", error.kind()).to_lowercase(),
            &error.to_string(),
            error.hint_text(),
        )
    })
}

/// Has it done by the loop; also when the program hangs up now.
async fn apply(desk: &Desk, order: Order, end: Instant) -> Told {
    let before = desk.counts(&order.act, end.min(Instant::now() + COUNT_WITHIN)).await;
    let Some(place) = desk.orders.place() else {
        return Told::nothing("too many orders wait, or the sidecar stops");
    };
    let (told, answer) = oneshot::channel();
    place.send(Confirmed { order, before, end, kept: None, told });
    outcome(answer, end).await.unwrap_or_else(|| Told {
        end: "failed",
        words: "It is not known whether it was done.".to_owned(),
        hint: Some("look at what it is about before you try again".to_owned()),
        ..Told::default()
    })
}

fn told(told: &Told) -> Response {
    let status = match told.end {
        "would" | "done" => StatusCode::OK,
        "refused" => StatusCode::CONFLICT,
        "denied" => StatusCode::FORBIDDEN,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let waiting: Vec<Value> = told
        .waiting
        .iter()
        .map(|(reason, before, after)| json!({ "reason": reason, "before": before, "after": after }))
        .collect();
    let document = json!({
        "end": told.end, "words": told.words, "hint": told.hint, "answer": told.answer, "waiting": waiting,
    });
    (status, Json(document)).into_response()
}

fn usage(field: &str, fault: &str) -> Response {
    complaint(StatusCode::UNPROCESSABLE_ENTITY, "usage", &format!("{field}: {fault}"), None)
}

pub(super) fn unknown(unknown: &Unknown) -> Response {
    let mut response = match unknown {
        Unknown::WrongToken => {
            complaint(StatusCode::UNAUTHORIZED, "denied", "that is not the token of [http] token", None)
        }
        Unknown::TooMany(_) => complaint(
            StatusCode::TOO_MANY_REQUESTS,
            "denied",
            "wrong tokens came from this address; wait a moment",
            None,
        ),
    };
    if let Unknown::TooMany(wait) = unknown {
        response.headers_mut().insert(header::RETRY_AFTER, seconds(*wait));
    }
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

/// The library's own words about a body, as ours.
pub(super) async fn unreadable(response: Response) -> Response {
    let status = response.status();
    let words = axum::body::to_bytes(response.into_body(), 4096).await.unwrap_or_default();
    complaint(status, "usage", &String::from_utf8_lossy(&words), None)
}

/// The body did not come.
pub(super) fn late() -> Response {
    complaint(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not come in time", None)
}

fn complaint(status: StatusCode, kind: &str, message: &str, hint: Option<&str>) -> Response {
    (status, Json(json!({ "error": { "kind": kind, "message": message, "hint": hint } }))).into_response()
}
