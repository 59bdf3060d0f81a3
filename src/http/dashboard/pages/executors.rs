//! `/executors`: who beats, who is silent, what each may claim.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::Value;

use super::super::Dashboard;
use super::super::view::{Block, Cell, Page, Section, Status, Table};
use super::{field, pause_or_resume, paused};
use crate::error::Kind;
use crate::model::moment::seconds;
use crate::store::backlog::{self, PATIENCE};
use crate::store::health::Component;
use crate::store::standing;
use crate::store::subscriptions::{self, Subscription};

/// Everybody who is registered, the silent ones first; where something can be done, with the way to it.
pub(super) fn section(components: &[Component], act: Option<&dyn Fn(&str) -> Cell>) -> Section {
    let row = |one: &Component| {
        let nothing = Value::Null;
        let detail = one.detail.as_ref().unwrap_or(&nothing);
        let cadence = detail["expected_cadence_seconds"].as_f64().map(seconds).unwrap_or_default();
        let silent = field(detail, "silent_since").parse().ok();
        let mut row = vec![
            Cell::code(&one.name),
            Cell::Status(standing_of(one)),
            Cell::text(if field(detail, "executor_kind").is_empty() {
                "host's own"
            } else {
                field(detail, "executor_kind")
            }),
            Cell::text(one.age_seconds.map(|age| format!("{} ago", seconds(age))).unwrap_or_default()),
            Cell::text(cadence),
            Cell::time(silent),
            Cell::text(field(detail, "last_beat_status")),
        ];
        // what the host's own code reads is no worker, and nothing that can be paused
        row.extend(act.map(|act| if one.component == "executor" { act(&one.name) } else { Cell::Nothing }));
        row
    };
    let is_executor = |one: &&Component| matches!(one.component.as_str(), "executor" | "legacy_cursor");
    let headings: &[&str] =
        &["Name", "Standing", "Kind", "Last beat", "Beats every", "Silence announced", "Says", "Do"];
    let table = Table {
        caption: "Executors, the silent ones first",
        headings: if act.is_some() { headings } else { &headings[..7] },
        rows: components.iter().filter(is_executor).map(row).collect(),
        empty: "Nobody is registered: `reveille work` starts a worker.",
    };
    Section::new("executors", "Executors and silences", vec![Block::Table(table)])
}

fn standing_of(one: &Component) -> Status {
    match one.status_hint.as_str() {
        "fresh" => Status::new("beats", "good"),
        "warning" => Status::new("late", "warn"),
        "stale" => Status::new("silent", "bad"),
        other => Status::new(if other == "never" { "never beat" } else { other }, "bad"),
    }
}

pub(in super::super) async fn list(State(dashboard): State<Arc<Dashboard>>) -> Response {
    dashboard
        .answer(async |client| {
            let components = standing::read(client).await?;
            let names: Vec<&str> = components
                .iter()
                .filter(|one| one.component == "executor")
                .map(|one| one.name.as_str())
                .collect();
            let claims = match subscriptions::list(client, &names).await {
                Ok(rows) => claims(&rows),
                Err(error) if error.kind() == Kind::Denied => {
                    Section::failed("claims", "What each may claim", &error)
                }
                Err(error) => return Err(error),
            };
            let unclaimed = unclaimed(&backlog::unclaimed(client, PATIENCE).await?);
            let pauses = paused(client).await?;
            let act = |name: &str| {
                let (to, words) = pause_or_resume(&pauses, "executor", name, ["Pause it…", "Resume…"]);
                Cell::act(to, words, name)
            };
            let act: Option<&dyn Fn(&str) -> Cell> = if dashboard.writes() { Some(&act) } else { None };
            let sections = vec![section(&components, act), unclaimed, claims];
            Ok(Some(Page::new("Executors", "/executors", sections)))
        })
        .await
}

fn unclaimed(found: &[backlog::Unclaimed]) -> Section {
    let row = |one: &backlog::Unclaimed| {
        vec![
            Cell::code(&one.job_kind),
            Cell::maybe(one.event_domain.as_deref()),
            Cell::text(&one.executor),
            Cell::text(one.reason.replace('_', " ")),
            Cell::number(one.due),
            Cell::text(format!("{} ago", seconds(one.age_seconds))),
        ]
    };
    let table = Table {
        caption: "Due jobs that no live executor may claim",
        headings: &["Kind of job", "Domain", "Kind of executor", "Why", "Due", "Oldest due"],
        rows: found.iter().map(row).collect(),
        empty: "Every job that has been due for a minute has somebody who may claim it.",
    };
    Section::new("unclaimed", "Work that nobody may claim", vec![Block::Table(table)])
}

fn claims(rows: &[Subscription]) -> Section {
    let row = |one: &Subscription| {
        vec![
            Cell::code(&one.executor_name),
            Cell::text(one.applies_to.join(", ")),
            Cell::code(&one.job_kind),
            Cell::text(&one.event_domain),
            Cell::text(one.priority_floor.map(|floor| floor.to_string()).unwrap_or_default()),
            Cell::number(one.share),
            Cell::text(&one.actor),
            Cell::maybe(one.description.as_deref()),
        ]
    };
    let table = Table {
        caption: "Subscriptions",
        headings: &["As", "Holds for", "Kind of job", "Domain", "Up to priority", "Share", "By", "Why"],
        rows: rows.iter().map(row).collect(),
        empty: "No subscriptions: each may claim everything of its kind.",
    };
    Section::new("claims", "What each may claim", vec![Block::Table(table)])
        .note("An executor without a row may claim everything of its kind.")
}
