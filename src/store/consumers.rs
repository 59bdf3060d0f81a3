//! `consumer_registry`: which facts become which jobs. A row is read and written as a JSON object of its columns.

use std::fmt;
use std::time::Duration;

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{get, row, rows};
use crate::error::{Error, Result};
use crate::model::refusal::Answer;

/// The columns of one row by name.
pub type Columns = Map<String, Value>;

/// All consumers, by domain and key.
pub async fn list(client: &impl GenericClient) -> Result<Vec<Columns>> {
    const SQL: &str = "
        select to_jsonb(c) - 'event_type_like' as columns
        from consumer_registry c
        order by c.event_domain, c.consumer_key";
    let found = rows(client, "listing consumers", SQL, &[]).await?;
    found.iter().map(|row| columns(get(row, "columns")?)).collect()
}

/// One consumer: its columns, `errors` (events that it could not digest, counted up to 1000) and `switched` (who
/// enabled or disabled it last, when and why); none when there is no such consumer.
pub async fn show(client: &impl GenericClient, key: &str) -> Result<Option<Columns>> {
    const SQL: &str = "
        select to_jsonb(c) - 'event_type_like' || jsonb_build_object(
          'errors', (
            select count(*)
            from (select 1 from dispatch_error d where d.consumer_key = c.consumer_key limit 1000) e),
          'switched', (
            select jsonb_build_object('actor', a.actor, 'reason', a.reason, 'at', a.changed_at)
            from dot_config_audit a
            where a.key = 'consumer.' || c.consumer_key || '.enabled'
            order by a.audit_id desc
            limit 1)) as columns
        from consumer_registry c
        where c.consumer_key = $1";
    let found = rows(client, "reading a consumer", SQL, &[&key]).await?;
    found.first().map(|row| columns(get(row, "columns")?)).transpose()
}

/// The columns as a row would hold them, or the sentence in which the database refuses them.
///
/// Text is brought to its stored form (a filter, an interval), so that it can be compared with a row.
pub async fn stored_form(client: &impl GenericClient, given: &Columns) -> Result<Result<Columns, String>> {
    const SQL: &str = "
        select (select jsonb_object_agg(p.key, p.value)
                from jsonb_each(to_jsonb(jsonb_populate_record(null::consumer_registry, g.columns))) p
                where g.columns ? p.key) as columns,
               (select count(*)
                from fn_route_consumer_dry_run(p_consumer => g.columns, p_since => null, p_limit => 0)) as events
        from (select $1::jsonb as columns) g";
    let given_json = Value::Object(given.clone());
    let outcome = match client.prepare_cached(SQL).await {
        Ok(statement) => client.query_one(&statement, &[&given_json]).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(row) => columns(get(&row, "columns")?).map(Ok),
        Err(error) => match refused_sentence(&error) {
            Some(sentence) => Ok(Err(sentence)),
            None => Err(Error::postgres("checking a consumer", error)),
        },
    }
}

/// What the database says against a row, as a sentence that begins with the column's name.
fn refused_sentence(error: &tokio_postgres::Error) -> Option<String> {
    let database = error.as_db_error()?;
    match database.code().code() {
        // the check of consumer_registry: `consumer KEY: sentence`
        "23514" => {
            Some(database.message().split_once(": ").map_or(database.message(), |(_, rest)| rest).to_owned())
        }
        // a text that its column's type does not take; the file reader leaves only jsonpath to the database
        "42601" | "22P02" | "42704" | "2201B" => Some(format!("filter: {}", database.message())),
        _ => None,
    }
}

/// What one consumer would do with one event.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are the columns of fn_route_consumer_dry_run")]
pub struct Decision {
    pub event_id: Uuid,
    pub created_at: Timestamp,
    pub event_type: String,
    pub would_enqueue: bool,
    pub reason: String,
    pub job_kind: Option<String>,
    pub executor: Option<String>,
    pub source_ref: Option<String>,
    pub target_ref: Option<String>,
    pub payload_ref: Option<String>,
    pub ordering_key: Option<String>,
    pub idempotency_key: Option<String>,
    /// Whom the job is for, when the consumer fans out.
    pub recipient: Option<String>,
}

/// A consumer to be previewed: one that is stored, or columns that need not be.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A row's key.
    Stored(String),
    /// Columns of a consumer.
    Given(Columns),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored(key) => f.write_str(key),
            Self::Given(columns) => {
                f.write_str(columns.get("consumer_key").and_then(Value::as_str).unwrap_or("the consumer"))
            }
        }
    }
}

/// Where a look back begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// At this moment.
    At(Timestamp),
    /// So long ago, by the database's clock.
    Ago(Duration),
}

/// What a consumer would do with the newest `limit` events of its domain, none older than `since`. Reads only.
///
/// # Errors
/// SQLSTATE 22023 when there is no such consumer, 23514 when its columns are bad.
pub async fn preview(
    client: &impl GenericClient,
    subject: &Subject,
    since: Option<Since>,
    limit: i32,
) -> Result<Vec<Decision>> {
    const STORED: &str = "
        select * from fn_route_consumer_dry_run(
          p_consumer_key => $1::text, p_since => coalesce($2, clock_timestamp() - make_interval(secs => $3)),
          p_limit => $4)";
    const GIVEN: &str = "
        select * from fn_route_consumer_dry_run(
          p_consumer => $1::jsonb, p_since => coalesce($2, clock_timestamp() - make_interval(secs => $3)),
          p_limit => $4)";
    let what = format!("previewing {subject}");
    let (at, ago) = match since {
        Some(Since::At(at)) => (Some(at), None),
        Some(Since::Ago(ago)) => (None, Some(ago.as_secs_f64())),
        None => (None, None),
    };
    let found = match subject {
        Subject::Stored(key) => rows(client, &what, STORED, &[key, &at, &ago, &limit]).await?,
        Subject::Given(columns) => {
            let columns = Value::Object(columns.clone());
            rows(client, &what, GIVEN, &[&columns, &at, &ago, &limit]).await?
        }
    };
    found.iter().map(decision).collect()
}

fn decision(row: &tokio_postgres::Row) -> Result<Decision> {
    Ok(Decision {
        event_id: get(row, "event_id")?,
        created_at: get(row, "created_at")?,
        event_type: get(row, "event_type")?,
        would_enqueue: get(row, "would_enqueue")?,
        reason: get(row, "reason")?,
        job_kind: get(row, "job_kind")?,
        executor: get(row, "executor")?,
        source_ref: get(row, "source_ref")?,
        target_ref: get(row, "target_ref")?,
        payload_ref: get(row, "payload_ref")?,
        ordering_key: get(row, "ordering_key")?,
        idempotency_key: get(row, "idempotency_key")?,
        recipient: get(row, "recipient")?,
    })
}

/// Writes a row that comes from a file; refused `not_owner` when it was written by somebody else.
pub async fn put(
    client: &impl GenericClient,
    columns: &Columns,
    actor: Option<&str>,
    set_enabled: bool,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_consumer_put(
          p_consumer => $1, p_actor => coalesce($2, session_user::text), p_source => 'file',
          p_set_enabled => $3) as answer";
    let columns = Value::Object(columns.clone());
    let answer = row(client, "writing a consumer", SQL, &[&columns, &actor, &set_enabled]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Enables or disables a consumer; the answer holds `enabled` and `was_enabled`.
pub async fn set_enabled(
    client: &impl GenericClient,
    key: &str,
    enabled: bool,
    actor: Option<&str>,
    reason: &str,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_consumer_set_enabled(
          p_consumer_key => $1, p_enabled => $2, p_actor => coalesce($3, session_user::text),
          p_reason => $4) as answer";
    let answer = row(client, "switching a consumer", SQL, &[&key, &enabled, &actor, &reason]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Removes a row that came from a file; refused `not_owner` when it did not.
pub async fn remove(
    client: &impl GenericClient,
    key: &str,
    actor: Option<&str>,
    reason: &str,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_consumer_remove(
          p_consumer_key => $1, p_actor => coalesce($2, session_user::text), p_reason => $3,
          p_source => 'file') as answer";
    let answer = row(client, "removing a consumer", SQL, &[&key, &actor, &reason]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

fn columns(value: Value) -> Result<Columns> {
    match value {
        Value::Object(columns) => Ok(columns),
        other => Err(Error::new(crate::error::Kind::Database, format!("a consumer row came as {other}"))),
    }
}
