//! `queue_heartbeat`: who is alive.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::backlog::{UNCLAIMED, Unclaimed};
use super::{get, row, rows};
use crate::error::Result;
use crate::model::executor::ExecutorKind;
use crate::model::refusal::Answer;

/// Who beats: a registered name, and the process that beats under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beater {
    /// The registered name.
    pub name: String,
    /// One process; another one of the same name is refused while this one lives.
    pub instance: String,
}

impl Beater {
    /// This process, under a name.
    pub fn new(name: String) -> Self {
        Self { name, instance: Uuid::new_v4().simple().to_string() }
    }
}

/// A part of this process that beats under a name of its own.
#[derive(Debug)]
pub struct Part {
    /// Who beats.
    pub beater: Beater,
    /// Signals about it.
    pub metadata: Value,
}

/// How a name is registered.
#[derive(Debug, Clone, Copy)]
pub struct Registration<'a> {
    /// Kind of executor.
    pub kind: ExecutorKind,
    /// Time between two beats.
    pub cadence: Duration,
    /// Signals about it.
    pub metadata: &'a Value,
    /// Whether to take the name from a process that still beats under it.
    pub takeover: bool,
}

/// Registers a name, with a beat; refused when another role owns it, or another process beats under it.
pub async fn register(
    client: &impl GenericClient,
    beater: &Beater,
    registration: Registration<'_>,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_queue_heartbeat_register(
          p_executor_name => $1, p_executor_kind => $2, p_expected_cadence_seconds => $3, p_metadata => $4,
          p_instance => $5, p_takeover => $6) as answer";
    let Registration { kind, cadence, metadata, takeover } = registration;
    let seconds = i32::try_from(cadence.as_secs().max(1)).unwrap_or(i32::MAX);
    let what = format!("registering {}", beater.name);
    let answer = row(
        client,
        &what,
        SQL,
        &[&beater.name, &kind.as_str(), &seconds, metadata, &beater.instance, &takeover],
    )
    .await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Registers a name for a program that is no process of ours; without a threshold that of `dot_config` holds.
pub async fn announce(
    client: &impl GenericClient,
    name: &str,
    kind: ExecutorKind,
    cadence: Duration,
    threshold: Option<Duration>,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_queue_heartbeat_register(
          p_executor_name => $1, p_executor_kind => $2, p_expected_cadence_seconds => $3,
          p_stale_threshold_seconds => $4) as answer";
    let seconds = |time: Duration| i32::try_from(time.as_secs().max(1)).unwrap_or(i32::MAX);
    let (cadence, threshold) = (seconds(cadence), threshold.map(seconds));
    let what = format!("registering {name}");
    let answer = row(client, &what, SQL, &[&name, &kind.as_str(), &cadence, &threshold]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// One beat under a name of no process of ours.
pub async fn beat(client: &impl GenericClient, name: &str, status: &str) -> Result<Answer> {
    const SQL: &str = "select fn_queue_heartbeat_tick(p_executor_name => $1, p_status => $2) as answer";
    let answer = row(client, &format!("beating for {name}"), SQL, &[&name, &status]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Beats; refused when the name is not registered, or belongs to another role or process.
pub async fn tick(client: &impl GenericClient, beater: &Beater, current_job: Option<Uuid>) -> Result<Answer> {
    const SQL: &str = "
        select fn_queue_heartbeat_tick(p_executor_name => $1, p_current_job_id => $2, p_instance => $3) as answer";
    let what = format!("beating for {}", beater.name);
    let answer = row(client, &what, SQL, &[&beater.name, &current_job, &beater.instance]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Registers parts, each with a beat, by one statement; what each is answered, by name. Their kind is that of what runs
/// beside Postgres; the role in their metadata says that they claim nothing.
pub async fn register_parts(
    client: &impl GenericClient,
    parts: &[&Part],
    cadence: Duration,
) -> Result<Vec<(String, Answer)>> {
    const SQL: &str = "
        select p.name, fn_queue_heartbeat_register(
          p_executor_name => p.name, p_executor_kind => 'PG_worker', p_expected_cadence_seconds => $4,
          p_metadata => p.metadata, p_instance => p.instance) as answer
        from unnest($1::text[], $2::text[], $3::jsonb[]) as p (name, instance, metadata)";
    let (names, instances) = names(parts);
    let metadata: Vec<&Value> = parts.iter().map(|part| &part.metadata).collect();
    let seconds = i32::try_from(cadence.as_secs().max(1)).unwrap_or(i32::MAX);
    let what = "registering the sidecar's parts";
    read(&rows(client, what, SQL, &[&names, &instances, &metadata, &seconds]).await?)
}

/// Beats for parts by one statement; what each is answered, by name.
pub async fn tick_parts(client: &impl GenericClient, parts: &[&Part]) -> Result<Vec<(String, Answer)>> {
    const SQL: &str = "
        select p.name, fn_queue_heartbeat_tick(p_executor_name => p.name, p_instance => p.instance) as answer
        from unnest($1::text[], $2::text[]) as p (name, instance)";
    let (names, instances) = names(parts);
    read(&rows(client, "beating for the sidecar's parts", SQL, &[&names, &instances]).await?)
}

/// Says that the parts do not beat any more, by one statement; their names are forgotten, or stay free for another
/// process.
pub async fn leave_parts(client: &impl GenericClient, parts: &[&Part], forget: bool) -> Result<()> {
    const SQL: &str = "
        select case when $3 then fn_queue_heartbeat_unregister(p.name, p.instance)
          else fn_queue_heartbeat_leave(p.name, p.instance) end
        from unnest($1::text[], $2::text[]) as p (name, instance)";
    let (names, instances) = names(parts);
    rows(client, "leaving", SQL, &[&names, &instances, &forget]).await.map(|_| ())
}

fn names<'a>(parts: &[&'a Part]) -> (Vec<&'a str>, Vec<&'a str>) {
    parts.iter().map(|part| (part.beater.name.as_str(), part.beater.instance.as_str())).unzip()
}

fn read(rows: &[Row]) -> Result<Vec<(String, Answer)>> {
    rows.iter().map(|row| Ok((get(row, "name")?, Answer::from_json(get(row, "answer")?)))).collect()
}

/// Looks who does not beat any more, and who does again; with a patience also, by the same statement, what
/// [`super::backlog::unclaimed`] would find. That comes first: what follows locks names, whose beats would wait for it.
pub async fn look(
    client: &impl GenericClient,
    patience: Option<Duration>,
) -> Result<(Answer, Option<Vec<Unclaimed>>)> {
    let sql = format!(
        "select
          case when $1::float8 is not null then (select coalesce(jsonb_agg(u), '[]') from ({UNCLAIMED}) u) end as unclaimed,
          fn_queue_stale_check() as silences"
    );
    let what = patience.map_or("looking for silences", |_| "looking for silences and for unclaimed backlog");
    let answer = row(client, what, &sql, &[&patience.map(|patience| patience.as_secs_f64())]).await?;
    let unclaimed: Option<Json<Vec<Unclaimed>>> = get(&answer, "unclaimed")?;
    Ok((Answer::from_json(get(&answer, "silences")?), unclaimed.map(|Json(found)| found)))
}

/// Says that this process does not beat any more; the name stays registered, free for another process.
pub async fn leave(client: &impl GenericClient, beater: &Beater) -> Result<Answer> {
    const SQL: &str = "select fn_queue_heartbeat_leave(p_executor_name => $1, p_instance => $2) as answer";
    let answer =
        row(client, &format!("leaving {}", beater.name), SQL, &[&beater.name, &beater.instance]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Forgets the name of this process; refused when another one has it now.
pub async fn retire(client: &impl GenericClient, beater: &Beater) -> Result<Answer> {
    const SQL: &str = "
        select fn_queue_heartbeat_unregister(p_executor_name => $1, p_instance => $2) as answer";
    let what = format!("forgetting {}", beater.name);
    let answer = row(client, &what, SQL, &[&beater.name, &beater.instance]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Forgets `name`; refused when it is not registered or belongs to another role.
pub async fn unregister(client: &impl GenericClient, name: &str) -> Result<Answer> {
    const SQL: &str = "select fn_queue_heartbeat_unregister(p_executor_name => $1) as answer";
    let answer = row(client, &format!("forgetting {name}"), SQL, &[&name]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}
