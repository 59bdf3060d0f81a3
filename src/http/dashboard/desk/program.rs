//! Programs at the same addresses: the token as `Authorization: Bearer`, answers in JSON. A dry run unless `apply` is true.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::act::Told;
use super::ask::{Typed, checked};
use super::{Desk, Unknown, sign_in};
use crate::error::Kind;

pub(super) async fn order(desk: &Desk, what: &str, typed: &Typed) -> Response {
    let Some(name) = sign_in::name(&typed.by) else {
        return usage("by", "who asks is needed, in 1 to 60 characters");
    };
    let done = async {
        Ok(match checked(desk, what, typed, name).await? {
            None => complaint(
                StatusCode::NOT_FOUND,
                "usage",
                "there are pause, resume, triage, replay and gate",
                None,
            ),
            Some(Err((field, fault))) => usage(field, &fault),
            Some(Ok(order)) => told(&desk.carry(&order, typed.apply).await?),
        })
    };
    let done: crate::error::Result<Response> = done.await;
    done.unwrap_or_else(|error| {
        let status = match error.kind() {
            Kind::Denied => StatusCode::FORBIDDEN,
            Kind::Unreachable | Kind::Timeout | Kind::Transient => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        complaint(
            status,
            &format!("{:?}", error.kind()).to_lowercase(),
            &error.to_string(),
            error.hint_text(),
        )
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
        Unknown::TooMany => complaint(
            StatusCode::TOO_MANY_REQUESTS,
            "denied",
            "too many tokens are being tried; wait a moment",
            None,
        ),
    };
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

/// The library's own words about a body, as ours.
pub(super) async fn unreadable(response: Response) -> Response {
    let status = response.status();
    let words = axum::body::to_bytes(response.into_body(), 4096).await.unwrap_or_default();
    complaint(status, "usage", &String::from_utf8_lossy(&words), None)
}

fn complaint(status: StatusCode, kind: &str, message: &str, hint: Option<&str>) -> Response {
    (status, Json(json!({ "error": { "kind": kind, "message": message, "hint": hint } }))).into_response()
}
