//! Workflows, routes, schedules and the audit: what somebody must look at, and their numbers.

use std::collections::BTreeMap;

use deadpool_postgres::GenericClient;
use futures::future::{try_join, try_join4};
use serde::Deserialize;
use serde_json::Value;
use tokio_postgres::Row;

use super::health::Component;
use super::{audit, backfills, get, routes, row, rows};
use crate::error::{Error, Kind, Result};
use crate::model::finding::Finding;

/// Findings about workflows, schedules, the audit, backfills and routes as components, each with its [`Finding`] as detail.
pub async fn check(client: &impl GenericClient) -> Result<Vec<Component>> {
    let (mut found, routes) = try_join(without_routes(client), routes::check(client)).await?;
    found.extend(routes.iter().map(|finding| Component::with(finding, "route", None)));
    Ok(found)
}

async fn without_routes(client: &impl GenericClient) -> Result<Vec<Component>> {
    const WORKFLOWS: &str = "
        select workflow_id::text as name, severity, finding, what, hint, age_seconds::float8 as age_seconds
        from fn_job_workflow_check()";
    const SCHEDULES: &str = "
        select schedule_key as name, severity, finding, what, hint, age_seconds::float8 as age_seconds
        from fn_schedule_check()";
    let (workflows, schedules, audit, backfills) = try_join4(
        rows(client, "looking at workflows", WORKFLOWS, &[]),
        rows(client, "looking at schedules", SCHEDULES, &[]),
        audit::check(client),
        backfills::check(client),
    )
    .await?;
    let workflows = workflows.iter().map(|row| read("workflow", row));
    let schedules = schedules.iter().map(|row| read("schedule", row));
    let asked = workflows.chain(schedules).collect::<Result<Vec<_>>>()?;
    Ok([asked, audit, backfills].concat())
}

fn read(of: &str, row: &Row) -> Result<Component> {
    let finding: String = get(row, "finding")?;
    let subject = format!("{of} {}", get::<String>(row, "name")?);
    let named = Finding::named(&finding, subject, get(row, "what")?, get(row, "hint")?);
    let finding = Finding { severity: get(row, "severity")?, ..named };
    Ok(Component::with(&finding, of, get(row, "age_seconds")?))
}

/// Findings about all of these but routes, which have a check of their own.
pub async fn findings(client: &impl GenericClient) -> Result<Vec<Finding>> {
    let components = without_routes(client).await?;
    Ok(components.into_iter().filter_map(|one| serde_json::from_value(one.detail?).ok()).collect())
}

/// Workflows in numbers, each counted up to 10,000.
#[derive(Debug, Clone, Deserialize)]
pub struct Workflows {
    /// Those that go on.
    pub active: u64,
    /// Those that have failed, and hold jobs.
    pub failed_holding: u64,
    /// Steps that wait, by what they wait for: approval, event.
    pub gates: BTreeMap<String, Gates>,
}

/// Steps of active workflows that wait for one sort of thing.
#[derive(Debug, Clone, Deserialize)]
pub struct Gates {
    /// How many.
    pub waiting: u64,
    /// How long the first of them has waited; 0 when none waits.
    pub oldest_seconds: f64,
}

/// A route in numbers.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its code.
    pub code: String,
    /// Events that it has emitted.
    pub events: i64,
    /// Events that it would have emitted in its dry run.
    pub dry_run_events: i64,
    /// Writes of the last day that passed without their events.
    pub faults: i64,
}

/// A schedule in numbers.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Its key.
    pub key: String,
    /// Ticks that became jobs.
    pub ticks: i64,
    /// Ticks that were dropped.
    pub ticks_missed: i64,
    /// Since when its tick is due, also while something holds it; 0 when none is.
    pub overdue_seconds: f64,
    /// When it comes next, in seconds of the epoch; none when it will not.
    pub next_tick: Option<f64>,
}

/// Workflows in numbers.
pub async fn workflows(client: &impl GenericClient) -> Result<Workflows> {
    const SQL: &str = "select fn_job_workflow_counts() as counts";
    let counts: Value = get(&row(client, "counting workflows", SQL, &[]).await?, "counts")?;
    serde_json::from_value(counts).map_err(|error| {
        let what =
            format!("counting workflows: the answer of fn_job_workflow_counts is not as expected: {error}");
        Error::new(Kind::Schema, what).hint("run `reveille migrate up`").because(error)
    })
}

/// How many trace contexts could not be read so far.
pub async fn traceparents_ignored(client: &impl GenericClient) -> Result<u64> {
    const SQL: &str = "select fn_traceparent_ignored() as ignored";
    let ignored: i64 = get(&row(client, "counting trace contexts", SQL, &[]).await?, "ignored")?;
    Ok(ignored.unsigned_abs())
}

/// Routes of ours in numbers, the first thousand by their codes.
pub async fn routes(client: &impl GenericClient) -> Result<Vec<Route>> {
    const SQL: &str = "select route_code, events, dry_run_events, faults from fn_route_counts()";
    let route = |row: &Row| {
        Ok(Route {
            code: get(row, "route_code")?,
            events: get(row, "events")?,
            dry_run_events: get(row, "dry_run_events")?,
            faults: get(row, "faults")?,
        })
    };
    rows(client, "counting what routes did", SQL, &[]).await?.iter().map(route).collect()
}

/// Schedules in numbers, the first thousand by their keys.
pub async fn schedules(client: &impl GenericClient) -> Result<Vec<Schedule>> {
    const SQL: &str = "
        select s.schedule_key, s.ticks, s.ticks_missed, s.overdue_seconds::float8 as overdue_seconds,
               case when s.enabled then extract(epoch from s.next_tick_at)::float8 end as next_tick
        from v_job_schedule s
        order by s.schedule_key
        limit 1000";
    let schedule = |row: &Row| {
        Ok(Schedule {
            key: get(row, "schedule_key")?,
            ticks: get(row, "ticks")?,
            ticks_missed: get(row, "ticks_missed")?,
            overdue_seconds: get(row, "overdue_seconds")?,
            next_tick: get(row, "next_tick")?,
        })
    };
    rows(client, "counting what schedules did", SQL, &[]).await?.iter().map(schedule).collect()
}
