//! `dot_config`: gates, which are keys with the value `true` or `false`. A missing key is a closed gate.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{get, row, rows};
use crate::error::Result;
use crate::model::refusal::Answer;

/// The gates that Reveille obeys, and what each lets through.
pub const KNOWN: [(&str, &str); 4] = [
    ("queue.job_substrate.enabled", "new jobs: dispatch and enqueue"),
    ("queue.worker.enabled", "claims by executors"),
    ("queue.notify.bridge_enabled", "wake-ups by NOTIFY; polling goes on without"),
    ("queue.archive.enabled", "finished jobs leave for the archive; the archiver only tells without"),
];

/// One gate as it stands.
#[derive(Debug, Clone, Serialize)]
pub struct Gate {
    /// Its key in `dot_config`.
    pub key: String,
    /// Whether it is open.
    pub open: bool,
    /// When it was last changed; none when the key is missing.
    pub updated_at: Option<Timestamp>,
    /// Who changed it last through `fn_gate_set`.
    pub actor: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// The known gates, also when their key is missing, then every other key of ours that is `true` or `false`.
pub async fn list(client: &impl GenericClient) -> Result<Vec<Gate>> {
    const SQL: &str = "
        with found as materialized (select * from fn_gate_list())
        select k.key, coalesce(f.value = 'true', false) as open, f.updated_at, f.actor, f.reason
        from (select u.key, u.place
              from unnest($1::text[]) with ordinality as u (key, place)
              union all
              select o.key, null
              from found o
              where o.value in ('true', 'false') and o.key <> all ($1)) k
        left join found f on f.key = k.key
        order by k.place nulls last, k.key";
    let known: Vec<&str> = KNOWN.iter().map(|(key, _)| *key).collect();
    let found = rows(client, "listing the gates", SQL, &[&known]).await?;
    found.iter().map(gate).collect()
}

fn gate(row: &tokio_postgres::Row) -> Result<Gate> {
    Ok(Gate {
        key: get(row, "key")?,
        open: get(row, "open")?,
        updated_at: get(row, "updated_at")?,
        actor: get(row, "actor")?,
        reason: get(row, "reason")?,
    })
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
