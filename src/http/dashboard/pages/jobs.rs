//! `/jobs`: the newest jobs, narrowed, page by page.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use deadpool_postgres::Object;
use serde::Deserialize;

use super::super::Dashboard;
use super::super::view::{Block, Cell, Field, Filter, Page, Section, Table};
use super::{ROWS, given, pager, pause_or_resume, paused, query};
use crate::error::{Error, Result};
use crate::store::jobs::{self, Summary, WINDOW};

const STATUSES: [&str; 9] = [
    "queued",
    "leased",
    "in_progress",
    "succeeded",
    "failed",
    "retry_waiting",
    "dead_letter",
    "cancelled",
    "cleaned",
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct Asked {
    status: Option<String>,
    kind: Option<String>,
    domain: Option<String>,
    before: Option<String>,
}

pub(in super::super) async fn list(
    State(dashboard): State<Arc<Dashboard>>,
    Query(asked): Query<Asked>,
) -> Response {
    dashboard
        .answer(async |client| {
            let before = given(asked.before.as_ref()).map(str::parse).transpose();
            let before = before.map_err(|error| Error::usage("`before` is no id of a job").because(error))?;
            let page = jobs::Page {
                status: given(asked.status.as_ref()),
                job_kind: given(asked.kind.as_ref()),
                event_domain: given(asked.domain.as_ref()),
                before,
            };
            let (found, next) = jobs::page(client, &page, ROWS).await?;
            let to = |before: Option<&str>| {
                query(
                    "/jobs",
                    &[
                        ("status", page.status),
                        ("kind", page.job_kind),
                        ("domain", page.event_domain),
                        ("before", before),
                    ],
                )
            };
            let next = next.map(|id| to(Some(&id.to_string())));
            let is_narrow = page.status.or(page.job_kind).or(page.event_domain).is_some();
            let mut blocks = vec![filter(&asked)];
            let acts = acts(client, page.job_kind, page.event_domain).await?;
            if !acts.is_empty() {
                blocks.extend(dashboard.acts(acts));
            }
            blocks.extend(pager(before.map(|_| to(None)), next));
            blocks.push(table(&found));
            let mut section = Section::new("jobs", "Newest first", blocks);
            if is_narrow {
                section = section
                    .note(format!("A page looks at {WINDOW} jobs at most, then the next one goes on."));
            }
            Ok(Some(Page::new("Jobs", "/jobs", vec![section])))
        })
        .await
}

/// What can be done with the kind and the domain that are looked at.
async fn acts(
    client: &Object,
    kind: Option<&str>,
    domain: Option<&str>,
) -> Result<Vec<(String, &'static str)>> {
    if kind.or(domain).is_none() {
        return Ok(Vec::new());
    }
    let pauses = paused(client).await?;
    let kind = kind
        .map(|kind| pause_or_resume(&pauses, "job_kind", kind, ["Pause this kind…", "Resume this kind…"]));
    let domain = domain
        .map(|name| pause_or_resume(&pauses, "domain", name, ["Pause this domain…", "Resume this domain…"]));
    Ok(kind.into_iter().chain(domain).collect())
}

fn filter(asked: &Asked) -> Block {
    let value = |text: Option<&String>| given(text).unwrap_or_default().to_owned();
    Block::Filter(Filter {
        to: "/jobs",
        fields: vec![
            Field {
                name: "status",
                label: "Status",
                value: value(asked.status.as_ref()),
                choices: &STATUSES,
            },
            Field { name: "kind", label: "Kind", value: value(asked.kind.as_ref()), choices: &[] },
            Field { name: "domain", label: "Domain", value: value(asked.domain.as_ref()), choices: &[] },
        ],
    })
}

pub(super) fn table(found: &[Summary]) -> Block {
    let row = |job: &Summary| {
        let error = job.last_error.as_deref().unwrap_or_default();
        let short: String = error.chars().take(160).collect();
        vec![
            Cell::link(format!("/jobs/{}", job.job_id), job.job_id.to_string()),
            Cell::code(&job.job_kind),
            Cell::status(&job.status),
            Cell::maybe(job.consumer_key.as_deref()),
            Cell::maybe(job.source_ref.as_deref()),
            Cell::number(format!("{} of {}", job.attempts, job.max_attempts)),
            Cell::time(Some(job.created_at)),
            Cell::text(short),
        ]
    };
    Block::Table(Table {
        caption: "Jobs, the newest first",
        headings: &["Job", "Kind", "Status", "Consumer", "Source", "Failures", "Made", "Last error"],
        rows: found.iter().map(row).collect(),
        empty: "No such jobs here.",
    })
}
