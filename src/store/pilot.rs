//! `fn_consumer_pilot`: which collection to begin with.

use deadpool_postgres::GenericClient;
use serde::Serialize;
use tokio_postgres::Row;

use super::consumers::Since;
use super::{get, rows};
use crate::error::Result;

/// A collection and how well it suits a pilot.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    /// 1 is the best.
    pub place: i32,
    /// What its events name.
    pub collection: String,
    /// How it was found: payload, address, table or domain.
    pub grouped_by: String,
    /// The domains of its events.
    pub event_domains: Vec<String>,
    /// How many there were.
    pub events: i64,
    /// And each day.
    pub events_per_day: f64,
    /// Jobs that were made of them.
    pub jobs: i64,
    /// Runs of those that failed.
    pub failed_attempts: i64,
    /// Dead letters of those.
    pub dead_letters: i64,
    /// Events that a consumer could not digest.
    pub dispatch_errors: i64,
    /// The last three, for each event.
    pub failures_per_event: f64,
    /// The share of what follows that can be undone; none when nothing follows.
    pub reversible: Option<f64>,
    /// Kinds of jobs that follow and cannot be undone, as far as anybody said.
    pub irreversible_kinds: Vec<String>,
    /// Its place by volume.
    pub volume_place: i32,
    /// Its place by failures.
    pub failure_place: i32,
    /// Its place by what can be undone.
    pub reversible_place: i32,
    /// Whether there were events enough to learn from.
    pub enough: bool,
}

/// The best `limit` collections with events since a moment; none is 30 days.
pub async fn rank(
    client: &impl GenericClient,
    since: Option<Since>,
    limit: i32,
    collection_key: Option<&str>,
) -> Result<Vec<Candidate>> {
    const SQL: &str = "
        select p.place, p.collection, p.grouped_by, p.event_domains, p.events, p.events_per_day::float8 as events_per_day,
               p.jobs, p.failed_attempts, p.dead_letters, p.dispatch_errors,
               p.failures_per_event::float8 as failures_per_event, p.reversible::float8 as reversible,
               p.irreversible_kinds, p.volume_place, p.failure_place, p.reversible_place, p.enough
        from fn_consumer_pilot(
          p_since => coalesce($1, clock_timestamp() - make_interval(secs => $2)), p_limit => $3,
          p_collection_key => $4) p";
    let (at, ago) = match since {
        Some(Since::At(at)) => (Some(at), None),
        Some(Since::Ago(ago)) => (None, Some(ago.as_secs_f64())),
        None => (None, None),
    };
    let found = rows(client, "ranking collections", SQL, &[&at, &ago, &limit, &collection_key]).await?;
    found.iter().map(candidate).collect()
}

fn candidate(row: &Row) -> Result<Candidate> {
    Ok(Candidate {
        place: get(row, "place")?,
        collection: get(row, "collection")?,
        grouped_by: get(row, "grouped_by")?,
        event_domains: get(row, "event_domains")?,
        events: get(row, "events")?,
        events_per_day: get(row, "events_per_day")?,
        jobs: get(row, "jobs")?,
        failed_attempts: get(row, "failed_attempts")?,
        dead_letters: get(row, "dead_letters")?,
        dispatch_errors: get(row, "dispatch_errors")?,
        failures_per_event: get(row, "failures_per_event")?,
        reversible: get(row, "reversible")?,
        irreversible_kinds: get(row, "irreversible_kinds")?,
        volume_place: get(row, "volume_place")?,
        failure_place: get(row, "failure_place")?,
        reversible_place: get(row, "reversible_place")?,
        enough: get(row, "enough")?,
    })
}
