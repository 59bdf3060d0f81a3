//! `/gates`: what may happen at all, and who changed that.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::super::Dashboard;
use super::super::view::{Block, Cell, Page, Section, Status, Table};
use super::query;
use crate::error::Kind;
use crate::store::gates::{self, Change, Gate};
use crate::store::pauses::{self, Pause};

/// Changes that are shown.
const CHANGES: i64 = 100;

pub(in super::super) async fn list(State(dashboard): State<Arc<Dashboard>>) -> Response {
    dashboard
        .answer(async |client| {
            let gates = section(&gates::list(client).await?, dashboard.writes());
            let pauses = match pauses::list(client, false).await {
                Ok(pauses) => paused(&pauses, &dashboard),
                Err(error) if error.kind() == Kind::Denied => Section::failed("pauses", "Pauses", &error),
                Err(error) => return Err(error),
            };
            let history = match gates::history(client, CHANGES).await {
                Ok(changes) => history(&changes),
                Err(error) if error.kind() == Kind::Denied => Section::failed("history", "History", &error),
                Err(error) => return Err(error),
            };
            Ok(Some(Page::new("Gates", "/gates", vec![gates, pauses, history])))
        })
        .await
}

fn section(found: &[Gate], writes: bool) -> Section {
    let row = |one: &Gate| {
        let status = if one.open { Status::new("open", "good") } else { Status::new("closed", "off") };
        let mut row = vec![
            Cell::code(&one.key),
            Cell::Status(status),
            Cell::maybe(one.lets_through.as_deref()),
            Cell::text(if one.is_set { "" } else { "never set" }),
            Cell::maybe(one.actor.as_deref()),
            Cell::maybe(one.reason.as_deref()),
            Cell::time(one.updated_at),
        ];
        if writes {
            let (to, words) = if one.open { ("closed", "Close…") } else { ("open", "Open…") };
            row.push(Cell::act(
                query("/act/gate", &[("key", Some(&one.key)), ("to", Some(to))]),
                words,
                &one.key,
            ));
        }
        row
    };
    let headings: &[&str] = &["Gate", "Standing", "Lets through", "Set", "By", "Why", "Changed", "Do"];
    let table = Table {
        caption: "Gates",
        headings: if writes { headings } else { &headings[..7] },
        rows: found.iter().map(row).collect(),
        empty: "There are no gates.",
    };
    Section::new("gates", "What may happen", vec![Block::Table(table)])
}

fn paused(found: &[Pause], dashboard: &Dashboard) -> Section {
    let writes = dashboard.writes();
    let row = |one: &Pause| {
        let mut row = vec![
            Cell::text(one.scope.replace('_', " ")),
            Cell::code(&one.name),
            Cell::text(&one.actor),
            Cell::text(&one.reason),
            Cell::time(Some(one.paused_at)),
        ];
        if writes {
            let name = Some(one.name.as_str()).filter(|name| !name.is_empty());
            let to = query("/act/resume", &[("scope", Some(&one.scope)), ("name", name)]);
            row.push(Cell::act(to, "Resume…", name.unwrap_or("everything")));
        }
        row
    };
    let headings: &[&str] = &["Of", "Name", "By", "Why", "Since", "Do"];
    let table = Table {
        caption: "Standing pauses",
        headings: if writes { headings } else { &headings[..5] },
        rows: found.iter().map(row).collect(),
        empty: "Nothing is paused.",
    };
    let mut blocks = vec![Block::Table(table)];
    blocks.extend(dashboard.acts([("/act/pause".to_owned(), "Pause something…")]));
    Section::new("pauses", "What is paused", blocks)
}

fn history(found: &[Change]) -> Section {
    let row = |one: &Change| {
        vec![
            Cell::time(Some(one.changed_at)),
            Cell::code(&one.key),
            Cell::maybe(one.old_value.as_deref()),
            Cell::maybe(one.new_value.as_deref()),
            Cell::text(&one.actor),
            Cell::text(&one.reason),
        ]
    };
    let table = Table {
        caption: "Changes, the newest first",
        headings: &["When", "Key", "From", "To", "By", "Why"],
        rows: found.iter().map(row).collect(),
        empty: "Nobody has changed anything yet.",
    };
    Section::new("history", "History", vec![Block::Table(table)])
        .note(format!("The newest {CHANGES} changes of gates and settings; `dot_config_audit` keeps all."))
}
