//! `/act/{what}`: what is to be done, and why; sent, it leads to its dry run.

use std::sync::Arc;

use axum::extract::{Extension, Form as Sent, FromRequest, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::super::forms::{Form, Typing};
use super::super::pages::{encoded, query};
use super::super::view::{Block, Page, Section};
use super::super::{missing, write};
use super::act::{Act, Order};
use super::sessions::{Who, digest};
use super::{Desk, bearer, deadline, foreign, onwards, program};
use crate::error::{Error, Result};
use crate::http::connections::Peer;
use crate::store::dead_letters::TRIAGE;

/// Longest reason, in characters.
const LONGEST: usize = 500;
const LONGEST_NAME: usize = 200;
const SCOPES: [(&str, &str); 5] = [
    ("domain", "a domain: its dispatch, and the jobs of its events"),
    ("consumer", "a consumer: its jobs"),
    ("job_kind", "a kind of job"),
    ("executor", "an executor, by its name, or all of a kind"),
    ("all", "everything"),
];
const TO: [(&str, &str); 2] = [("open", "open it"), ("closed", "close it")];
const STATUSES: [(&str, &str); 6] = [
    ("investigating", "investigating: somebody is looking at it"),
    ("manual_replay", "manual replay: it may be replayed"),
    ("discarded", "discarded: it is not needed any more"),
    ("superseded", "superseded: something else has done it"),
    ("closed", "closed: it was settled by hand"),
    ("open", "open: undecided again"),
];

/// What was typed, or stands in the address.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Typed {
    csrf: String,
    pub(super) reason: String,
    scope: String,
    name: String,
    id: String,
    status: String,
    key: String,
    to: String,
    /// Of programs: who asks, and whether it is more than a dry run.
    pub(super) by: String,
    pub(super) apply: bool,
}

/// The field that cannot be taken, and why.
pub(super) type Fault = (&'static str, String);

impl Typed {
    /// What is meant; a fault when it is incomplete, none when there is nothing of the name `what`.
    pub(super) fn act(&self, what: &str) -> Option<std::result::Result<Act, Fault>> {
        let name = self.name.trim().to_owned();
        let scope = self.scope.clone();
        let scoped = || match (SCOPES.iter().any(|(known, _)| *known == scope), scope.as_str()) {
            (false, _) => {
                Err(("scope", "Say what is meant: all, domain, consumer, job_kind or executor.".to_owned()))
            }
            (_, "all") => Ok((scope.clone(), String::new())),
            _ if name.is_empty()
                || name.chars().count() > LONGEST_NAME
                || name.contains(char::is_control) =>
            {
                Err(("name", "Its name is needed, of at most 200 characters.".to_owned()))
            }
            _ => Ok((scope.clone(), name.clone())),
        };
        let id =
            || self.id.trim().parse().map_err(|_| ("id", "The id of a dead letter is needed.".to_owned()));
        Some(match what {
            "pause" => scoped().map(|(scope, name)| Act::Pause { scope, name }),
            "resume" => scoped().map(|(scope, name)| Act::Resume { scope, name }),
            "triage" if !TRIAGE.contains(&self.status.as_str()) => {
                Err(("status", format!("It is one of {}.", TRIAGE.join(", "))))
            }
            "triage" => id().map(|id| Act::Triage { id, status: self.status.clone() }),
            "replay" => id().map(|id| Act::Replay { id }),
            "gate" => match self.to.as_str() {
                "open" => Ok(Act::Gate { key: self.key.trim().to_owned(), open: true }),
                "closed" => Ok(Act::Gate { key: self.key.trim().to_owned(), open: false }),
                _ => Err(("to", "It is open or closed.".to_owned())),
            },
            _ => return None,
        })
    }

    /// The reason, when it is one.
    pub(super) fn reason(&self) -> std::result::Result<String, Fault> {
        let reason = self.reason.trim().replace("\r\n", "\n");
        if (1..=LONGEST).contains(&reason.chars().count()) && !reason.contains('\0') {
            return Ok(reason);
        }
        Err((
            "reason",
            format!("It is needed, in 1 to {LONGEST} characters: whoever comes later will read it."),
        ))
    }

    /// The address of its form.
    fn address(&self, what: &str) -> String {
        let pairs = [
            ("scope", &self.scope),
            ("name", &self.name),
            ("id", &self.id),
            ("status", &self.status),
            ("key", &self.key),
            ("to", &self.to),
        ];
        let given = pairs.map(|(name, value)| (name, Some(value.as_str()).filter(|value| !value.is_empty())));
        query(&format!("/act/{what}"), &given)
    }
}

/// Why a form is shown again.
enum Again<'a> {
    Fault(&'a Fault),
    /// What was typed may be right, and the database did not say so.
    Error(&'a Error),
}

/// The form, with what was typed before.
fn page(what: &str, typed: &Typed, who: &Who, again: Option<&Again<'_>>) -> Option<Response> {
    let line = || Typing::Line(LONGEST_NAME);
    let begin = Form::new(format!("/act/{what}"), "Show what would happen").hidden("csrf", &who.csrf);
    let (title, form, place) = match what {
        "pause" | "resume" => {
            let form = begin
                .input(
                    "scope",
                    if what == "pause" { "Pause" } else { "Resume" },
                    Typing::Choice(&SCOPES),
                    &typed.scope,
                )
                .input("name", "Its name", line(), &typed.name)
                .hint("As the pages write it; for everything leave it empty.");
            (if what == "pause" { "Pause" } else { "Resume" }, form, "/gates")
        }
        "triage" => {
            let form = begin.input("id", "Dead letter", line(), &typed.id).input(
                "status",
                "Decision",
                Typing::Choice(&STATUSES),
                &typed.status,
            );
            ("Decide about a dead letter", form, "/dead-letters")
        }
        "replay" => {
            ("Replay a dead letter", begin.input("id", "Dead letter", line(), &typed.id), "/dead-letters")
        }
        "gate" => {
            let form = begin.input("key", "Gate", line(), &typed.key).input(
                "to",
                "What to do",
                Typing::Choice(&TO),
                &typed.to,
            );
            ("Open or close a gate", form, "/gates")
        }
        _ => return None,
    };
    let (label, hint) = if what == "replay" {
        (
            "Where it stands that this is allowed",
            "A ticket, a decision, a person. It is kept with the dead letter.",
        )
    } else {
        ("Why", "Whoever comes later will read it.")
    };
    let mut form = form.input("reason", label, Typing::Long(LONGEST), &typed.reason).hint(hint);
    let (mut status, mut blocks) = (StatusCode::OK, Vec::new());
    match again {
        Some(Again::Fault((field, words))) => {
            status = StatusCode::UNPROCESSABLE_ENTITY;
            form = form.fault(field, words);
        }
        Some(Again::Error(error)) => {
            status = super::status(error);
            blocks.push(Block::Problems(vec![super::problem(error)]));
        }
        None => {}
    }
    blocks.push(Block::Form(form));
    let section = Section::new("act", "What, and why", blocks)
        .note("Nothing is changed yet: the next page says what would happen, and asks.");
    Some(write(status, Page { live: "", ..Page::new(title, place, vec![section]) }))
}

pub(super) async fn form(
    State(desk): State<Arc<Desk>>,
    Path(what): Path<String>,
    Query(typed): Query<Typed>,
    request: Request,
) -> Response {
    let Some(who) = desk.who(request.headers()) else {
        return onwards(&format!("/sign-in?then={}", encoded(&typed.address(&what))));
    };
    page(&what, &typed, &who, None).unwrap_or_else(missing)
}

/// What a form, or a program, sent.
async fn sent(request: Request) -> std::result::Result<Typed, Response> {
    let kind =
        request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/json") {
        let read = axum::Json::<Typed>::from_request(request, &()).await;
        return read.map(|axum::Json(typed)| typed).map_err(IntoResponse::into_response);
    }
    let read = Sent::<Typed>::from_request(request, &()).await;
    read.map(|Sent(typed)| typed).map_err(IntoResponse::into_response)
}

pub(super) async fn order(
    State(desk): State<Arc<Desk>>,
    Extension(from): Extension<Peer>,
    Path(what): Path<String>,
    request: Request,
) -> Response {
    let end = deadline();
    if let Some(token) = bearer(&request) {
        return match desk.check(from, &token) {
            Ok(()) => match timeout_at(end, sent(request)).await {
                Ok(Ok(typed)) => program::order(&desk, &what, &typed, end).await,
                Ok(Err(response)) => program::unreadable(response).await,
                Err(_) => program::late(),
            },
            Err(unknown) => program::unknown(&unknown),
        };
    }
    let (who, is_ours) = (desk.who(request.headers()), desk.is_ours(request.headers()));
    let Some(who) = who else {
        return if is_ours { onwards("/sign-in") } else { foreign() };
    };
    let typed = match sent(request).await {
        Ok(typed) => typed,
        Err(response) => return response,
    };
    if !is_ours || digest(&typed.csrf) != digest(&who.csrf) {
        return foreign();
    }
    match try_order(&desk, &what, &typed, &who, end).await {
        Ok(response) => response,
        // not a page that tries again by itself: it would lose what was typed
        Err(error) => page(&what, &typed, &who, Some(&Again::Error(&error))).unwrap_or_else(missing),
    }
}

/// The order, checked against what there is; or the field to mend. None when there is no such act.
pub(super) async fn checked(
    desk: &Desk,
    what: &str,
    typed: &Typed,
    name: &str,
    end: Instant,
) -> Result<Option<std::result::Result<Order, Fault>>> {
    let Some(read) = typed.act(what) else { return Ok(None) };
    let read = read.and_then(|act| Ok((act, typed.reason()?)));
    let (act, reason) = match read {
        Ok(read) => read,
        Err(fault) => return Ok(Some(Err(fault))),
    };
    if let Some(fault) = desk.unknown(&act, end).await? {
        return Ok(Some(Err(fault)));
    }
    Ok(Some(Ok(Order { act, reason, name: name.to_owned() })))
}

async fn try_order(desk: &Desk, what: &str, typed: &Typed, who: &Who, end: Instant) -> Result<Response> {
    let order = match checked(desk, what, typed, &who.name, end).await? {
        None => return Ok(missing()),
        Some(Err(fault)) => {
            return Ok(page(what, typed, who, Some(&Again::Fault(&fault))).unwrap_or_else(missing));
        }
        Some(Ok(order)) => order,
    };
    let told = desk.dry_run(&order, end).await?;
    let id = desk.sessions.keep(who, order, told, Instant::now());
    Ok(id.map_or_else(|| onwards("/sign-in"), |id| onwards(&format!("/acts/{id}"))))
}
