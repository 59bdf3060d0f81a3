//! `/jobs/{id}`: one job, why it stands as it does, and its timeline.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::super::view::{Block, Cell, Link, Page, Section, Table};
use super::super::{Dashboard, missing};
use super::{explained, field, fields, pause_or_resume, paused, pretty};
use crate::model::moment::duration;
use crate::store::explain::{self, Line};
use crate::store::{dead_letters, jobs};

pub(in super::super) async fn one(
    State(dashboard): State<Arc<Dashboard>>,
    Path(id): Path<String>,
) -> Response {
    let Ok(id) = id.parse::<Uuid>() else { return missing() };
    dashboard
        .answer(async |client| {
            let Some(job) = jobs::show(client, id).await? else { return Ok(None) };
            let lines = explain::job(client, id).await?.unwrap_or_default();
            let letter = dead_letters::of_job(client, id).await?;
            let pauses = paused(client).await?;
            let words = ["Pause this kind…", "Resume this kind…"];
            let act = pause_or_resume(&pauses, "job_kind", field(&job, "job_kind"), words);
            let standing = [about(&job), links(&job, letter)];
            let standing = standing.into_iter().chain(dashboard.acts([act])).chain([explained(&lines)]);
            Ok(Some(page(id, &job, &lines, standing.collect())))
        })
        .await
}

fn page(id: Uuid, job: &Value, lines: &[Line], standing: Vec<Block>) -> Page {
    let sections = vec![
        Section::new("standing", "How it stands, and why", standing),
        Section::new("timeline", "Timeline", vec![timeline(job, lines)]),
        Section::new("payload", "Payload", vec![pretty(&job["safe_payload"])])
            .note("Signal, not data: what the job may carry at most."),
        Section::new("columns", "All that is known", vec![columns(job)]),
    ];
    Page::new(format!("Job {}", field(job, "job_kind")), "/jobs", sections).lead(id.to_string())
}

fn about(job: &Value) -> Block {
    let Block::Facts(mut facts) = fields(
        job,
        &[
            ("Executor", "executor"),
            ("Domain", "event_domain"),
            ("Consumer", "consumer_key"),
            ("Source", "source_ref"),
            ("Target", "target_ref"),
            ("Result", "result_ref"),
            ("Leased by", "lease_owner"),
            ("Last error", "last_error"),
        ],
    ) else {
        return Block::Note(String::new());
    };
    facts.insert(0, ("Status", Cell::status(field(job, "status"))));
    facts.push(("Failures", Cell::text(format!("{} of {}", job["attempts"], job["max_attempts"]))));
    Block::Facts(facts)
}

fn links(job: &Value, letter: Option<Uuid>) -> Block {
    let link = |name: &str, path: &str, text: &str| {
        job[name].as_str().map(|id| Link { to: format!("{path}/{id}"), text: text.to_owned() })
    };
    let links = [
        link("causation_event_id", "/events", "The event that it was made from"),
        link("workflow_id", "/workflows", "Its workflow"),
        link("parent_job_id", "/jobs", "The job before it"),
    ];
    let text = match field(job, "status") {
        "dead_letter" => "Its dead letter, to decide about",
        _ => "Its dead letter",
    };
    let letter = letter.map(|id| Link { to: format!("/dead-letters/{id}"), text: text.to_owned() });
    Block::Links(links.into_iter().flatten().chain(letter).collect())
}

/// Moments of the job and the ends of its leases, in order.
fn timeline(job: &Value, lines: &[Line]) -> Block {
    let at = |name: &str| field(job, name).parse::<Timestamp>().ok();
    let mut moments: Vec<(Timestamp, String, &str, String)> = Vec::new();
    let mut add = |at: Option<Timestamp>, word: &str, tone: &'static str, text: String| {
        moments.extend(at.map(|at| (at, word.to_owned(), tone, text)));
    };
    add(at("created_at"), "made", "waiting", format!("by {}", field(job, "actor")));
    for line in lines.iter().filter(|line| line.verdict == "attempt") {
        let detail = line.detail.clone().unwrap_or_default();
        let owner = field(&detail, "lease_owner");
        add(field(&detail, "picked_at").parse().ok(), "claimed", "moving", format!("by {owner}"));
        add(field(&detail, "ended_at").parse().ok(), &line.reason, "", line.what.clone());
    }
    let is_leased = matches!(field(job, "status"), "leased" | "in_progress");
    if is_leased {
        add(at("picked_at"), "claimed", "moving", format!("by {}", field(job, "lease_owner")));
        add(at("lease_until"), "lease ends", "waiting", "unless it is renewed".to_owned());
    }
    if matches!(field(job, "status"), "queued" | "retry_waiting") {
        add(at("scheduled_at"), "due", "waiting", String::new());
    }
    add(at("cancel_requested_at"), "cancel asked", "warn", field(job, "cancel_reason").to_owned());
    add(at("finished_at"), field(job, "status"), "", "it is over".to_owned());
    add(at("archived_at"), "archived", "off", String::new());
    moments.sort_by_key(|(at, ..)| at.as_millisecond()); // the end of a lease stands before that of its job
    let begin = moments.first().map(|(at, ..)| *at);
    let row = |(at, word, tone, text): (Timestamp, String, &'static str, String)| {
        let after = begin.map(|begin| format!("+{}", duration(at.duration_since(begin)))).unwrap_or_default();
        let status = match tone {
            "" => Cell::status(&word),
            tone => Cell::Status(super::super::view::Status::new(word, tone)),
        };
        vec![Cell::time(Some(at)), Cell::text(after), status, Cell::text(text)]
    };
    Block::Table(Table {
        caption: "What happened, oldest first",
        headings: &["When", "After", "What", "More"],
        rows: moments.into_iter().map(row).collect(),
        empty: "Nothing has happened yet.",
    })
}

fn columns(document: &Value) -> Block {
    pretty(document)
}
