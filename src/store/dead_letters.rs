//! `job_dead_letter`: jobs that may not be tried again, until somebody decides about them.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{get, row, rows};
use crate::error::Result;
use crate::model::refusal::Answer;

/// What triage may say.
pub const TRIAGE: [&str; 6] = ["open", "investigating", "manual_replay", "discarded", "superseded", "closed"];

/// A dead letter in one line.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct DeadLetter {
    pub dead_letter_id: Uuid,
    pub job_id: Uuid,
    pub job_kind: String,
    pub event_domain: Option<String>,
    pub reason_class: String,
    pub error: Option<String>,
    pub triage_status: String,
    pub triage_actor: Option<String>,
    pub created_at: Timestamp,
}

/// Where in the list a dead letter stands: when it was made, and its id.
pub type Place = (Timestamp, Uuid);

/// Which dead letters; what is none does not narrow.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct Filter<'a> {
    pub triage_status: Option<&'a str>,
    pub job_kind: Option<&'a str>,
    pub event_domain: Option<&'a str>,
}

/// Dead letters, the oldest first; without a triage status those that nobody has decided about for good.
pub async fn list(client: &impl GenericClient, filter: &Filter<'_>, limit: i64) -> Result<Vec<DeadLetter>> {
    const OPEN: &str = "
        select d.dead_letter_id, d.job_id, d.job_kind::text, d.event_domain, d.reason_class, d.error, d.triage_status,
               d.triage_actor, d.created_at
        from v_job_queue_dead_letter_open d
        where ($1::text is null or d.triage_status = $1)
          and ($2::text is null or d.job_kind = $2)
          and ($3::text is null or d.event_domain = $3)
        order by d.created_at, d.dead_letter_id
        limit $4";
    const ALL: &str = "
        select d.dead_letter_id, d.job_id, d.job_kind::text, d.event_domain, d.reason_class, d.error, d.triage_status,
               d.triage_actor, d.created_at
        from job_dead_letter d
        where d.triage_status = $1
          and ($2::text is null or d.job_kind = $2)
          and ($3::text is null or d.event_domain = $3)
        order by d.created_at, d.dead_letter_id
        limit $4";
    let sql = match filter.triage_status {
        Some("discarded" | "superseded" | "closed") => ALL,
        _ => OPEN,
    };
    let parameters: super::Parameters<'_> =
        &[&filter.triage_status, &filter.job_kind, &filter.event_domain, &limit];
    rows(client, "listing dead letters", sql, parameters).await?.iter().map(dead_letter).collect()
}

/// Most dead letters that one page of decided ones looks at; where few fit, the page ends there, and the next goes on.
pub const WINDOW: i64 = 20_000;

/// One page: those that are open, the oldest first, or those that were decided about, the newest first; at most `limit`,
/// behind the moment and id of another when given; and behind which one the next page begins, when there may be more.
pub async fn page(
    client: &impl GenericClient,
    decided: bool,
    behind: Option<Place>,
    limit: i64,
) -> Result<(Vec<DeadLetter>, Option<Place>)> {
    const OPEN: &str = "
        select d.dead_letter_id, d.job_id, d.job_kind::text, d.event_domain, d.reason_class, d.error, d.triage_status,
               d.triage_actor, d.created_at
        from v_job_queue_dead_letter_open d
        where $1::timestamptz is null or (d.created_at, d.dead_letter_id) > ($1, $2::uuid)
        order by d.created_at, d.dead_letter_id
        limit $3";
    // ids are time-ordered; the inner limit bounds the look also when nothing fits
    const DECIDED: &str = "
        select d.dead_letter_id, d.job_id, d.job_kind::text, d.event_domain, d.reason_class, d.error, d.triage_status,
               d.triage_actor, d.created_at
        from (
          select l.* from job_dead_letter l
          where $1::uuid is null or l.dead_letter_id < $1
          order by l.dead_letter_id desc
          limit $2) d
        where d.triage_status in ('discarded', 'superseded', 'closed')
        order by d.dead_letter_id desc
        limit $3";
    const END: &str = "
        select l.created_at, l.dead_letter_id
        from job_dead_letter l
        where $1::uuid is null or l.dead_letter_id < $1
        order by l.dead_letter_id desc
        offset $2::bigint - 1
        limit 1";
    const WHAT: &str = "listing dead letters";
    let (at, id) = behind.unzip();
    let more = limit + 1;
    let found = if decided {
        rows(client, WHAT, DECIDED, &[&id, &WINDOW, &more]).await?
    } else {
        rows(client, WHAT, OPEN, &[&at, &id, &more]).await?
    };
    let mut letters: Vec<DeadLetter> = found.iter().map(dead_letter).collect::<Result<_>>()?;
    if i64::try_from(letters.len()).unwrap_or(i64::MAX) == more {
        letters.pop();
        let next = letters.last().map(|letter| (letter.created_at, letter.dead_letter_id));
        return Ok((letters, next));
    }
    if !decided {
        return Ok((letters, None));
    }
    let end = rows(client, "looking for more dead letters", END, &[&id, &WINDOW]).await?;
    let place = |row: &Row| Ok((get(row, "created_at")?, get(row, "dead_letter_id")?));
    let next: Result<Option<Place>> = end.first().map(place).transpose();
    Ok((letters, next?))
}

/// The newest dead letter of a job; none when it never died.
pub async fn of_job(client: &impl GenericClient, job_id: Uuid) -> Result<Option<Uuid>> {
    const SQL: &str = "
        select d.dead_letter_id
        from job_dead_letter d
        where d.job_id = $1
        order by d.created_at desc
        limit 1";
    let found = rows(client, "looking for the dead letter of a job", SQL, &[&job_id]).await?;
    found.first().map(|row| get(row, "dead_letter_id")).transpose()
}

fn dead_letter(row: &Row) -> Result<DeadLetter> {
    Ok(DeadLetter {
        dead_letter_id: get(row, "dead_letter_id")?,
        job_id: get(row, "job_id")?,
        job_kind: get(row, "job_kind")?,
        event_domain: get(row, "event_domain")?,
        reason_class: get(row, "reason_class")?,
        error: get(row, "error")?,
        triage_status: get(row, "triage_status")?,
        triage_actor: get(row, "triage_actor")?,
        created_at: get(row, "created_at")?,
    })
}

/// One dead letter with the job and its attempts; none when there is no such dead letter.
pub async fn show(client: &impl GenericClient, id: Uuid) -> Result<Option<Value>> {
    const SQL: &str = "select to_jsonb(d) as document from job_dead_letter d where d.dead_letter_id = $1";
    let found = rows(client, "reading a dead letter", SQL, &[&id]).await?;
    found.first().map(|row| get(row, "document")).transpose()
}

/// Decides about a dead letter.
pub async fn triage(
    client: &impl GenericClient,
    id: Uuid,
    status: &str,
    actor: Option<&str>,
    note: Option<&str>,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_job_dead_letter_triage(
          p_dead_letter_id => $1, p_triage_status => $2, p_actor => coalesce($3, session_user::text), p_note => $4) as answer";
    let answer = row(client, "deciding about a dead letter", SQL, &[&id, &status, &actor, &note]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Replays one dead letter as the same job, or tells whether that could be done.
pub async fn replay(
    client: &impl GenericClient,
    id: Uuid,
    authorization_source: &str,
    dry_run: bool,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_job_dead_letter_replay(
          p_dead_letter_id => $1, p_authorization_source => $2, p_dry_run => $3) as answer";
    let answer = row(client, "replaying a dead letter", SQL, &[&id, &authorization_source, &dry_run]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// How a redrive is bounded.
#[derive(Debug, Clone, Copy)]
pub struct Redrive {
    /// Most dead letters.
    pub limit: i32,
    /// Jobs that become due in a second.
    pub per_second: f64,
    /// Only tell.
    pub dry_run: bool,
}

/// Replays the dead letters marked `manual_replay` that fit the filter, or tells how many would be.
pub async fn redrive(
    client: &impl GenericClient,
    filter: &Value,
    authorization_source: &str,
    bounds: Redrive,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_job_dead_letter_redrive(
          p_filter => $1, p_authorization_source => $2, p_limit => $3, p_per_second => $4::float8::numeric,
          p_dry_run => $5) as answer";
    let answer = row(
        client,
        "redriving dead letters",
        SQL,
        &[filter, &authorization_source, &bounds.limit, &bounds.per_second, &bounds.dry_run],
    )
    .await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}
