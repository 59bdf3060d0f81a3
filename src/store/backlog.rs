//! What waits: to be claimed (`fn_job_backlog`), or behind others of its ordering key (`v_ordering_blocked`).

use std::fmt;
use std::time::Duration;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{get, rows};
use crate::error::Result;

/// Jobs of one kind, domain, consumer and priority that wait to be claimed.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are the columns of v_job_queue_backlog")]
pub struct Waiting {
    pub executor: String,
    pub job_kind: String,
    pub event_domain: Option<String>,
    pub consumer_key: Option<String>,
    pub priority: i32,
    /// Counted up to 1000.
    pub due: i32,
    /// There are more due.
    pub more: bool,
    pub oldest_due_at: Option<Timestamp>,
    /// When the first is due, while none is.
    pub next_due_at: Option<Timestamp>,
    /// Why nobody may claim them; none: somebody may.
    pub reason: Option<String>,
}

/// What waits to be claimed, what has waited longest first.
pub async fn list(client: &impl GenericClient) -> Result<Vec<Waiting>> {
    const SQL: &str = "
        select b.executor, b.job_kind, b.event_domain, b.consumer_key, b.priority, b.due, b.more, b.oldest_due_at,
               b.next_due_at, b.reason
        from v_job_queue_backlog b
        order by b.oldest_due_at nulls last, b.next_due_at, b.executor, b.job_kind, b.priority";
    let waiting = |row: &Row| {
        Ok(Waiting {
            executor: get(row, "executor")?,
            job_kind: get(row, "job_kind")?,
            event_domain: get(row, "event_domain")?,
            consumer_key: get(row, "consumer_key")?,
            priority: get(row, "priority")?,
            due: get(row, "due")?,
            more: get(row, "more")?,
            oldest_due_at: get(row, "oldest_due_at")?,
            next_due_at: get(row, "next_due_at")?,
            reason: get(row, "reason")?,
        })
    };
    rows(client, "reading the backlog", SQL, &[]).await?.iter().map(waiting).collect()
}

/// Due jobs of one kind and domain that no live executor may claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the columns of v_job_queue_backlog")]
pub struct Unclaimed {
    pub executor: String,
    pub job_kind: String,
    pub event_domain: Option<String>,
    /// `no_live_executor` or `not_subscribed`.
    pub reason: String,
    /// Counted up to 1000 for each consumer and priority.
    pub due: i64,
    /// Since when the oldest is due.
    pub age_seconds: f64,
}

/// How long due jobs may wait for an executor that may claim them, before somebody is told.
pub const PATIENCE: Duration = Duration::from_mins(1);

impl fmt::Display for Unclaimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} jobs for {}", self.job_kind, self.executor)?;
        self.event_domain.as_ref().map_or(Ok(()), |domain| write!(f, " of domain {domain}"))
    }
}

/// The question of [`unclaimed`], also for a statement that asks something else besides; `$1` is the patience in
/// seconds. Read through the function, which every role of ours may call.
pub(super) const UNCLAIMED: &str = "
        select b.executor, b.job_kind, b.event_domain, b.reason, sum(b.due)::bigint as due,
               extract(epoch from clock_timestamp() - min(b.oldest_due_at))::float8 as age_seconds
        from fn_job_backlog() b
        where b.reason in ('no_live_executor', 'not_subscribed')
        group by b.executor, b.job_kind, b.event_domain, b.reason
        having min(b.oldest_due_at) < clock_timestamp() - make_interval(secs => $1)
        order by b.executor, b.job_kind, b.event_domain, b.reason";

/// Backlog that has waited for longer than `patience` and that no live executor may claim.
pub async fn unclaimed(client: &impl GenericClient, patience: Duration) -> Result<Vec<Unclaimed>> {
    let unclaimed = |row: &Row| {
        Ok(Unclaimed {
            executor: get(row, "executor")?,
            job_kind: get(row, "job_kind")?,
            event_domain: get(row, "event_domain")?,
            reason: get(row, "reason")?,
            due: get(row, "due")?,
            age_seconds: get(row, "age_seconds")?,
        })
    };
    let what = "looking for backlog that nobody may claim";
    rows(client, what, UNCLAIMED, &[&patience.as_secs_f64()]).await?.iter().map(unclaimed).collect()
}

/// A job that holds up others of its ordering key.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are the columns of v_ordering_blocked")]
pub struct Blocked {
    pub ordering_key: String,
    pub blocking_job_id: Uuid,
    pub blocking_job_kind: String,
    pub blocking_status: String,
    pub reason: String,
    /// When the blocking job is due, if it waits for a moment.
    pub until: Option<Timestamp>,
    pub last_error: Option<String>,
    pub next_job_id: Option<Uuid>,
    /// How many wait behind it, counted up to 1000.
    pub behind: i32,
    pub oldest_created_at: Timestamp,
}

/// What is held up by its ordering key, the longest queue first.
pub async fn blocked(client: &impl GenericClient) -> Result<Vec<Blocked>> {
    const SQL: &str = "
        select o.ordering_key, o.blocking_job_id, o.blocking_job_kind, o.blocking_status, o.reason, o.until,
               o.last_error, o.next_job_id, o.behind, o.oldest_created_at
        from v_ordering_blocked o
        order by o.behind desc, o.oldest_created_at, o.blocking_job_id";
    let blocked = |row: &Row| {
        Ok(Blocked {
            ordering_key: get(row, "ordering_key")?,
            blocking_job_id: get(row, "blocking_job_id")?,
            blocking_job_kind: get(row, "blocking_job_kind")?,
            blocking_status: get(row, "blocking_status")?,
            reason: get(row, "reason")?,
            until: get(row, "until")?,
            last_error: get(row, "last_error")?,
            next_job_id: get(row, "next_job_id")?,
            behind: get(row, "behind")?,
            oldest_created_at: get(row, "oldest_created_at")?,
        })
    };
    rows(client, "reading what is blocked by its order", SQL, &[]).await?.iter().map(blocked).collect()
}
