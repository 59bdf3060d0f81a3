//! `/acts/{id}`: an order's dry run with the button that carries it out, then what happened.

use std::sync::Arc;

use axum::extract::{Form as Sent, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::super::forms::Form;
use super::super::view::{Block, Cell, Link, Page, Problem, Section, Status, Table};
use super::super::{missing, write};
use super::act::{Order, Told};
use super::sessions::{Standing, Who, digest};
use super::{Desk, foreign, onwards};
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

/// Carries it out, once: whoever comes second sees what the first one did.
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
    if desk.sessions.look(&who, &id).is_none() {
        return missing();
    }
    if let Some(order) = desk.sessions.begin(&who, &id) {
        let told = desk.carry(&order, true).await.unwrap_or_else(|error| Told {
            end: "failed",
            words: "Nothing was changed: the database was not reached.".to_owned(),
            hint: error.hint_text().map(str::to_owned),
            answer: Value::String(error.to_string()),
            ..Told::default()
        });
        desk.sessions.end(&who, &id, order, told);
    }
    onwards(&format!("/acts/{id}"))
}

fn page(id: &str, standing: &Standing, who: &Who) -> Response {
    let (order, title, mut sections) = match standing {
        Standing::Shown(order, told) => {
            let mut blocks = shown(told);
            if told.end == "would" {
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
            let words = "It was begun, and its end is not known here yet. Reload, or look at the page of it.";
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
    write(StatusCode::OK, Page { live: "", ..page })
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
