//! `queue_pause`: what is stopped, by whom and why. Rows, so that a restart forgets nothing.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;

use super::{get, row, rows};
use crate::error::Result;
use crate::model::refusal::Answer;

/// One pause, standing or ended.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct Pause {
    pub scope: String,
    /// Empty for all.
    pub name: String,
    pub actor: String,
    pub reason: String,
    pub paused_at: Timestamp,
    /// None while it stands.
    pub resumed_at: Option<Timestamp>,
    pub resume_actor: Option<String>,
    pub resume_reason: Option<String>,
}

/// What is paused, the oldest first; with `history` also what was, the newest last.
pub async fn list(client: &impl GenericClient, history: bool) -> Result<Vec<Pause>> {
    const SQL: &str = "
        select p.scope, p.name, p.actor, p.reason, p.paused_at, p.resumed_at, p.resume_actor, p.resume_reason
        from queue_pause p
        where $1 or p.resumed_at is null
        order by p.pause_id";
    let pause = |row: &Row| {
        Ok(Pause {
            scope: get(row, "scope")?,
            name: get(row, "name")?,
            actor: get(row, "actor")?,
            reason: get(row, "reason")?,
            paused_at: get(row, "paused_at")?,
            resumed_at: get(row, "resumed_at")?,
            resume_actor: get(row, "resume_actor")?,
            resume_reason: get(row, "resume_reason")?,
        })
    };
    rows(client, "listing pauses", SQL, &[&history]).await?.iter().map(pause).collect()
}

/// The names that a pause of this scope can mean now.
pub async fn names(client: &impl GenericClient, scope: &str) -> Result<Vec<String>> {
    const SQL: &str = "select fn_pause_names(p_scope => $1) as names";
    get(&row(client, "reading what can be paused", SQL, &[&scope]).await?, "names")
}

/// Pauses; the answer says whether there is something of that name (`known`), and whether it was `changed`, or by whom it
/// had been paused before.
pub async fn pause(
    client: &impl GenericClient,
    scope: &str,
    name: &str,
    actor: Option<&str>,
    reason: &str,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_pause(
          p_scope => $1, p_name => $2, p_actor => coalesce($3, session_user::text), p_reason => $4) as answer";
    let answer = row(client, "pausing", SQL, &[&scope, &name, &actor, &reason]).await?;
    Ok(Answer::from_json(get::<Value>(&answer, "answer")?))
}

/// Ends a pause, and wakes whoever sleeps; refused when nothing is paused there.
pub async fn resume(
    client: &impl GenericClient,
    scope: &str,
    name: &str,
    actor: Option<&str>,
    reason: &str,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_resume(
          p_scope => $1, p_name => $2, p_actor => coalesce($3, session_user::text), p_reason => $4) as answer";
    let answer = row(client, "resuming", SQL, &[&scope, &name, &actor, &reason]).await?;
    Ok(Answer::from_json(get::<Value>(&answer, "answer")?))
}
