//! `dot_config`: gates, which are keys with the value `true` or `false`; `fn_gate_list` lists them.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{get, row, rows};
use crate::error::Result;
use crate::model::refusal::Answer;

/// One gate as it stands.
#[derive(Debug, Clone, Serialize)]
pub struct Gate {
    /// Its key in `dot_config`.
    pub key: String,
    /// Whether it is open.
    pub open: bool,
    /// Whether somebody has set it; most are closed until then.
    pub is_set: bool,
    /// What it lets through when it is open; none of a switch that only changes how something is done.
    pub lets_through: Option<String>,
    /// When it was last changed; none when it is not set.
    pub updated_at: Option<Timestamp>,
    /// Who changed it last through `fn_gate_set`.
    pub actor: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// All gates, also those that nobody has set, then every other key of ours that is `true` or `false`.
pub async fn list(client: &impl GenericClient) -> Result<Vec<Gate>> {
    const SQL: &str = "
        select g.key, g.value = 'true' as open, g.is_set, g.lets_through, g.updated_at, g.actor, g.reason
        from fn_gate_list() with ordinality g
        where g.lets_through is not null or g.value in ('true', 'false')
        order by g.ordinality";
    rows(client, "listing the gates", SQL, &[]).await?.iter().map(gate).collect()
}

fn gate(row: &tokio_postgres::Row) -> Result<Gate> {
    Ok(Gate {
        key: get(row, "key")?,
        open: get(row, "open")?,
        is_set: get(row, "is_set")?,
        lets_through: get(row, "lets_through")?,
        updated_at: get(row, "updated_at")?,
        actor: get(row, "actor")?,
        reason: get(row, "reason")?,
    })
}

/// A change of a key.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are the columns of dot_config_audit")]
pub struct Change {
    pub key: String,
    pub old_value: Option<String>,
    pub new_value: Option<String>,
    pub actor: String,
    pub reason: String,
    pub changed_at: Timestamp,
}

/// The newest changes of keys, gates and others, at most `limit`.
pub async fn history(client: &impl GenericClient, limit: i64) -> Result<Vec<Change>> {
    const SQL: &str = "
        select a.key, a.old_value, a.new_value, a.actor, a.reason, a.changed_at
        from dot_config_audit a
        order by a.audit_id desc
        limit $1";
    let change = |row: &tokio_postgres::Row| {
        Ok(Change {
            key: get(row, "key")?,
            old_value: get(row, "old_value")?,
            new_value: get(row, "new_value")?,
            actor: get(row, "actor")?,
            reason: get(row, "reason")?,
            changed_at: get(row, "changed_at")?,
        })
    };
    rows(client, "reading the history of gates", SQL, &[&limit]).await?.iter().map(change).collect()
}

/// Opens or closes a gate; the answer holds the old and the new value.
pub async fn set(
    client: &impl GenericClient,
    key: &str,
    open: bool,
    actor: Option<&str>,
    reason: &str,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_gate_set(
          p_key => $1, p_value => $2, p_actor => coalesce($3, session_user::text), p_reason => $4) as answer";
    let value = if open { "true" } else { "false" };
    let answer = row(client, "setting a gate", SQL, &[&key, &value, &actor, &reason]).await?;
    Ok(Answer::from_json(get::<Value>(&answer, "answer")?))
}
