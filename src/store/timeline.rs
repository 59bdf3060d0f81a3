//! `event_outbox` beside `job_queue`: what became of every event and every job, with its moments.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::{get, row, rows};
use crate::error::Result;

/// An event and what one consumer made of it; `consumer_key` is none when nobody wanted it.
#[derive(Debug, Clone, Serialize)]
pub struct EventLine {
    /// The event.
    pub event_id: Uuid,
    /// `domain.type`.
    pub name: String,
    /// When the producer emitted it.
    pub occurred_at: Timestamp,
    /// The consumer that wanted it.
    pub consumer_key: Option<String>,
    /// Whether that consumer only sees facts and makes no job.
    pub terminal: bool,
    /// The job it made.
    pub job_id: Option<Uuid>,
}

/// A job and its moments.
#[derive(Debug, Clone, Serialize)]
pub struct JobLine {
    /// The job.
    pub job_id: Uuid,
    /// Its kind.
    pub job_kind: String,
    /// Its status.
    pub status: String,
    /// The event that it was made from; none when somebody enqueued it.
    pub causation_event_id: Option<Uuid>,
    /// Who ran it.
    pub lease_owner: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was claimed last.
    pub picked_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Failures so far.
    pub attempts: i32,
    /// The last failure.
    pub last_error: Option<String>,
}

/// Every event of `domain`, oldest first, once for each consumer that wants it.
pub async fn events(client: &impl GenericClient, domain: &str) -> Result<Vec<EventLine>> {
    const SQL: &str = "
        select e.id, e.event_domain || '.' || e.event_type as name, e.occurred_at, c.consumer_key,
               c.consumer_key is not null and c.job_kind is null as terminal, j.job_id
        from event_outbox e
        left join consumer_registry c on c.enabled and fn_consumer_verdict(c, e) = 'match'
        left join job_queue j on j.causation_event_id = e.id and j.consumer_key = c.consumer_key
        where e.event_domain = $1
        order by e.occurred_at, e.id, c.consumer_key";
    let found = rows(client, "reading events", SQL, &[&domain]).await?;
    let line = |row| {
        Ok(EventLine {
            event_id: get(row, "id")?,
            name: get(row, "name")?,
            occurred_at: get(row, "occurred_at")?,
            consumer_key: get(row, "consumer_key")?,
            terminal: get(row, "terminal")?,
            job_id: get(row, "job_id")?,
        })
    };
    found.iter().map(line).collect()
}

/// Every job, oldest first.
pub async fn jobs(client: &impl GenericClient) -> Result<Vec<JobLine>> {
    const SQL: &str = "
        select j.job_id, j.job_kind, j.status, j.causation_event_id, j.lease_owner, j.created_at, j.picked_at,
               j.finished_at, j.attempts, j.last_error
        from job_queue j
        order by j.created_at, j.job_id";
    let found = rows(client, "reading jobs", SQL, &[]).await?;
    let line = |row| {
        Ok(JobLine {
            job_id: get(row, "job_id")?,
            job_kind: get(row, "job_kind")?,
            status: get(row, "status")?,
            causation_event_id: get(row, "causation_event_id")?,
            lease_owner: get(row, "lease_owner")?,
            created_at: get(row, "created_at")?,
            picked_at: get(row, "picked_at")?,
            finished_at: get(row, "finished_at")?,
            attempts: get(row, "attempts")?,
            last_error: get(row, "last_error")?,
        })
    };
    found.iter().map(line).collect()
}

/// How many events each way of looking found, the most frequent first.
pub async fn found_by(client: &impl GenericClient) -> Result<Vec<(String, i64)>> {
    const SQL: &str = "
        select p.found_by, sum(p.events)::bigint as events
        from dispatch_pass p
        where p.events > 0
        group by p.found_by
        order by 2 desc, 1";
    let found = rows(client, "reading passes", SQL, &[]).await?;
    found.iter().map(|row| Ok((get(row, "found_by")?, get(row, "events")?))).collect()
}

/// Whether everything committed in `domain` has been dispatched.
pub async fn is_read_to_the_end(client: &impl GenericClient, domain: &str) -> Result<bool> {
    const SQL: &str = "select fn_dispatch_unread(p_event_domain => $1) is null as done";
    get(&row(client, "looking for unread events", SQL, &[&domain]).await?, "done")
}
