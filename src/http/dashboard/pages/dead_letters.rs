//! `/dead-letters` and `/dead-letters/{id}`: jobs that may not be tried again, and what was decided about them.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::super::view::{Block, Cell, Field, Filter, Link, Page, Section, Table};
use super::super::{Dashboard, missing};
use super::{ROWS, field, fields, given, pager, place, placed, pretty, query};
use crate::store::dead_letters::{self, DeadLetter, WINDOW};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct Asked {
    show: Option<String>,
    behind: Option<String>,
}

pub(in super::super) async fn list(
    State(dashboard): State<Arc<Dashboard>>,
    Query(asked): Query<Asked>,
) -> Response {
    dashboard
        .answer(async |client| {
            let show = given(asked.show.as_ref());
            let decided = show == Some("decided");
            let behind = place(given(asked.behind.as_ref()))?;
            let (found, next) = dead_letters::page(client, decided, behind, ROWS).await?;
            let to = |behind: Option<&str>| query("/dead-letters", &[("show", show), ("behind", behind)]);
            let next = placed(next).map(|next| to(Some(&next)));
            let field = Field {
                name: "show",
                label: "Show",
                value: show.unwrap_or_default().to_owned(),
                choices: &["open", "decided"],
            };
            let mut blocks = vec![Block::Filter(Filter { to: "/dead-letters", fields: vec![field] })];
            blocks.extend(pager(behind.map(|_| to(None)), next));
            blocks.push(table(&found));
            let title = if decided { "Decided, the newest first" } else { "Open, the oldest first" };
            let mut section = Section::new("dead-letters", title, blocks);
            if decided {
                section = section.note(format!(
                    "A page looks at {WINDOW} dead letters at most, open ones among them, then the next one goes on."
                ));
            }
            Ok(Some(Page::new("Dead letters", "/dead-letters", vec![section])))
        })
        .await
}

fn table(found: &[DeadLetter]) -> Block {
    let row = |one: &DeadLetter| {
        let error: String = one.error.as_deref().unwrap_or_default().chars().take(160).collect();
        vec![
            Cell::link(format!("/dead-letters/{}", one.dead_letter_id), one.dead_letter_id.to_string()),
            Cell::code(&one.job_kind),
            Cell::maybe(one.event_domain.as_deref()),
            Cell::status(&one.reason_class),
            Cell::text(error),
            Cell::Status(super::super::view::Status::of(match one.triage_status.as_str() {
                "open" => "undecided",
                other => other,
            })),
            Cell::maybe(one.triage_actor.as_deref()),
            Cell::time(Some(one.created_at)),
        ]
    };
    Block::Table(Table {
        caption: "Dead letters",
        headings: &["Dead letter", "Kind", "Domain", "Why", "Error", "Triage", "By", "Died"],
        rows: found.iter().map(row).collect(),
        empty: "No dead letters here.",
    })
}

pub(in super::super) async fn one(
    State(dashboard): State<Arc<Dashboard>>,
    Path(id): Path<String>,
) -> Response {
    let Ok(id) = id.parse::<Uuid>() else { return missing() };
    dashboard
        .answer(async |client| {
            let letter = dead_letters::show(client, id).await?;
            Ok(letter.map(|letter| page(id, &letter, &dashboard)))
        })
        .await
}

fn page(id: Uuid, letter: &Value, dashboard: &Dashboard) -> Page {
    let about = fields(
        letter,
        &[
            ("Why", "reason_class"),
            ("Error", "error"),
            ("Kind", "job_kind"),
            ("Domain", "event_domain"),
            ("Consumer", "consumer_key"),
            ("Executor", "executor"),
            ("Died", "created_at"),
        ],
    );
    let triage = fields(
        letter,
        &[
            ("Triage", "triage_status"),
            ("By", "triage_actor"),
            ("As", "triage_role"),
            ("Note", "triage_note"),
            ("When", "triaged_at"),
            ("Replayed", "replayed_at"),
            ("Replayed by", "replayed_by"),
            ("Allowed by", "authorization_source"),
        ],
    );
    let link = |name: &str, path: &str, text: &str| {
        letter[name].as_str().map(|id| Link { to: format!("{path}/{id}"), text: text.to_owned() })
    };
    let links = [
        link("job_id", "/jobs", "The job, and why it stands as it does"),
        link(
            "previous_dead_letter_id",
            "/dead-letters",
            "The dead letter that was replayed and failed again",
        ),
    ];
    let commands = format!(
        "reveille dlq triage {id} manual_replay --note 'why'\nreveille dlq replay {id} --authorization 'where that is allowed' --apply"
    );
    let acts = dashboard
        .acts([(format!("/act/triage?id={id}"), "Decide…"), (format!("/act/replay?id={id}"), "Replay…")]);
    let decided = std::iter::once(triage).chain(acts).chain([Block::Code(commands)]).collect();
    let sections = vec![
        Section::new(
            "about",
            "What happened",
            vec![about, Block::Links(links.into_iter().flatten().collect())],
        ),
        Section::new("triage", "What was decided", decided)
            .note("docs/runbooks/dead-letters.md says what each decision means."),
        Section::new("attempts", "Attempts, oldest first", vec![attempts(&letter["attempts"])]),
        Section::new("job", "The job as it died", vec![pretty(&letter["job"])]),
    ];
    Page::new(format!("Dead letter {}", field(letter, "job_kind")), "/dead-letters", sections)
        .lead(id.to_string())
}

fn attempts(list: &Value) -> Block {
    let row = |one: &Value| {
        vec![
            Cell::status(field(one, "outcome")),
            Cell::code(field(one, "lease_owner")),
            Cell::json(&one["picked_at"]),
            Cell::json(&one["ended_at"]),
            Cell::text(field(one, "error")),
        ]
    };
    Block::Table(Table {
        caption: "Attempts",
        headings: &["Outcome", "By", "Claimed", "Ended", "Error"],
        rows: list.as_array().into_iter().flatten().map(row).collect(),
        empty: "No attempt is known.",
    })
}
