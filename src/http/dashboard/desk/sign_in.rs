//! `/sign-in` and `/sign-out`.

use std::sync::Arc;

use axum::extract::{Extension, Form as Sent, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use tokio::time::Instant;

use super::super::forms::{Form, Typing};
use super::super::view::{Block, Page, Section};
use super::super::write;
use super::sessions::digest;
use super::{Desk, Unknown, foreign, onwards, seconds};
use crate::http::connections::Peer;

/// Longest name of somebody.
pub(super) const LONGEST_NAME: usize = 60;

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Typed {
    name: String,
    token: String,
    /// Where to go from here.
    then: String,
    csrf: String,
}

/// A path of ours, or the first page.
fn inside(then: &str) -> &str {
    let is_path = then.starts_with('/') && !then.starts_with("//") && then.len() <= 1000;
    let is_plain = then.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_path && is_plain { then } else { "/" }
}

/// A name that may stand in the records; none when it may not.
pub(super) fn name(typed: &str) -> Option<&str> {
    let name = typed.trim();
    let fits = (1..=LONGEST_NAME).contains(&name.chars().count());
    (fits && !name.contains(char::is_control)).then_some(name)
}

fn page(status: StatusCode, typed: &Typed, faults: &[(&str, &str)]) -> Response {
    let mut form = Form::new("/sign-in", "Sign in")
        .hidden("then", inside(&typed.then))
        .input("name", "Your name", Typing::Who(LONGEST_NAME), &typed.name)
        .hint("It is recorded with everything that you do here, as dashboard:NAME.")
        .input("token", "Token", Typing::Secret("current-password"), "")
        .hint("The one of [http] token, or of the file [http] token_file.");
    for (field, fault) in faults {
        form = form.fault(field, fault);
    }
    let section = Section::new("sign-in", "Who are you?", vec![Block::Form(form)])
        .note("Reading needs no token. Pausing, deciding about dead letters, replaying them and setting gates does.");
    write(status, Page { live: "", ..Page::new("Sign in", "", vec![section]) })
}

pub(super) async fn form(Query(typed): Query<Typed>) -> Response {
    page(StatusCode::OK, &Typed { then: typed.then, ..Typed::default() }, &[])
}

pub(super) async fn enter(
    State(desk): State<Arc<Desk>>,
    Extension(from): Extension<Peer>,
    headers: HeaderMap,
    Sent(typed): Sent<Typed>,
) -> Response {
    if !desk.is_ours(&headers) {
        return foreign();
    }
    let Some(name) = name(&typed.name) else {
        return page(
            StatusCode::UNPROCESSABLE_ENTITY,
            &typed,
            &[("name", "A name of 1 to 60 characters is needed.")],
        );
    };
    match desk.check(from, &typed.token) {
        Ok(()) => {}
        Err(Unknown::WrongToken) => {
            return page(StatusCode::FORBIDDEN, &typed, &[("token", "That is not the token.")]);
        }
        Err(Unknown::TooMany(wait)) => {
            let fault = "Wrong tokens came from your address. Wait a moment, then try again.";
            let mut response = page(StatusCode::TOO_MANY_REQUESTS, &typed, &[("token", fault)]);
            response.headers_mut().insert(header::RETRY_AFTER, seconds(wait));
            return response;
        }
    }
    if let Some(before) = desk.who(&headers) {
        desk.sessions.close(&before);
    }
    let id = desk.sessions.open(name, Instant::now());
    tracing::info!(http.by = %name, "[http] {} signed in at the dashboard", name.escape_debug());
    with_cookie(onwards(inside(&typed.then)), &desk.set_cookie(Some(&id)))
}

pub(super) async fn leave(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    Sent(typed): Sent<Typed>,
) -> Response {
    let Some(who) = desk.who(&headers) else { return onwards("/") };
    if !desk.is_ours(&headers) || digest(&typed.csrf) != digest(&who.csrf) {
        return foreign();
    }
    desk.sessions.close(&who);
    with_cookie(onwards("/"), &desk.set_cookie(None))
}

fn with_cookie(mut response: Response, line: &str) -> Response {
    if let Ok(line) = HeaderValue::from_str(line) {
        response.headers_mut().insert(header::SET_COOKIE, line);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_leads_to_no_foreign_place() {
        assert_eq!(inside("/act/gate?key=a&to=open"), "/act/gate?key=a&to=open");
        for then in [
            "",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a\r\nSet-Cookie: a=b",
            "/\t/evil",
        ] {
            assert_eq!(inside(then), "/", "{then}");
        }
    }
}
