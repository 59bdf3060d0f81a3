//! `job_schedule`: which jobs are made at which times.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{get, row, rows};
use crate::error::{Error, Kind, Result};
use crate::model::executor::ExecutorKind;
use crate::model::refusal::Answer;
use crate::model::schedule::{Due, Words};

/// What a sidecar has to do about schedules now.
#[derive(Debug, Clone, Deserialize)]
pub struct Look {
    /// The database's clock.
    pub now: Timestamp,
    /// Schedules that are due, or whose next tick nobody has found yet.
    pub schedules: Vec<Turn>,
    /// Schedules that are due, and held by a gate or a pause.
    pub held: u64,
    /// When the next one is due.
    pub next: Option<Timestamp>,
}

/// A schedule whose turn it is.
#[derive(Debug, Clone, Deserialize)]
pub struct Turn {
    /// Its key.
    pub schedule_key: String,
    /// Its times.
    #[serde(flatten)]
    pub words: Words,
    /// Whether it stands at a tick; else that tick is to be found.
    pub placed: bool,
    /// Where it stands: its tick, or the moment after which ticks count.
    pub expected: Timestamp,
    /// Why somebody could not go on with it.
    pub trouble: Option<String>,
}

/// Reads what is due, at most `limit` of it. `now` is for tests; none is the database's own clock.
pub async fn due(client: &impl GenericClient, limit: i32, now: Option<Timestamp>) -> Result<Look> {
    const SQL: &str = "select fn_schedule_due(p_limit => $1, p_now => $2) as answer";
    let answer: Value = get(&row(client, "reading schedules", SQL, &[&limit, &now]).await?, "answer")?;
    serde_json::from_value(answer).map_err(|error| {
        let what = format!("reading schedules: the answer of fn_schedule_due is not as expected: {error}");
        Error::new(Kind::Schema, what).hint("run `reveille migrate up`").because(error)
    })
}

/// Makes the jobs of ticks, and moves the schedule from where it was expected to its next tick; once, whoever else tries.
pub async fn tick(
    client: &impl GenericClient,
    turn: &Turn,
    due: &Due,
    now: Option<Timestamp>,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_schedule_tick(
          p_schedule_key => $1, p_expected => $2, p_ticks => $3, p_next => $4, p_missed => $5, p_now => $6) as answer";
    let missed = i64::try_from(due.missed).unwrap_or(i64::MAX);
    let answer = row(
        client,
        "making the jobs of a schedule",
        SQL,
        &[&turn.schedule_key, &turn.expected, &due.ticks, &due.next, &missed, &now],
    )
    .await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Notes why nobody can go on with a schedule.
pub async fn trouble(client: &impl GenericClient, turn: &Turn, trouble: &str) -> Result<()> {
    const SQL: &str = "
        select fn_schedule_trouble(p_schedule_key => $1, p_expected => $2, p_trouble => $3) as answer";
    row(client, "noting trouble with a schedule", SQL, &[&turn.schedule_key, &turn.expected, &trouble])
        .await
        .map(drop)
}

/// A schedule to be written; what is `None` gets the default of `fn_schedule_put`.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct NewSchedule {
    pub schedule_key: String,
    pub job_kind: String,
    pub actor: Option<String>,
    pub cron: Option<String>,
    pub time_zone: Option<String>,
    pub every_seconds: Option<i64>,
    pub at: Option<Timestamp>,
    pub executor: Option<ExecutorKind>,
    pub priority: Option<i32>,
    pub max_attempts: Option<i32>,
    pub payload: Option<Value>,
    pub source_ref: Option<String>,
    pub target_ref: Option<String>,
    pub payload_ref: Option<String>,
    pub ordering_key: Option<String>,
    pub missed: String,
    pub missed_window_seconds: Option<i64>,
    pub starts_at: Option<Timestamp>,
    pub ends_at: Option<Timestamp>,
    pub description: Option<String>,
}

/// Adds a schedule, disabled, or changes all of it but that.
pub async fn put(client: &impl GenericClient, new: &NewSchedule) -> Result<Answer> {
    const SQL: &str = "
        select fn_schedule_put(
          p_schedule_key => $1, p_job_kind => $2, p_actor => coalesce($3, session_user::text), p_cron => $4,
          p_time_zone => $5, p_every => make_interval(secs => $6), p_at => $7, p_executor => $8,
          p_priority => $9, p_max_attempts => $10, p_safe_payload => $11, p_source_ref => $12, p_target_ref => $13,
          p_payload_ref => $14, p_ordering_key => $15, p_missed => $16, p_missed_window => make_interval(secs => $17),
          p_starts_at => $18, p_ends_at => $19, p_description => $20) as answer";
    #[expect(clippy::cast_precision_loss, reason = "seconds of at most ten years")]
    let seconds = |seconds: Option<i64>| seconds.map(|seconds| seconds as f64);
    let (every, window) = (seconds(new.every_seconds), seconds(new.missed_window_seconds));
    let executor = new.executor.map(ExecutorKind::as_str);
    let answer = row(
        client,
        "writing a schedule",
        SQL,
        &[
            &new.schedule_key,
            &new.job_kind,
            &new.actor,
            &new.cron,
            &new.time_zone,
            &every,
            &new.at,
            &executor,
            &new.priority,
            &new.max_attempts,
            &new.payload,
            &new.source_ref,
            &new.target_ref,
            &new.payload_ref,
            &new.ordering_key,
            &new.missed,
            &window,
            &new.starts_at,
            &new.ends_at,
            &new.description,
        ],
    )
    .await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Lets a schedule make jobs from now on, or no more; refused when there is none of that key.
pub async fn enable(
    client: &impl GenericClient,
    key: &str,
    enabled: bool,
    actor: Option<&str>,
    reason: &str,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_schedule_enable(
          p_schedule_key => $1, p_enabled => $2, p_actor => coalesce($3, session_user::text), p_reason => $4) as answer";
    let answer = row(client, "switching a schedule", SQL, &[&key, &enabled, &actor, &reason]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Takes a schedule away, and leaves its jobs.
pub async fn remove(
    client: &impl GenericClient,
    key: &str,
    actor: Option<&str>,
    reason: &str,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_schedule_remove(
          p_schedule_key => $1, p_actor => coalesce($2, session_user::text), p_reason => $3) as answer";
    let answer = row(client, "removing a schedule", SQL, &[&key, &actor, &reason]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// The rows of `v_job_schedule`, by key; of one key when given. Each has the database's clock as `now`.
pub async fn list(client: &impl GenericClient, key: Option<&str>) -> Result<Vec<Value>> {
    const SQL: &str = "
        select to_jsonb(s) || jsonb_build_object('now', clock_timestamp()) as document
        from v_job_schedule s
        where $1::text is null or s.schedule_key = $1
        order by s.schedule_key";
    rows(client, "listing schedules", SQL, &[&key]).await?.iter().map(|row| get(row, "document")).collect()
}

/// The database's clock, which is the only one that counts.
pub async fn now(client: &impl GenericClient) -> Result<Timestamp> {
    const SQL: &str = "select clock_timestamp() as now";
    get(&row(client, "reading the database's clock", SQL, &[]).await?, "now")
}
