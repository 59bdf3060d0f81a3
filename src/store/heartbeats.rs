//! `queue_heartbeat`: who is alive.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use serde_json::Value;
use uuid::Uuid;

use super::{get, row};
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

/// Looks who does not beat any more, and who does again.
pub async fn look(client: &impl GenericClient) -> Result<Answer> {
    const SQL: &str = "select fn_queue_stale_check() as silences";
    let answer = row(client, "looking for silences", SQL, &[]).await?;
    Ok(Answer::from_json(get(&answer, "silences")?))
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
