//! What somebody must look at among workflows, routes and schedules.

use deadpool_postgres::GenericClient;
use tokio_postgres::Row;

use super::health::Component;
use super::{get, routes, rows};
use crate::error::Result;
use crate::model::finding::Finding;

/// Findings about workflows, routes and schedules as components, each with its [`Finding`] as detail.
pub async fn check(client: &impl GenericClient) -> Result<Vec<Component>> {
    const WORKFLOWS: &str = "
        select workflow_id::text as name, severity, finding, what, hint, age_seconds::float8 as age_seconds
        from fn_job_workflow_check()";
    const SCHEDULES: &str = "
        select schedule_key as name, severity, finding, what, hint, age_seconds::float8 as age_seconds
        from fn_schedule_check()";
    let mut found = Vec::new();
    for row in rows(client, "looking at workflows", WORKFLOWS, &[]).await? {
        found.push(read("workflow", &row)?);
    }
    for finding in routes::check(client).await? {
        found.push(component("route", None, finding));
    }
    for row in rows(client, "looking at schedules", SCHEDULES, &[]).await? {
        found.push(read("schedule", &row)?);
    }
    Ok(found)
}

fn read(of: &str, row: &Row) -> Result<Component> {
    let finding: String = get(row, "finding")?;
    let finding = Finding {
        subject: format!("{of} {}", get::<String>(row, "name")?),
        severity: get(row, "severity")?,
        why: why(&finding).to_owned(),
        what: get(row, "what")?,
        mend: get(row, "hint")?,
        finding,
    };
    Ok(component(of, get(row, "age_seconds")?, finding))
}

fn why(finding: &str) -> &'static str {
    match finding {
        "approval_waiting" => "nothing behind it runs until somebody decides",
        "event_waiting" => "nothing behind it runs until the event comes",
        "failed_holding" => "they will not run until what failed is retried",
        "last_job_failed" => "what it is there for was not done",
        _ => "its work is not done until that is mended",
    }
}

/// Ill when something does not work.
fn component(of: &str, age_seconds: Option<f64>, finding: Finding) -> Component {
    Component {
        component: of.to_owned(),
        name: finding.subject.strip_prefix(of).unwrap_or(&finding.subject).trim_start().to_owned(),
        status_hint: if finding.severity == "error" { "stale" } else { "warning" }.to_owned(),
        age_seconds,
        value: None,
        detail: serde_json::to_value(finding).ok(),
    }
}
