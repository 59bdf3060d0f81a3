//! `/events` and `/events/{id}`: facts, and what became of each.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::super::view::{Block, Cell, Field, Filter, Page, Section, Table};
use super::super::{Dashboard, missing};
use super::{ROWS, explained, field, fields, given, pager, place, placed, pretty, query};
use crate::store::events::{self, Fact, NEXT, WINDOW};
use crate::store::explain;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct Asked {
    domain: Option<String>,
    before: Option<String>,
}

pub(in super::super) async fn list(
    State(dashboard): State<Arc<Dashboard>>,
    Query(asked): Query<Asked>,
) -> Response {
    dashboard
        .answer(async |client| {
            let domain = given(asked.domain.as_ref());
            let before = place(given(asked.before.as_ref()))?;
            let (found, next) = events::page(client, domain, before, ROWS).await?;
            let to = |before: Option<&str>| query("/events", &[("domain", domain), ("before", before)]);
            let next = placed(next).map(|next| to(Some(&next)));
            let field = Field {
                name: "domain",
                label: "Domain",
                value: domain.unwrap_or_default().to_owned(),
                choices: &[],
            };
            let mut blocks = vec![Block::Filter(Filter { to: "/events", fields: vec![field] })];
            blocks.extend(pager(before.map(|_| to(None)), next));
            blocks.push(table(&found));
            let mut section = Section::new("events", "Newest first", blocks);
            if domain.is_some() {
                section = section
                    .note(format!("A page looks at {WINDOW} events at most, then the next one goes on."));
            }
            Ok(Some(Page::new("Events", "/events", vec![section])))
        })
        .await
}

fn table(found: &[Fact]) -> Block {
    let row = |fact: &Fact| {
        vec![
            Cell::link(format!("/events/{}", fact.id), fact.id.to_string()),
            Cell::code(format!("{}.{}", fact.event_domain, fact.event_type)),
            Cell::maybe(fact.event_subject_ref.as_deref()),
            fact.event_severity.as_deref().map_or(Cell::Nothing, Cell::status),
            Cell::maybe(fact.actor_ref.as_deref()),
            Cell::time(Some(fact.created_at)),
        ]
    };
    Block::Table(Table {
        caption: "Events, the newest first",
        headings: &["Event", "Type", "Subject", "Severity", "By", "Written"],
        rows: found.iter().map(row).collect(),
        empty: "No such events here.",
    })
}

pub(in super::super) async fn one(
    State(dashboard): State<Arc<Dashboard>>,
    Path(id): Path<String>,
) -> Response {
    let Ok(id) = id.parse::<Uuid>() else { return missing() };
    dashboard
        .answer(async |client| {
            let lines = explain::event(client, id).await?.unwrap_or_default();
            let Some(document) = events::show(client, id, &explain::jobs(&lines)).await? else {
                return Ok(None);
            };
            let event = &document["event"];
            let about = fields(
                event,
                &[
                    ("Subject", "event_subject_ref"),
                    ("Table", "event_subject_table"),
                    ("Address", "canonical_address"),
                    ("Severity", "event_severity"),
                    ("By", "actor_ref"),
                    ("From", "source_system"),
                    ("Correlation", "correlation_id"),
                    ("Occurred", "occurred_at"),
                    ("Written", "created_at"),
                ],
            );
            let sections = vec![
                Section::new("why", "What became of it, and why", vec![about, explained(&lines)]),
                Section::new("jobs", "Its jobs", vec![jobs(&document["jobs"])]).note(format!(
                    "Those of its consumers; steps of workflows among the {NEXT} jobs made since, and in the archive."
                )),
                Section::new(
                    "errors",
                    "Consumers that could not digest it",
                    vec![errors(&document["errors"])],
                ),
                Section::new("payload", "Payload", vec![pretty(&event["safe_payload"])]),
                Section::new("columns", "All that is known", vec![pretty(event)]),
            ];
            let title = format!("Event {}.{}", field(event, "event_domain"), field(event, "event_type"));
            Ok(Some(Page::new(title, "/events", sections).lead(id.to_string())))
        })
        .await
}

fn rows(list: &Value, row: impl Fn(&Value) -> Vec<Cell>) -> Vec<Vec<Cell>> {
    list.as_array().into_iter().flatten().map(row).collect()
}

fn jobs(list: &Value) -> Block {
    let row = |job: &Value| {
        let id = field(job, "job_id");
        vec![
            Cell::link(format!("/jobs/{id}"), id),
            Cell::code(field(job, "job_kind")),
            Cell::status(field(job, "status")),
            Cell::text(field(job, "consumer_key")),
            Cell::json(&job["attempts"]),
            Cell::text(field(job, "last_error")),
        ]
    };
    Block::Table(Table {
        caption: "Jobs made of this event",
        headings: &["Job", "Kind", "Status", "Consumer", "Failures", "Last error"],
        rows: rows(list, row),
        empty: "No job was made of it.",
    })
}

fn errors(list: &Value) -> Block {
    let row = |error: &Value| {
        vec![
            Cell::text(field(error, "consumer_key")),
            Cell::code(field(error, "sqlstate")),
            Cell::text(field(error, "message")),
            Cell::json(&error["tries"]),
            Cell::json(&error["last_at"]),
        ]
    };
    Block::Table(Table {
        caption: "Errors of dispatch",
        headings: &["Consumer", "SQLSTATE", "Message", "Tries", "Last"],
        rows: rows(list, row),
        empty: "None.",
    })
}
