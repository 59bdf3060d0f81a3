//! Why an event made a job or none, why a job does not run, and how many stand under which reason.

use std::time::Duration;

use deadpool_postgres::{GenericClient, Transaction};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{get, rows};
use crate::error::{Error, Result};
use crate::model::refusal::Refusal;

/// One line of an explanation: of dispatch or one consumer about an event, or of one condition or attempt of a job.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are the columns of fn_event_explain and fn_job_explain")]
pub struct Line {
    /// Of an event: dispatched, job, waits, `no_job`, error; of a job: waits, ready, runs, ended, attempt.
    pub verdict: String,
    pub reason: String,
    /// Which consumer speaks; none where the line is about the event itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// The reason in words.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The job that was made of an event, or on which another job waits.
    pub job_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_status: Option<String>,
    /// When a job's condition ends, or ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    pub detail: Option<Value>,
}

/// What there is to say, or that there is none with this id.
pub type Explanation = std::result::Result<Vec<Line>, Refusal>;

/// Why an event made which jobs: what dispatch did first, then one line a consumer.
pub async fn event(client: &impl GenericClient, id: Uuid) -> Result<Explanation> {
    const SQL: &str = "
        select x.refused, x.verdict, x.reason, x.consumer_key, x.recipient, x.what, x.hint, x.job_id, x.job_status,
               null::timestamptz as until, x.detail
        from fn_event_explain(p_event_id => $1) x";
    explanation(&rows(client, "explaining an event", SQL, &[&id]).await?, "event_id", id)
}

/// The jobs that an explanation names.
pub fn jobs(lines: &[Line]) -> Vec<Uuid> {
    lines.iter().filter_map(|line| line.job_id).collect()
}

/// Why a job does not run, who runs it, or how it ended; then its attempts, oldest first.
pub async fn job(client: &impl GenericClient, id: Uuid) -> Result<Explanation> {
    const SQL: &str = "
        select x.refused, x.verdict, x.reason, null::text as consumer_key, null::text as recipient, x.what, x.hint,
               x.other_job_id as job_id, null::text as job_status, x.until, x.detail
        from fn_job_explain(p_job_id => $1) x";
    explanation(&rows(client, "explaining a job", SQL, &[&id]).await?, "job_id", id)
}

fn explanation(found: &[Row], key: &str, id: Uuid) -> Result<Explanation> {
    if let Some(row) = found.first()
        && get(row, "refused")?
    {
        let reason: String = get(row, "reason")?;
        let answer = json!({ "refused": true, "reason": reason, key: id });
        return Ok(Err(Refusal { reason, answer }));
    }
    let line = |row: &Row| {
        Ok(Line {
            verdict: get(row, "verdict")?,
            reason: get(row, "reason")?,
            consumer_key: get(row, "consumer_key")?,
            recipient: get(row, "recipient")?,
            what: get(row, "what")?,
            hint: get(row, "hint")?,
            job_id: get(row, "job_id")?,
            job_status: get(row, "job_status")?,
            until: get(row, "until")?,
            detail: get(row, "detail")?,
        })
    };
    found.iter().map(line).collect::<Result<Vec<Line>>>().map(Ok)
}

/// How many stand under one reason.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are the columns of v_reason_counts")]
pub struct Count {
    pub reason: String,
    pub count: i64,
    /// There are more.
    pub more: bool,
    /// When the oldest was due, or made.
    pub oldest_at: Option<Timestamp>,
}

/// How many waiting jobs (`job`), or pairs of late events and consumers (`event`), stand under which reason; the most first.
pub async fn counts(client: &impl GenericClient, about: &str) -> Result<Vec<Count>> {
    const SQL: &str = "
        select r.reason, r.count, r.more, r.oldest_at
        from v_reason_counts r
        where r.about = $1
        order by r.count desc, r.reason";
    let count = |row: &Row| {
        Ok(Count {
            reason: get(row, "reason")?,
            count: get(row, "count")?,
            more: get(row, "more")?,
            oldest_at: get(row, "oldest_at")?,
        })
    };
    rows(client, "counting reasons", SQL, &[&about]).await?.iter().map(count).collect()
}

/// The same within a transaction; the server gives it up after `limit`, and the transaction with it.
pub async fn counts_within(work: &Transaction<'_>, about: &str, limit: Duration) -> Result<Vec<Count>> {
    let limit = limit.as_millis().max(1);
    let set = work.batch_execute(&format!("set local statement_timeout = {limit}")).await;
    set.map_err(|error| Error::postgres("setting statement_timeout", error))?;
    counts(work, about).await
}
