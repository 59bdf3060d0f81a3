//! `queue_heartbeat`: who is alive.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use serde_json::Value;
use uuid::Uuid;

use super::{get, row};
use crate::error::Result;
use crate::model::executor::ExecutorKind;
use crate::model::refusal::Answer;

/// Registers `name`, with a beat; refused when another role owns it.
pub async fn register(
    client: &impl GenericClient,
    name: &str,
    kind: ExecutorKind,
    cadence: Duration,
    metadata: &Value,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_queue_heartbeat_register(
          p_executor_name => $1, p_executor_kind => $2, p_expected_cadence_seconds => $3, p_metadata => $4) as answer";
    let seconds = i32::try_from(cadence.as_secs().max(1)).unwrap_or(i32::MAX);
    let what = format!("registering {name}");
    let answer = row(client, &what, SQL, &[&name, &kind.as_str(), &seconds, metadata]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Beats for `name`; refused when it is not registered or belongs to another role.
pub async fn tick(client: &impl GenericClient, name: &str, current_job: Option<Uuid>) -> Result<Answer> {
    const SQL: &str = "
        select fn_queue_heartbeat_tick(p_executor_name => $1, p_current_job_id => $2) as answer";
    let answer = row(client, &format!("beating for {name}"), SQL, &[&name, &current_job]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Forgets `name`; refused when it is not registered or belongs to another role.
pub async fn unregister(client: &impl GenericClient, name: &str) -> Result<Answer> {
    const SQL: &str = "select fn_queue_heartbeat_unregister(p_executor_name => $1) as answer";
    let answer = row(client, &format!("forgetting {name}"), SQL, &[&name]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}
