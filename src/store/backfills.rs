//! `consumer_backfill`: jobs of past events, and what a changed consumer would make of them.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::consumers::{Columns, Since};
use super::health::Component;
use super::{get, row, rows};
use crate::error::Result;
use crate::model::finding::Finding;
use crate::model::refusal::Answer;
use crate::model::sorts;

/// Whether jobs are made that there are not, or made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// What the consumer wants and has no job for.
    Backfill,
    /// What it has a job for, with a new generation of the key.
    Replay,
}

impl Mode {
    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backfill => "backfill",
            Self::Replay => "replay",
        }
    }
}

/// What is asked for; what is `None` gets the default of `fn_consumer_backfill` or `fn_consumer_replay`.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which of both.
    pub mode: Mode,
    /// The consumer.
    pub consumer_key: String,
    /// Events created from then on.
    pub since: Option<Since>,
    /// Events created before.
    pub until: Option<Since>,
    /// Most jobs to make.
    pub limit: Option<i32>,
    /// Of a replay: only these events.
    pub event_ids: Option<Vec<Uuid>>,
    /// Jobs a second.
    pub rate: Option<f64>,
    /// Of the jobs; 0 first.
    pub priority: Option<i32>,
    /// Who does it.
    pub actor: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// Begins, and makes the first batch; or, without `apply`, counts the page behind `after`, the `next` of the answer before.
pub async fn ask(
    client: &impl GenericClient,
    request: &Request,
    apply: bool,
    after: Option<&Value>,
    batch: i32,
) -> Result<Answer> {
    const BACKFILL: &str = "
        select fn_consumer_backfill(
          p_consumer_key => $1, p_since => coalesce($2, clock_timestamp() - make_interval(secs => $3)),
          p_until => coalesce($4, clock_timestamp() - make_interval(secs => $5)), p_limit => $6, p_dry_run => $7,
          p_actor => $8, p_reason => $9, p_rate => $10::float8::numeric, p_priority => $11, p_after => $12,
          p_batch => $13) as answer";
    const REPLAY: &str = "
        select fn_consumer_replay(
          p_consumer_key => $1, p_since => coalesce($2, clock_timestamp() - make_interval(secs => $3)),
          p_until => coalesce($4, clock_timestamp() - make_interval(secs => $5)), p_limit => $6, p_dry_run => $7,
          p_actor => $8, p_reason => $9, p_rate => $10::float8::numeric, p_priority => $11, p_after => $12,
          p_batch => $13, p_event_ids => $14) as answer";
    let what = format!("the {} of {}", request.mode.as_str(), request.consumer_key);
    let (since, since_ago) = moment(request.since);
    let (until, until_ago) = moment(request.until);
    let dry = !apply;
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
        &request.consumer_key,
        &since,
        &since_ago,
        &until,
        &until_ago,
        &request.limit,
        &dry,
        &request.actor,
        &request.reason,
        &request.rate,
        &request.priority,
        &after,
        &batch,
    ];
    let sql = match request.mode {
        Mode::Backfill => BACKFILL,
        Mode::Replay => {
            parameters.push(&request.event_ids);
            REPLAY
        }
    };
    Ok(Answer::from_json(get(&row(client, &what, sql, &parameters).await?, "answer")?))
}

fn moment(since: Option<Since>) -> (Option<Timestamp>, Option<f64>) {
    match since {
        Some(Since::At(at)) => (Some(at), None),
        Some(Since::Ago(ago)) => (None, Some(ago.as_secs_f64())),
        None => (None, None),
    }
}

/// The next batch of a run.
pub async fn step(client: &impl GenericClient, id: Uuid, batch: i32) -> Result<Answer> {
    const SQL: &str = "select fn_consumer_backfill_step(p_backfill_id => $1, p_batch => $2) as answer";
    let what = format!("the next batch of {id}");
    Ok(Answer::from_json(get(&row(client, &what, SQL, &[&id, &batch]).await?, "answer")?))
}

/// Pauses, resumes (`running`) or cancels a run, or says that it has `failed`.
pub async fn set_status(
    client: &impl GenericClient,
    id: Uuid,
    status: &str,
    actor: Option<&str>,
    reason: &str,
    accept_change: bool,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_consumer_backfill_move(
          p_backfill_id => $1, p_status => $2, p_actor => coalesce($3, session_user::text), p_reason => $4,
          p_accept_change => $5) as answer";
    let what = format!("setting {id} to {status}");
    let answer = row(client, &what, SQL, &[&id, &status, &actor, &reason, &accept_change]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Runs of a mode, the newest first, as `v_consumer_backfill` has them; unless `all`, only those that have not ended.
pub async fn list(
    client: &impl GenericClient,
    mode: Mode,
    key: Option<&str>,
    all: bool,
) -> Result<Vec<Value>> {
    const SQL: &str = "
        select to_jsonb(v) as line
        from v_consumer_backfill v
        where v.mode = $1 and ($2::text is null or v.consumer_key = $2) and ($3 or v.ended_at is null)
        order by v.started_at desc
        limit 1000";
    let found = rows(client, "listing backfills", SQL, &[&mode.as_str(), &key, &all]).await?;
    found.iter().map(|row| get(row, "line")).collect()
}

/// Which of the newest `last` events of its domain a consumer would treat otherwise, if its row read like this.
pub async fn diff(client: &impl GenericClient, columns: &Columns, last: i32) -> Result<Value> {
    const SQL: &str = "select fn_consumer_diff(p_consumer => $1, p_last => $2) as answer";
    let columns = Value::Object(columns.clone());
    get(&row(client, "comparing a consumer with its row", SQL, &[&columns, &last]).await?, "answer")
}

/// Findings about runs as components, each with its [`Finding`] as detail.
pub async fn check(client: &impl GenericClient) -> Result<Vec<Component>> {
    const SQL: &str = "
        select consumer_key, finding, what, hint, age_seconds::float8 as age_seconds
        from fn_consumer_backfill_check()";
    let component = |row: &tokio_postgres::Row| {
        let (name, status): (String, String) = (get(row, "consumer_key")?, get(row, "finding")?);
        let finding = match status.as_str() {
            "failed" => sorts::BACKFILL_FAILED.name,
            "running" => sorts::BACKFILL_STALLED.name,
            "paused" => sorts::BACKFILL_PAUSED.name,
            other => other,
        };
        let finding =
            Finding::named(finding, format!("backfill {name}"), get(row, "what")?, get(row, "hint")?);
        Ok(Component::with(&finding, "backfill", get(row, "age_seconds")?))
    };
    rows(client, "looking at backfills", SQL, &[]).await?.iter().map(component).collect()
}
