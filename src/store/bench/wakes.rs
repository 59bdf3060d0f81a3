//! Transactions whose COMMIT is sent alone, so that the clock can be read just before it.

use deadpool_postgres::GenericClient;
use serde_json::Value;
use tokio_postgres::Client;

use super::script;
use crate::error::{Error, Kind, Result};
use crate::store::{get, row, rows};

/// Opens a transaction.
pub async fn begin(client: &impl GenericClient) -> Result<()> {
    script(client, "opening a transaction", "begin").await
}

/// Commits it.
pub async fn commit(client: &impl GenericClient) -> Result<()> {
    script(client, "committing", "commit").await
}

/// A bare NOTIFY.
pub async fn notify(client: &impl GenericClient, channel: &str, payload: &str) -> Result<()> {
    const SQL: &str = "select pg_notify($1, $2)";
    row(client, "notifying", SQL, &[&channel, &payload]).await?;
    Ok(())
}

/// Listens on a connection of its own; its other half must be polled meanwhile.
pub async fn listen(client: &Client, channel: &str) -> Result<()> {
    let sql = format!("listen \"{channel}\"");
    client.batch_execute(&sql).await.map_err(|error| Error::postgres("listening", error))
}

/// Enqueues a job directly.
pub async fn enqueue(client: &impl GenericClient, job_kind: &str, subject: &str) -> Result<()> {
    const SQL: &str = "
        select fn_job_enqueue(p_job_kind => $1, p_actor => 'bench', p_source_ref => $2) as answer";
    let answer: Value = get(&row(client, "enqueueing a job", SQL, &[&job_kind, &subject]).await?, "answer")?;
    match answer.get("refused").and_then(Value::as_bool) {
        Some(false) => Ok(()),
        _ => Err(Error::new(Kind::Database, format!("a job of the bench was refused: {answer}"))),
    }
}

/// Whether commits leave their moment behind.
pub async fn tracks_commits(client: &impl GenericClient) -> Result<bool> {
    const SQL: &str = "select current_setting('track_commit_timestamp') = 'on' as tracks";
    get(&row(client, "reading track_commit_timestamp", SQL, &[]).await?, "tracks")
}

/// For every job that no worker has touched: the subject of its event, and when it was committed, in microseconds
/// since 1970, by the record that the server keeps of commits.
pub async fn job_commits(client: &impl GenericClient) -> Result<Vec<(String, i64)>> {
    const SQL: &str = "
        select j.source_ref, (extract(epoch from pg_xact_commit_timestamp(j.xmin)) * 1000000)::bigint as micros
        from job_queue j
        where j.status = 'queued' and j.source_ref is not null";
    let found = rows(client, "reading the moments of commits", SQL, &[]).await?;
    found.iter().map(|row| Ok((get(row, "source_ref")?, get(row, "micros")?))).collect()
}
