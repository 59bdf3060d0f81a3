//! `/acts/{id}`: an order's dry run with the button that carries it out, then what happened.

use std::sync::Arc;

use axum::extract::{Form as Sent, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::forms::Form;
use super::super::view::{Block, Cell, Link, Page, Problem, Section, Status, Table};
use super::super::{missing, write};
use super::act::{Order, Told};
use super::orders::{Confirmed, outcome};
use super::sessions::{Again, Confirmation, Standing, Who, digest};
use super::{Desk, deadline, foreign, no, onwards, status};
use crate::error::Error;
use crate::model::moment::printable;

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Typed {
    csrf: String,
}

pub(super) async fn one(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(who) = desk.who(&headers) else { return onwards("/sign-in") };
    match desk.sessions.look(&who, &id) {
        Some(standing) => page(&id, &standing, &who),
        None => missing(),
    }
}

/// Has it carried out, once, and waits for the end of it: whoever comes second sees what the first one did.
pub(super) async fn confirm(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Sent(typed): Sent<Typed>,
) -> Response {
    let is_ours = desk.is_ours(&headers);
    let Some(who) = desk.who(&headers) else {
        return if is_ours { onwards("/sign-in") } else { foreign() };
    };
    if !is_ours || digest(&typed.csrf) != digest(&who.csrf) {
        return foreign();
    }
    let end = deadline();
    // first a place, so that what is begun is handed over: nothing comes in between, no hanging up either
    let Some(place) = desk.orders.place() else { return busy() };
    match desk.sessions.confirm(&who, &id, Instant::now(), desk.keep) {
        None => return missing(),
        Some(Confirmation::Before) => {}
        Some(Confirmation::Old(order)) => {
            drop(place);
            match desk.dry_run(&order, end).await {
                Ok(told) => desk.sessions.show_again(&who, &id, told, Instant::now()),
                Err(error) => return not_anew(&error),
            }
        }
        Some(Confirmation::Now(order, before)) => {
            let (told, answer) = oneshot::channel();
            place.send(Confirmed { order, before, end, kept: Some((who, id.clone())), told });
            outcome(answer, end).await;
        }
    }
    onwards(&format!("/acts/{id}"))
}

fn busy() -> Response {
    no(
        StatusCode::SERVICE_UNAVAILABLE,
        "Too many orders wait, or the sidecar stops. Nothing was changed.",
        "go back and confirm again in a moment",
    )
}

/// An old dry run is not relied on, and there is no newer one.
fn not_anew(error: &Error) -> Response {
    let what = format!(
        "What you were shown is old, and what would happen now could not be found out: {}. Nothing was changed.",
        printable(&error.to_string())
    );
    no(status(error), &what, "go back and confirm again in a moment")
}

fn page(id: &str, standing: &Standing, who: &Who) -> Response {
    let (order, title, mut sections) = match standing {
        Standing::Shown(order, one) => {
            let mut blocks = again(one.again);
            blocks.extend(shown(&one.told));
            if one.told.end == "would" {
                let confirm = Form::new(format!("/acts/{id}"), "Do it").hidden("csrf", &who.csrf);
                blocks.push(Block::Form(confirm));
            }
            (
                order,
                "What would happen",
                vec![Section::new("dry-run", "Dry run: nothing is changed yet", blocks)],
            )
        }
        Standing::Begun(order) => {
            let words =
                "It is being carried out, and its end is not known yet. This page looks again by itself.";
            (
                order,
                "It was begun",
                vec![Section::new("begun", "What happened", vec![Block::Note(words.to_owned())])],
            )
        }
        Standing::Ended(order, told) => {
            let title = if told.end == "done" { "Done" } else { "Not done" };
            (order, title, vec![Section::new("end", "What happened", shown(told))])
        }
    };
    sections.push(asked(order));
    let place = if order.act.place().starts_with("/dead") { "/dead-letters" } else { "/gates" };
    let page = Page::new(title, place, sections).lead(order.act.words());
    let mut response = write(StatusCode::OK, Page { live: "", ..page });
    if matches!(standing, Standing::Begun(_)) {
        response.headers_mut().insert(header::REFRESH, HeaderValue::from_static("1"));
    }
    response
}

/// Why a dry run stands there that nobody asked for.
fn again(again: Option<Again>) -> Vec<Block> {
    let (status, what) = match again {
        None => return Vec::new(),
        Some(Again::Changed) => (
            Status::new("changed", "warn"),
            "This has changed since you were shown it. Nothing was done: look at it as it is now.",
        ),
        Some(Again::Same) => (
            Status::new("not done", "warn"),
            "What you were shown was old, so it was found out anew. It says the same still: confirm it once more.",
        ),
    };
    vec![Block::Problems(vec![Problem { status, what: what.to_owned(), why: None, mend: None, link: None }])]
}

/// What was asked, by whom and why.
fn asked(order: &Order) -> Section {
    let facts = vec![
        ("What", Cell::text(order.act.words())),
        ("By", Cell::text(order.actor())),
        ("Why", Cell::text(&order.reason)),
    ];
    let back = Link { to: order.act.place(), text: "To the page of it".to_owned() };
    Section::new("asked", "What was asked", vec![Block::Facts(facts), Block::Links(vec![back])])
}

fn shown(told: &Told) -> Vec<Block> {
    let status = match told.end {
        "would" => Status::new("dry run", "moving"),
        "done" => Status::new("done", "good"),
        "refused" => Status::new("refused", "warn"),
        _ => Status::new("failed", "bad"),
    };
    let why = told.answer.as_str().map(printable);
    let (what, mend) = (printable(&told.words), told.hint.as_deref().map(printable));
    let mut blocks = vec![Block::Problems(vec![Problem { status, what, why, mend, link: None }])];
    if !told.waiting.is_empty() {
        let row = |(reason, before, after): &(String, String, String)| {
            vec![Cell::text(reason.replace('_', " ")), Cell::number(before), Cell::number(after)]
        };
        blocks.push(Block::Table(Table {
            caption: "Jobs that wait, by reason",
            headings: &["Jobs wait because", "Before", "After"],
            rows: told.waiting.iter().map(row).collect(),
            empty: "",
        }));
    }
    blocks
}
