//! `/consumers` and `/consumers/{key}`: who wants which fact, how far each is, and what a dry run would do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Response;
use deadpool_postgres::Object;
use serde_json::Value;

use super::super::Dashboard;
use super::super::view::{Block, Cell, Page, Section, Status, Table};
use super::{encoded, field, fields, pretty, query};
use crate::error::{Kind, Result};
use crate::model::moment::seconds;
use crate::store::consumers::{self, Columns, Decision, Since, Subject};
use crate::store::views;

/// How far back a dry run is counted, and over how many events.
const BACK: Duration = Duration::from_hours(24);
const EVENTS: i32 = 200;
/// Consumers in dry run that the list counts.
const COUNTED: usize = 5;
const MOST: i64 = 1000;

/// The rows of `v_consumer_lag` by consumer; empty where this login may not read them.
async fn lags(client: &Object) -> Result<BTreeMap<String, Value>> {
    let rows = match views::read(client, "v_consumer_lag", MOST).await {
        Err(error) if error.kind() == Kind::Denied => Vec::new(),
        other => other?,
    };
    Ok(rows.into_iter().map(|row| (field(&row, "consumer_key").to_owned(), row)).collect())
}

/// What a consumer would do with the newest events.
async fn preview(client: &Object, key: &str) -> Result<Vec<Decision>> {
    consumers::preview(client, &Subject::Stored(key.to_owned()), Some(Since::Ago(BACK)), EVENTS).await
}

pub(in super::super) async fn list(State(dashboard): State<Arc<Dashboard>>) -> Response {
    dashboard
        .answer(async |client| {
            let found = consumers::list(client).await?;
            let lags = lags(client).await?;
            let mut dry = BTreeMap::new();
            for one in found.iter().filter(|one| one["dry_run"] == true && one["enabled"] == true).take(COUNTED) {
                let key = one["consumer_key"].as_str().unwrap_or_default();
                let decisions = preview(client, key).await?;
                dry.insert(key, (decisions.iter().filter(|one| one.would_enqueue).count(), decisions.len()));
            }
            let row = |one: &Columns| {
                let text = |name: &str| one.get(name).and_then(Value::as_str).unwrap_or_default();
                let key = text("consumer_key");
                let nothing = Value::Null;
                let lag = lags.get(key).unwrap_or(&nothing);
                let counted = dry.get(key).map(|(would, of)| format!("{would} of {of} events"));
                vec![
                    Cell::link(format!("/consumers/{}", encoded(key)), key),
                    Cell::Status(standing(one, lag)),
                    Cell::code(format!("{}.{}", text("event_domain"), text("event_type"))),
                    Cell::code(text("job_kind")),
                    Cell::text(lag["lag_seconds"].as_f64().map(seconds).unwrap_or_default()),
                    Cell::json(&lag["complete_until"]),
                    Cell::json(&lag["open_gaps"]),
                    Cell::text(counted.unwrap_or_default()),
                ]
            };
            let table = Table {
                caption: "Consumers by domain and key",
                headings: &["Consumer", "Standing", "Wants", "Makes", "Lag", "Complete until", "Gaps", "Dry run would make"],
                rows: found.iter().map(row).collect(),
                empty: "No consumers: `reveille consumers sync` writes those of the files.",
            };
            let note = format!(
                "Lag is what the audit has proven: until then every event that it wanted has its decision. A dry run is counted \
                 over the newest {EVENTS} events of the last day, for the first {COUNTED} consumers in dry run; each one's page counts its own."
            );
            let section = Section::new("consumers", "Who wants which fact", vec![Block::Table(table)]).note(note);
            Ok(Some(Page::new("Consumers", "/consumers", vec![section])))
        })
        .await
}

fn standing(one: &Columns, lag: &Value) -> Status {
    match (one["enabled"] == true, one["dry_run"] == true, lag["paused_by"].as_str()) {
        (false, ..) => Status::new("disabled", "off"),
        (_, _, Some(scope)) => Status::new(format!("paused by {scope}"), "warn"),
        (_, true, _) => Status::new("dry run", "warn"),
        _ => Status::new("enabled", "good"),
    }
}

pub(in super::super) async fn one(
    State(dashboard): State<Arc<Dashboard>>,
    Path(key): Path<String>,
) -> Response {
    dashboard
        .answer(async |client| {
            let Some(columns) = consumers::show(client, &key).await? else { return Ok(None) };
            let decisions = preview(client, &key).await?;
            let lags = lags(client).await?;
            let nothing = Value::Null;
            let lag = lags.get(&key).unwrap_or(&nothing);
            let status = standing(&columns, lag);
            let document = Value::Object(columns);
            let about = fields(
                &document,
                &[
                    ("Domain", "event_domain"),
                    ("Type", "event_type"),
                    ("Filter", "filter"),
                    ("Makes", "job_kind"),
                    ("Executor", "executor"),
                    ("Fans out", "fan_out"),
                    ("Starts", "starts_at"),
                    ("Events it could not digest", "errors"),
                    ("Description", "description"),
                    ("By", "actor"),
                ],
            );
            let lagging = fields(lag, &[("Complete until", "complete_until"), ("Lag in seconds", "lag_seconds"), ("Open gaps", "open_gaps"), ("Proven from", "proven_from")]);
            let switched = fields(&document["switched"], &[("Switched by", "actor"), ("Why", "reason"), ("When", "at")]);
            let mut standing = vec![Block::Facts(vec![("Standing", Cell::Status(status))]), about, lagging, switched];
            let pause = query("/act/pause", &[("scope", Some("consumer")), ("name", Some(&key))]);
            standing.extend(dashboard.acts([(pause, "Pause it…")]));
            let note = format!("If it were enabled and made jobs: the newest {EVENTS} events of the last day, as `reveille consumers preview` says.");
            let sections = vec![
                Section::new("standing", "How it stands", standing),
                Section::new("preview", "What it would do", vec![counted(&decisions), shown(&decisions)]).note(note),
                Section::new("columns", "All columns", vec![pretty(&document)]),
            ];
            Ok(Some(Page::new(format!("Consumer {key}"), "/consumers", sections)))
        })
        .await
}

fn counted(decisions: &[Decision]) -> Block {
    let mut counts: BTreeMap<(bool, &str), usize> = BTreeMap::new();
    for one in decisions {
        *counts.entry((!one.would_enqueue, &one.reason)).or_default() += 1;
    }
    let row = |((no_job, reason), count): (&(bool, &str), &usize)| {
        let status = if *no_job { Status::new("no job", "off") } else { Status::new("job", "good") };
        vec![Cell::Status(status), Cell::text(reason.replace('_', " ")), Cell::number(count)]
    };
    Block::Table(Table {
        caption: "Decisions by reason",
        headings: &["Would make", "Because", "Events"],
        rows: counts.iter().map(row).collect(),
        empty: "No event of its domain in the last day.",
    })
}

fn shown(decisions: &[Decision]) -> Block {
    let row = |one: &Decision| {
        vec![
            Cell::link(format!("/events/{}", one.event_id), one.event_id.to_string()),
            Cell::code(&one.event_type),
            Cell::text(one.reason.replace('_', " ")),
            Cell::maybe(one.source_ref.as_deref()),
            Cell::maybe(one.recipient.as_deref()),
            Cell::time(Some(one.created_at)),
        ]
    };
    Block::Table(Table {
        caption: "The newest of which it would make a job",
        headings: &["Event", "Type", "Because", "Source", "For", "Written"],
        rows: decisions.iter().filter(|one| one.would_enqueue).take(20).map(row).collect(),
        empty: "It would make no job.",
    })
}
