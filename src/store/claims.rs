//! `fn_job_claim`: jobs leased to a worker.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use uuid::Uuid;

use super::rows;
use super::work::{left, seconds};
use crate::error::{Error, Result};
use crate::model::job::Job;

/// What a claim asks for.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The registered name to claim under.
    pub executor_name: &'a str,
    /// Which process of that name; none leaves it open.
    pub instance: Option<&'a str>,
    /// Most jobs to lease.
    pub limit: usize,
    /// Length of the lease; none leaves it to the database's own key.
    pub lease: Option<Duration>,
    /// Kinds to claim; none is all that the name may have.
    pub job_kinds: Option<&'a [String]>,
    /// Channel and token of the listener's canary, when one is due.
    pub canary: Option<(&'a str, &'a str)>,
}

/// What a claim gave.
#[derive(Debug, Default)]
pub struct Claimed {
    /// The jobs, the most urgent first.
    pub jobs: Vec<Job>,
    /// Leased, too, but not to be run: what they hold cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// How long their leases last from the claim on, by the database's clock.
    pub lease: Duration,
    /// There may be jobs that this claim was not to take, but others.
    pub others_wait: bool,
    /// Why nothing was given, when a gate or a rule said no.
    pub refused: Option<String>,
}

/// A leased job of which no more than this can be read.
#[derive(Debug)]
pub struct Unreadable {
    /// The job.
    pub job_id: Uuid,
    /// Its kind.
    pub job_kind: String,
    /// The token of its lease.
    pub lease_token: i64,
    /// What cannot be read, and why.
    pub error: Error,
}

/// Leases jobs; one that cannot be read spoils no other one. The canary travels along and costs no statement of its own.
pub async fn claim(client: &impl GenericClient, claim: &Claim<'_>) -> Result<Claimed> {
    // the left side always gives its row, so the canary is sent also when there is nothing to claim
    const SQL: &str = "
        select c.refused, c.reason, c.job_id, c.job_kind, c.lease_token, c.lease_until, c.attempts, c.max_attempts,
               c.event_domain, c.source_ref, c.target_ref, c.payload_ref, c.safe_payload, c.priority, c.scheduled_at,
               c.idempotency_key, c.ordering_key, c.actor, c.run_id, c.workflow_id, c.causation_event_id,
               c.consumer_key, c.correlation_id, c.traceparent, c.created_at, n.now, c.others_wait,
               c.policy
        from (select clock_timestamp() as now, case when $5::text is not null then pg_notify($5, $6) end as canary) n
        left join fn_job_claim(
          p_executor_name => $1, p_limit => $2, p_lease_seconds => $3, p_job_kinds => $4,
          p_instance => $7) c on true";
    let limit = i32::try_from(claim.limit).unwrap_or(i32::MAX);
    let (channel, token) = claim.canary.unzip();
    let found = rows(
        client,
        "claiming jobs",
        SQL,
        &[
            &claim.executor_name,
            &limit,
            &seconds(claim.lease),
            &claim.job_kinds,
            &channel,
            &token,
            &claim.instance,
        ],
    )
    .await?;
    let mut claimed = Claimed::default();
    for row in &found {
        match at::<Option<bool>>(row, 0)? {
            None => {}
            Some(true) => claimed.refused = at(row, 1)?,
            Some(false) => {
                claimed.lease = left(at(row, 5)?, at(row, 25)?);
                claimed.others_wait = at(row, 26)?;
                match job(row) {
                    Ok(job) => claimed.jobs.push(job),
                    Err(error) => claimed.unreadable.push(Unreadable {
                        job_id: at(row, 2)?,
                        job_kind: at(row, 3)?,
                        lease_token: at(row, 4)?,
                        error,
                    }),
                }
            }
        }
    }
    claimed.jobs.sort_unstable_by_key(|job| (job.priority, job.scheduled_at, job.job_id));
    Ok(claimed)
}

/// Columns by place: a search by name for each of them would cost more than the rest of a claim.
fn job(row: &Row) -> Result<Job> {
    Ok(Job {
        job_id: at(row, 2)?,
        job_kind: at(row, 3)?,
        lease_token: at(row, 4)?,
        lease_until: at(row, 5)?,
        attempts: at(row, 6)?,
        max_attempts: at(row, 7)?,
        event_domain: at(row, 8)?,
        source_ref: at(row, 9)?,
        target_ref: at(row, 10)?,
        payload_ref: at(row, 11)?,
        safe_payload: at(row, 12)?,
        priority: at(row, 13)?,
        scheduled_at: at(row, 14)?,
        idempotency_key: at(row, 15)?,
        ordering_key: at(row, 16)?,
        actor: at(row, 17)?,
        run_id: at(row, 18)?,
        workflow_id: at(row, 19)?,
        causation_event_id: at(row, 20)?,
        consumer_key: at(row, 21)?,
        correlation_id: at(row, 22)?,
        traceparent: at(row, 23)?,
        created_at: at(row, 24)?,
        policy: at(row, 27)?,
    })
}

fn at<'a, T: FromSql<'a>>(row: &'a Row, place: usize) -> Result<T> {
    row.try_get(place).map_err(|error| {
        let column = row.columns().get(place).map_or("?", |column| column.name());
        Error::unreadable(format!("reading {column} of a claimed job"), error)
    })
}
