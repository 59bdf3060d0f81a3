//! Who needs a NOTIFY: awake marks of channels, and executors at rest, who are told by name.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use tokio_postgres::types::ToSql;

use super::{get, row};
use crate::error::Result;
use crate::model::refusal::Answer;
use crate::store::heartbeats::Beater;

/// The moment at which a mark fell, as a transaction id: whoever read it before has a smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Armed(i64);

/// Says that the listener of `channel` looks by himself for so long.
pub async fn awake(client: &impl GenericClient, channel: &str, ahead: Duration) -> Result<()> {
    const SQL: &str = "select fn_wake_awake(p_channel => $1, p_milliseconds => $2)";
    let milliseconds = i32::try_from(ahead.as_millis()).unwrap_or(i32::MAX);
    row(client, "setting the awake mark", SQL, &[&channel, &milliseconds]).await?;
    Ok(())
}

/// Says that the listener of `channel` is about to sleep.
pub async fn arm(client: &impl GenericClient, channel: &str) -> Result<Armed> {
    const SQL: &str = "select fn_wake_arm(p_channel => $1)::text::bigint as armed";
    Ok(Armed(get(&row(client, "dropping the awake mark", SQL, &[&channel]).await?, "armed")?))
}

/// Whether a transaction is still open that may have read the mark before it fell.
///
/// Must be asked in a transaction after that of [`arm`]: only then does a snapshot reach beyond the arming.
pub async fn is_blind(client: &impl GenericClient, armed: Armed) -> Result<bool> {
    const SQL: &str = "
        select pg_snapshot_xmin(pg_current_snapshot()) < $1::bigint::text::xid8 as blind";
    get(&row(client, "looking at open transactions", SQL, &[&armed.0]).await?, "blind")
}

/// Says on the session that listens whether an executor ($1) is at rest ($2).
pub const REST: &str = "select fn_executor_rest(p_executor_name => $1, p_rests => $2)";

/// Says of which kinds of jobs an executor wants to be told by name.
pub async fn wakes_for(client: &impl GenericClient, beater: &Beater, job_kinds: &[String]) -> Result<Answer> {
    const SQL: &str = "
        select fn_executor_wakes_for(p_executor_name => $1, p_instance => $2, p_job_kinds => $3) as answer";
    let what = format!("announcing the kinds of {}", beater.name);
    let answer = row(client, &what, SQL, &[&beater.name, &beater.instance, &job_kinds]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Hands a wake-up on; whether there was something for others.
pub async fn pass_on(
    client: &impl GenericClient,
    beater: &Beater,
    job_kinds: &[String],
    has_room: bool,
) -> Result<bool> {
    const SQL: &str = "
        select fn_job_pass_on(
          p_executor_name => $1, p_instance => $2, p_job_kinds => $3, p_has_room => $4) as more";
    let parameters: [&(dyn ToSql + Sync); 4] = [&beater.name, &beater.instance, &job_kinds, &has_room];
    get(&row(client, "passing a wake-up on", SQL, &parameters).await?, "more")
}
