//! The database of a bench: made, filled, emptied, dropped.

use deadpool_postgres::GenericClient;
use serde::Serialize;
use serde_json::{Value, json};

use super::script;
use crate::error::{Error, Kind, Result};
use crate::store::{get, row};

/// What a figure depends on.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// For example `15.18`.
    pub version: String,
    /// Whether commits reach the disk at all.
    pub fsync: String,
    /// Whether commits wait for it.
    pub synchronous_commit: String,
    /// Whole pages in the log after a checkpoint.
    pub full_page_writes: String,
    /// Memory for pages.
    pub shared_buffers: String,
    /// Log between two checkpoints.
    pub max_wal_size: String,
    /// Whether commits leave their moment behind.
    pub track_commit_timestamp: String,
}

/// Reads the server's version and settings.
pub async fn facts(client: &impl GenericClient) -> Result<Facts> {
    const SQL: &str = "
        select current_setting('server_version') as version,
               current_setting('fsync') as fsync,
               current_setting('synchronous_commit') as synchronous_commit,
               current_setting('full_page_writes') as full_page_writes,
               current_setting('shared_buffers') as shared_buffers,
               current_setting('max_wal_size') as max_wal_size,
               current_setting('track_commit_timestamp') as track_commit_timestamp";
    let row = row(client, "reading the server's settings", SQL, &[]).await?;
    Ok(Facts {
        version: get(&row, "version")?,
        fsync: get(&row, "fsync")?,
        synchronous_commit: get(&row, "synchronous_commit")?,
        full_page_writes: get(&row, "full_page_writes")?,
        shared_buffers: get(&row, "shared_buffers")?,
        max_wal_size: get(&row, "max_wal_size")?,
        track_commit_timestamp: get(&row, "track_commit_timestamp")?,
    })
}

/// Creates the database `name`, which must be a plain identifier.
pub async fn create_database(client: &impl GenericClient, name: &str) -> Result<()> {
    script(client, "creating the bench's database", &format!("create database \"{name}\"")).await
}

/// Drops it with all its sessions.
pub async fn drop_database(client: &impl GenericClient, name: &str) -> Result<()> {
    let sql = format!("drop database if exists \"{name}\" with (force)");
    script(client, "dropping the bench's database", &sql).await
}

/// Adds an enabled consumer of the bench's domain.
pub async fn add_consumer(
    client: &impl GenericClient,
    key: &str,
    event_type: &str,
    job_kind: &str,
) -> Result<()> {
    const SQL: &str = "
        select fn_consumer_put(p_consumer => $1, p_actor => 'bench', p_set_enabled => true) as answer";
    let consumer = json!({
        "consumer_key": key,
        "event_domain": super::DOMAIN,
        "event_type": event_type,
        "job_kind": job_kind,
        "enabled": true,
    });
    let answer: Value = get(&row(client, "adding a consumer", SQL, &[&consumer]).await?, "answer")?;
    match answer.get("refused").and_then(Value::as_bool) {
        Some(false) => Ok(()),
        _ => Err(Error::new(Kind::Database, format!("a consumer of the bench was refused: {answer}"))),
    }
}

/// Empties outbox, arrivals and jobs. Nothing may be running.
pub async fn empty(client: &impl GenericClient) -> Result<()> {
    let sql = "truncate event_outbox, event_arrival, job_queue, dispatch_error";
    script(client, "emptying the bench's tables", sql).await
}

/// Inserts the events numbered `from` to `to`, every second of type `even_made`, the others `odd_made`, in one
/// statement.
pub async fn fill_events(client: &impl GenericClient, from: i64, to: i64) -> Result<()> {
    const SQL: &str = "
        insert into event_outbox (
          event_domain, event_type, event_stream, delivery_lane, event_subject_table, event_subject_ref, actor_ref,
          source_system, safe_payload)
        select $3, case when n.n % 2 = 0 then 'even_made' else 'odd_made' end, 'update', 'delayed', 'bench_subject',
               'subject-' || n.n, 'bench', 'bench', jsonb_build_object('n', n.n)
        from generate_series($1::bigint, $2::bigint) as n (n)";
    row_count(client, "inserting events", SQL, &[&from, &to, &super::DOMAIN]).await?;
    Ok(())
}

/// Gives outbox and arrivals their statistics and hint bits, so that no figure pays for them.
pub async fn settle(client: &impl GenericClient) -> Result<()> {
    script(client, "settling the outbox", "vacuum (analyze) event_outbox").await?;
    script(client, "settling the arrivals", "vacuum (analyze) event_arrival").await?;
    checkpoint(client).await
}

/// Writes a checkpoint, so that none that another step caused falls into a figure.
pub async fn checkpoint(client: &impl GenericClient) -> Result<()> {
    script(client, "writing a checkpoint", "checkpoint").await
}

/// The rows that a statement inserted or changed.
pub(super) async fn row_count(
    client: &impl GenericClient,
    what: &str,
    sql: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<u64> {
    let failed = |error| Error::postgres(what, error);
    let statement = client.prepare_cached(sql).await.map_err(failed)?;
    client.execute(&statement, parameters).await.map_err(failed)
}
