//! `/workflows` and `/workflows/{id}`: graphs of jobs.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::Deserialize;
use uuid::Uuid;

use super::super::graph::{Graph, MOST_STEPS};
use super::super::view::{Block, Cell, Field, Filter, Page, Section, Status, Table};
use super::super::{Dashboard, missing};
use super::{ROWS, given, pager, query};
use crate::error::Error;
use crate::model::workflow::{Step, class};
use crate::store::workflows::{self, Workflow};

const STATUSES: [&str; 5] = ["active", "succeeded", "failed", "partially_failed", "cancelled"];
/// Steps of a table.
const MOST_ROWS: usize = 1000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct Asked {
    status: Option<String>,
    template: Option<String>,
    before: Option<String>,
}

pub(in super::super) async fn list(
    State(dashboard): State<Arc<Dashboard>>,
    Query(asked): Query<Asked>,
) -> Response {
    dashboard
        .answer(async |client| {
            let before = given(asked.before.as_ref()).map(str::parse).transpose();
            let before: Option<Uuid> =
                before.map_err(|error| Error::usage("`before` is no id of a workflow").because(error))?;
            let (status, template) = (given(asked.status.as_ref()), given(asked.template.as_ref()));
            let filter = workflows::Filter { status, template_key: template, workflow_id: None, before };
            let mut found = workflows::list(client, &filter, ROWS + 1).await?;
            let is_more = i64::try_from(found.len()).is_ok_and(|len| len > ROWS);
            found.truncate(usize::try_from(ROWS).unwrap_or(usize::MAX));
            let to = |before: Option<&str>| {
                query("/workflows", &[("status", status), ("template", template), ("before", before)])
            };
            let last = found.last().filter(|_| is_more).map(|last| to(Some(&last.workflow_id.to_string())));
            let field = |name, label, value: Option<&str>, choices| Field {
                name,
                label,
                value: value.unwrap_or_default().to_owned(),
                choices,
            };
            let fields = vec![
                field("status", "Status", status, &STATUSES[..]),
                field("template", "Template", template, &[]),
            ];
            let mut blocks = vec![Block::Filter(Filter { to: "/workflows", fields })];
            blocks.extend(pager(before.map(|_| to(None)), last));
            blocks.push(table(&found));
            let section = Section::new("workflows", "Newest first", blocks);
            Ok(Some(Page::new("Workflows", "/workflows", vec![section])))
        })
        .await
}

fn table(found: &[Workflow]) -> Block {
    let row = |one: &Workflow| {
        vec![
            Cell::link(format!("/workflows/{}", one.workflow_id), one.workflow_id.to_string()),
            Cell::code(&one.template),
            Cell::status(&one.status),
            Cell::number(format!("{} of {}", one.succeeded, one.jobs)),
            Cell::number(one.failed),
            Cell::text(one.waiting_for.join(", ")),
            Cell::text(&one.correlation_id),
            Cell::time(Some(one.created_at)),
        ]
    };
    Block::Table(Table {
        caption: "Workflows, the newest first",
        headings: &["Workflow", "Template", "Status", "Done", "Failed", "Waits for", "Correlation", "Made"],
        rows: found.iter().map(row).collect(),
        empty: "No such workflows here.",
    })
}

pub(in super::super) async fn one(
    State(dashboard): State<Arc<Dashboard>>,
    Path(id): Path<String>,
) -> Response {
    let Ok(id) = id.parse::<Uuid>() else { return missing() };
    dashboard
        .answer(async |client| {
            let filter = workflows::Filter { workflow_id: Some(id), ..workflows::Filter::default() };
            let Some(workflow) = workflows::list(client, &filter, 1).await?.pop() else { return Ok(None) };
            let steps = workflows::steps(client, id).await?;
            Ok(Some(page(&workflow, &steps)))
        })
        .await
}

fn page(workflow: &Workflow, steps: &[Step]) -> Page {
    let facts = vec![
        ("Status", Cell::status(&workflow.status)),
        ("Done", Cell::text(format!("{} of {}", workflow.succeeded, workflow.jobs))),
        ("Failed", Cell::number(workflow.failed)),
        ("Running", Cell::number(workflow.running)),
        ("Ready", Cell::number(workflow.ready)),
        ("Blocked", Cell::number(workflow.blocked)),
        ("Skipped", Cell::number(workflow.skipped)),
        ("Cancelled", Cell::number(workflow.cancelled)),
        ("Waits for", Cell::text(workflow.waiting_for.join(", "))),
        ("Correlation", Cell::text(&workflow.correlation_id)),
        ("By", Cell::text(&workflow.actor)),
        ("Made", Cell::time(Some(workflow.created_at))),
        ("Over", Cell::time(workflow.finished_at)),
        ("Cancelled because", Cell::maybe(workflow.cancel_reason.as_deref())),
    ];
    let graph = Graph::new(steps).map(Block::Graph);
    let graph = graph.unwrap_or_else(|| {
        Block::Note(format!("No picture: it would have more than {MOST_STEPS} steps, or has none."))
    });
    let sections = vec![
        Section::new("standing", "How it stands", vec![Block::Facts(facts)]),
        Section::new("graph", "Graph", vec![graph]),
        Section::new("steps", "Steps", vec![table_of(steps)]),
    ];
    Page::new(format!("Workflow {}", workflow.template), "/workflows", sections)
        .lead(workflow.workflow_id.to_string())
}

fn table_of(steps: &[Step]) -> Block {
    let name = |id: Uuid| steps.iter().find(|step| step.job_id == id).map(|step| step.step.as_str());
    let row = |step: &Step| {
        let tone = match class(step.standing()) {
            "good" => "good",
            "bad" => "bad",
            "moving" => "moving",
            _ => "waiting",
        };
        let more = step.needs.len().saturating_sub(3);
        let mut after: Vec<&str> = step.needs.iter().take(3).filter_map(|need| name(need.job_id)).collect();
        let more = format!("{more} more");
        if step.needs.len() > 3 {
            after.push(&more);
        }
        vec![
            Cell::link(format!("/jobs/{}", step.job_id), &step.step),
            Cell::Status(Status { sign: step.mark(), ..Status::new(step.standing(), tone) }),
            Cell::code(&step.job_kind),
            Cell::text(if step.gate.is_some() { "gate" } else { &step.executor }),
            Cell::text(after.join(", ")),
            Cell::maybe(step.last_error.as_deref().or(step.cancel_reason.as_deref())),
            Cell::maybe(step.result_ref.as_deref()),
        ]
    };
    Block::Table(Table {
        caption: "Steps in the order of the template",
        headings: &["Step", "Standing", "Kind", "Runs on", "After", "Why", "Result"],
        rows: steps.iter().take(MOST_ROWS).map(row).collect(),
        empty: "It has no steps.",
    })
}
