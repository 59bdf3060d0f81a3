//! Jobs enqueued by the batch, and a bare INSERT of the same rows.

use deadpool_postgres::GenericClient;
use serde_json::Value;

use super::script;
use super::stage::row_count;
use crate::error::{Error, Kind, Result};
use crate::store::{get, row};

/// Enqueues an array of jobs; answers how many were new.
pub async fn enqueue_many(client: &impl GenericClient, jobs: &Value) -> Result<i64> {
    const SQL: &str = "select fn_job_enqueue_many(p_jobs => $1) as answer";
    created(&get(&row(client, "enqueueing jobs", SQL, &[jobs]).await?, "answer")?)
}

/// Enqueues so many jobs of one subject.
pub async fn enqueue_batch(
    client: &impl GenericClient,
    job_kind: &str,
    subject: &str,
    count: i32,
) -> Result<i64> {
    const SQL: &str = "
        select fn_job_enqueue_many(p_jobs => (
          select jsonb_agg(jsonb_build_object('job_kind', $1::text, 'actor', 'bench', 'source_ref', $2::text))
          from generate_series(1, $3::int))) as answer";
    created(&get(&row(client, "enqueueing jobs", SQL, &[&job_kind, &subject, &count]).await?, "answer")?)
}

fn created(answer: &Value) -> Result<i64> {
    answer
        .get("created")
        .and_then(Value::as_i64)
        .ok_or_else(|| Error::new(Kind::Database, format!("jobs of the bench were refused: {answer}")))
}

/// Inserts the same array of jobs into the twin of `job_queue`, by a plain statement; answers how many.
pub async fn insert_bare(client: &impl GenericClient, jobs: &Value) -> Result<i64> {
    const SQL: &str = "
        insert into bench_twin (job_kind, actor, idempotency_key, source_ref, safe_payload)
        select j.job_kind, j.actor, j.idempotency_key, j.source_ref, j.safe_payload
        from jsonb_to_recordset($1) as j (
          job_kind text, actor text, idempotency_key text, source_ref text, safe_payload jsonb)";
    let count = row_count(client, "inserting the same jobs without a function", SQL, &[jobs]).await?;
    Ok(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Begins a transaction that holds its snapshot until its connection goes.
pub async fn hold_snapshot(client: &impl GenericClient) -> Result<()> {
    const SQL: &str = "
        set idle_in_transaction_session_timeout = 0;
        begin isolation level repeatable read;
        select from job_queue limit 1";
    script(client, "holding a snapshot", SQL).await
}

/// Jobs that this connection sees.
pub async fn seen_jobs(client: &impl GenericClient) -> Result<i64> {
    get(&row(client, "counting jobs", "select count(*) as count from job_queue", &[]).await?, "count")
}
