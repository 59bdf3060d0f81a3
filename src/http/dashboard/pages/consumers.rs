//! `/consumers` and `/consumers/{key}`: who wants which fact, how far each is, and what a dry run would do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::response::Response;
use deadpool_postgres::Object;
use jiff::Timestamp;
use serde_json::Value;

use super::super::Dashboard;
use super::super::view::{Block, Cell, Page, Section, Status, Table};
use super::{encoded, field, fields, pause_or_resume, paused, pretty};
use crate::error::{Kind, Result};
use crate::model::moment::seconds;
use crate::store::consumers::{self, Columns, Decision, Since, Subject};
use crate::store::events::{self, WINDOW};
use crate::store::pauses::Pause;
use crate::store::views;

/// How far back a dry run is counted, and over how many events.
const BACK: Duration = Duration::from_hours(24);
const EVENTS: i32 = 200;
/// Consumers in dry run that the list counts.
const COUNTED: usize = 5;
const MOST: i64 = 1000;
/// After how long no other consumer's dry run is begun.
const COUNTING: Duration = Duration::from_millis(500);
const PREVIEW: &str = "What it would do";

/// The rows of `v_consumer_lag` by consumer; empty where this login may not read them.
async fn lags(client: &Object) -> Result<BTreeMap<String, Value>> {
    let rows = match views::read(client, "v_consumer_lag", MOST).await {
        Err(error) if error.kind() == Kind::Denied => Vec::new(),
        other => other?,
    };
    Ok(rows.into_iter().map(|row| (field(&row, "consumer_key").to_owned(), row)).collect())
}

/// Since when a dry run counts: no index leads to the events of one domain, so it looks at the newest [`WINDOW`] of all.
async fn begin(client: &Object) -> Result<Since> {
    let end = events::window_end(client, None).await?;
    let day = Timestamp::now() - BACK;
    Ok(end.map(|(at, _)| at).filter(|at| *at > day).map_or(Since::Ago(BACK), Since::At))
}

/// What a consumer would do with the newest events.
async fn preview(client: &Object, key: &str, since: Since) -> Result<Vec<Decision>> {
    consumers::preview(client, &Subject::Stored(key.to_owned()), Some(since), EVENTS).await
}

/// How many jobs the first consumers in dry run would make, of how many events. What cannot be counted, or not in time, is
/// left out: the list stands without it.
async fn count(client: &Object, found: &[Columns]) -> Result<BTreeMap<String, String>> {
    let begun = Instant::now();
    let since = begin(client).await?;
    let mut counted = BTreeMap::new();
    for one in found.iter().filter(|one| one["dry_run"] == true && one["enabled"] == true).take(COUNTED) {
        if begun.elapsed() > COUNTING {
            break;
        }
        let key = one["consumer_key"].as_str().unwrap_or_default();
        match preview(client, key, since).await {
            Ok(decisions) => {
                let would = decisions.iter().filter(|one| one.would_enqueue).count();
                counted.insert(key.to_owned(), format!("{would} of {} events", decisions.len()));
            }
            Err(error) if error.kind() == Kind::Unreachable => return Err(error),
            Err(_) => {}
        }
    }
    Ok(counted)
}

pub(in super::super) async fn list(State(dashboard): State<Arc<Dashboard>>) -> Response {
    dashboard
        .answer(async |client| {
            let found = consumers::list(client).await?;
            let lags = lags(client).await?;
            let pauses = paused(client).await?;
            let counted = count(client, &found).await?;
            let row = |one: &Columns| {
                let text = |name: &str| one.get(name).and_then(Value::as_str).unwrap_or_default();
                let key = text("consumer_key");
                let nothing = Value::Null;
                let lag = lags.get(key).unwrap_or(&nothing);
                vec![
                    Cell::link(format!("/consumers/{}", encoded(key)), key),
                    Cell::Status(standing(one, &pauses)),
                    Cell::code(format!("{}.{}", text("event_domain"), text("event_type"))),
                    Cell::code(text("job_kind")),
                    Cell::text(lag["lag_seconds"].as_f64().map(seconds).unwrap_or_default()),
                    Cell::json(&lag["complete_until"]),
                    Cell::json(&lag["open_gaps"]),
                    Cell::maybe(counted.get(key).map(String::as_str)),
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
                 over the newest {EVENTS} events of its domain, of the last day and among the newest {WINDOW} of all domains, for the first \
                 {COUNTED} consumers in dry run, as far as that is quick; each one's page counts its own."
            );
            let section = Section::new("consumers", "Who wants which fact", vec![Block::Table(table)]).note(note);
            Ok(Some(Page::new("Consumers", "/consumers", vec![section])))
        })
        .await
}

/// Whether a pause keeps a consumer's jobs from being made or claimed.
fn holds(pause: &Pause, one: &Columns) -> bool {
    let is = |name: &str| one[name].as_str() == Some(&pause.name);
    match pause.scope.as_str() {
        "all" => true,
        "domain" => is("event_domain"),
        "consumer" => is("consumer_key"),
        "job_kind" => is("job_kind"),
        _ => false,
    }
}

fn standing(one: &Columns, pauses: &[Pause]) -> Status {
    let scopes: Vec<&str> =
        pauses.iter().filter(|pause| holds(pause, one)).map(|pause| pause.scope.as_str()).collect();
    match (one["enabled"] == true, one["dry_run"] == true) {
        (false, _) => Status::new("disabled", "off"),
        _ if !scopes.is_empty() => Status::new(format!("paused by {}", scopes.join(" and ")), "warn"),
        (_, true) => Status::new("dry run", "warn"),
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
            let pauses = paused(client).await?;
            let lags = lags(client).await?;
            let nothing = Value::Null;
            let lag = lags.get(&key).unwrap_or(&nothing);
            let mut stands = vec![("Standing", Cell::Status(standing(&columns, &pauses)))];
            let reason =
                |pause: &Pause| Cell::text(format!("{}, by {}: {}", pause.scope, pause.actor, pause.reason));
            let held = pauses.iter().filter(|pause| holds(pause, &columns));
            stands.extend(held.map(|pause| ("Paused", reason(pause))));
            let act = pause_or_resume(&pauses, "consumer", &key, ["Pause it…", "Resume…"]);
            let preview = previewed(preview(client, &key, begin(client).await?).await)?;
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
            let lagging = fields(
                lag,
                &[
                    ("Complete until", "complete_until"),
                    ("Lag in seconds", "lag_seconds"),
                    ("Open gaps", "open_gaps"),
                    ("Proven from", "proven_from"),
                ],
            );
            let switched =
                fields(&document["switched"], &[("Switched by", "actor"), ("Why", "reason"), ("When", "at")]);
            let mut standing = vec![Block::Facts(stands), about, lagging, switched];
            standing.extend(dashboard.acts([act]));
            let sections = vec![
                Section::new("standing", "How it stands", standing),
                preview,
                Section::new("columns", "All columns", vec![pretty(&document)]),
            ];
            Ok(Some(Page::new(format!("Consumer {key}"), "/consumers", sections)))
        })
        .await
}

/// What it would do, or why that cannot be said; the other sections stand either way.
fn previewed(decisions: Result<Vec<Decision>>) -> Result<Section> {
    let note = format!(
        "If it were enabled and made jobs: the newest {EVENTS} events of its domain, of the last day and among the newest {WINDOW} \
         of all domains; `reveille consumers preview` looks further back."
    );
    match decisions {
        Ok(decisions) => {
            Ok(Section::new("preview", PREVIEW, vec![counted(&decisions), shown(&decisions)]).note(note))
        }
        Err(error) if error.kind() == Kind::Unreachable => Err(error),
        Err(error) => Ok(Section::failed("preview", PREVIEW, &error).note(note)),
    }
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
        empty: "No event of its domain among those.",
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
