//! `job_queue`: work. `job_archive`: work that is over.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{get, row, rows};
use crate::error::Result;
use crate::model::executor::ExecutorKind;
use crate::model::refusal::Answer;

/// A job as a list shows it.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct Summary {
    pub job_id: Uuid,
    pub job_kind: String,
    pub status: String,
    pub executor: String,
    pub source_ref: Option<String>,
    pub consumer_key: Option<String>,
    pub priority: i32,
    pub attempts: i32,
    pub max_attempts: i32,
    pub lease_owner: Option<String>,
    pub scheduled_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub last_error: Option<String>,
}

/// The newest jobs first, at most `limit`, of one status or kind when given; those of the archive when `archived`.
pub async fn list(
    client: &impl GenericClient,
    archived: bool,
    status: Option<&str>,
    kind: Option<&str>,
    limit: i64,
) -> Result<Vec<Summary>> {
    // ids are time-ordered, so the primary key's index gives the newest without a sort
    const SQL: &str = "
        select j.job_id, j.job_kind, j.status, j.executor, j.source_ref, j.consumer_key, j.priority, j.attempts,
               j.max_attempts, j.lease_owner, j.scheduled_at, j.finished_at, j.created_at, j.last_error
        from job_queue j
        where ($1::text is null or j.status = $1)
          and ($2::text is null or j.job_kind = $2)
        order by j.job_id desc
        limit $3";
    let sql = if archived { SQL.replace("job_queue", "job_archive") } else { SQL.to_owned() };
    let found = rows(client, "listing jobs", &sql, &[&status, &kind, &limit]).await?;
    found.iter().map(summary).collect()
}

fn summary(row: &Row) -> Result<Summary> {
    Ok(Summary {
        job_id: get(row, "job_id")?,
        job_kind: get(row, "job_kind")?,
        status: get(row, "status")?,
        executor: get(row, "executor")?,
        source_ref: get(row, "source_ref")?,
        consumer_key: get(row, "consumer_key")?,
        priority: get(row, "priority")?,
        attempts: get(row, "attempts")?,
        max_attempts: get(row, "max_attempts")?,
        lease_owner: get(row, "lease_owner")?,
        scheduled_at: get(row, "scheduled_at")?,
        finished_at: get(row, "finished_at")?,
        created_at: get(row, "created_at")?,
        last_error: get(row, "last_error")?,
    })
}

/// Where a page of a long list begins, and what it shows; what is none does not narrow.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct Page<'a> {
    pub status: Option<&'a str>,
    pub job_kind: Option<&'a str>,
    pub event_domain: Option<&'a str>,
    /// Only jobs made before this one.
    pub before: Option<Uuid>,
}

/// Most jobs that one page looks at; where few fit, the page ends there, and the next goes on.
pub const WINDOW: i64 = 20_000;

/// The newest jobs that fit, at most `limit`; and behind which job the next page begins, when there may be more.
pub async fn page(
    client: &impl GenericClient,
    page: &Page<'_>,
    limit: i64,
) -> Result<(Vec<Summary>, Option<Uuid>)> {
    // the inner limit bounds the look also when nothing fits
    const SQL: &str = "
        select j.job_id, j.job_kind, j.status, j.executor, j.source_ref, j.consumer_key, j.priority, j.attempts,
               j.max_attempts, j.lease_owner, j.scheduled_at, j.finished_at, j.created_at, j.last_error
        from (
          select q.* from job_queue q
          where q.job_id < coalesce($4::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
          order by q.job_id desc
          limit $5) j
        where ($1::text is null or j.status = $1)
          and ($2::text is null or j.job_kind = $2)
          and ($3::text is null or j.event_domain = $3)
        order by j.job_id desc
        limit $6";
    const END: &str = "
        select q.job_id from job_queue q
        where q.job_id < coalesce($1::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        order by q.job_id desc
        offset $2::bigint - 1
        limit 1";
    let more = limit + 1;
    let parameters: super::Parameters<'_> =
        &[&page.status, &page.job_kind, &page.event_domain, &page.before, &WINDOW, &more];
    let found = rows(client, "listing jobs", SQL, parameters).await?;
    let mut jobs: Vec<Summary> = found.iter().map(summary).collect::<Result<_>>()?;
    if i64::try_from(jobs.len()).unwrap_or(i64::MAX) == more {
        jobs.pop();
        let next = jobs.last().map(|job| job.job_id);
        return Ok((jobs, next));
    }
    let end = rows(client, "looking for more jobs", END, &[&page.before, &WINDOW]).await?;
    let next = end.first().map(|row| get(row, "job_id")).transpose()?;
    Ok((jobs, next))
}

/// One job with every column, also an archived one, which has `archived_at` and its `history`; none when there is none.
pub async fn show(client: &impl GenericClient, id: Uuid) -> Result<Option<Value>> {
    const SQL: &str = "
        select to_jsonb(j) - array['claimable', 'lane'] as document
        from job_queue j
        where j.job_id = $1
        union all
        select to_jsonb(a) from job_archive a where a.job_id = $1";
    let found = rows(client, "reading a job", SQL, &[&id]).await?;
    found.first().map(|row| get(row, "document")).transpose()
}

/// A job to be enqueued; what is `None` gets the default of `fn_job_enqueue`.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct NewJob {
    pub job_kind: String,
    pub actor: Option<String>,
    pub payload: Option<Value>,
    pub source_ref: Option<String>,
    pub target_ref: Option<String>,
    pub payload_ref: Option<String>,
    pub idempotency_key: Option<String>,
    pub executor: Option<ExecutorKind>,
    pub priority: Option<i32>,
    pub scheduled_at: Option<Timestamp>,
    pub ordering_key: Option<String>,
    pub max_attempts: Option<i32>,
    pub correlation_id: Option<String>,
    /// What becomes of a job with the same kind and key that still waits: keep, replace or debounce.
    pub on_duplicate: Option<String>,
}

/// Enqueues a job; the answer holds `job_id`, and whether it was `created` or `changed` now.
pub async fn enqueue(client: &impl GenericClient, job: &NewJob) -> Result<Answer> {
    const SQL: &str = "
        select fn_job_enqueue(
          p_job_kind => $1, p_actor => coalesce($2, session_user::text), p_safe_payload => coalesce($3, '{}'::jsonb),
          p_source_ref => $4, p_target_ref => $5, p_payload_ref => $6, p_idempotency_key => $7,
          p_executor => coalesce($8, 'PG_worker'), p_priority => coalesce($9, 100), p_scheduled_at => $10,
          p_ordering_key => $11, p_max_attempts => $12, p_correlation_id => $13,
          p_on_duplicate => coalesce($14, 'keep')) as answer";
    let executor = job.executor.map(ExecutorKind::as_str);
    let answer = row(
        client,
        &format!("enqueueing {}", job.job_kind),
        SQL,
        &[
            &job.job_kind,
            &job.actor,
            &job.payload,
            &job.source_ref,
            &job.target_ref,
            &job.payload_ref,
            &job.idempotency_key,
            &executor,
            &job.priority,
            &job.scheduled_at,
            &job.ordering_key,
            &job.max_attempts,
            &job.correlation_id,
            &job.on_duplicate,
        ],
    )
    .await?;
    Ok(Answer::from_json(get::<Value>(&answer, "answer")?))
}

/// Cancels a job that waits, or asks for the end of a run.
pub async fn cancel(
    client: &impl GenericClient,
    id: Uuid,
    actor: Option<&str>,
    reason: &str,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_job_cancel(p_job_id => $1, p_actor => coalesce($2, session_user::text), p_reason => $3) as answer";
    let answer = row(client, "cancelling a job", SQL, &[&id, &actor, &reason]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Takes a leased job from its worker, whoever that is.
pub async fn take_back(
    client: &impl GenericClient,
    id: Uuid,
    actor: Option<&str>,
    reason: &str,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_job_take_back(p_job_id => $1, p_actor => coalesce($2, session_user::text), p_reason => $3) as answer";
    let answer = row(client, "taking a job back", SQL, &[&id, &actor, &reason]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// One part of a retry policy.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyPart {
    /// Its name, as the keys of `dot_config` end.
    pub name: String,
    /// What holds.
    pub value: String,
    /// The key that decides; none is what is built in.
    pub source: Option<String>,
}

/// How jobs of a kind are tried again.
pub async fn policy(
    client: &impl GenericClient,
    job_kind: &str,
    event_domain: Option<&str>,
) -> Result<Vec<PolicyPart>> {
    const SQL: &str = "
        select v.name, v.value, p.sources ->> v.name as source
        from fn_job_policy(p_job_kind => $1, p_event_domain => $2) p
        cross join lateral (values
          ('backoff_strategy', p.strategy), ('backoff_seconds', p.backoff_seconds::text),
          ('backoff_cap_seconds', p.cap_seconds::text), ('max_attempts', p.max_attempts::text),
          ('max_lease_losses', p.max_lease_losses::text)) v (name, value)";
    let part = |row: &Row| {
        Ok(PolicyPart { name: get(row, "name")?, value: get(row, "value")?, source: get(row, "source")? })
    };
    rows(client, "reading a retry policy", SQL, &[&job_kind, &event_domain]).await?.iter().map(part).collect()
}
