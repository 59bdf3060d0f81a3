//! Tables: the only floor with SQL strings. One file a table, one statement a function.
//!
//! Every function takes the connection first, prepares its statement once a connection, and says in its error
//! what it was about to do. Functions of the contract are called by named notation.

pub mod archive;
pub mod audit;
pub mod backfills;
pub mod backlog;
pub mod bench;
pub mod bridge;
pub mod claims;
pub mod consumers;
pub mod dead_letters;
pub mod dispatch;
pub mod doctor;
pub mod events;
pub mod explain;
pub mod flow;
pub mod gates;
pub mod health;
pub mod heartbeats;
pub mod jobs;
pub mod kinds;
pub mod pauses;
pub mod pilot;
pub mod pilot_host;
pub mod reaper;
pub mod recipients;
pub mod rights;
pub mod routes;
pub mod schedules;
pub mod standing;
pub mod subscriptions;
pub mod timeline;
pub mod views;
pub mod wakes;
pub mod watch;
pub mod work;
pub mod workflows;

use deadpool_postgres::GenericClient;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql};

use crate::error::{Error, Result};

/// Parameters of a statement.
type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// All rows of a statement; `what` names the action in an error.
async fn rows(
    client: &impl GenericClient,
    what: &str,
    sql: &str,
    parameters: Parameters<'_>,
) -> Result<Vec<Row>> {
    let failed = |error| Error::postgres(what, error);
    let statement = client.prepare_cached(sql).await.map_err(failed)?;
    client.query(&statement, parameters).await.map_err(failed)
}

/// The one row of a statement that always gives one.
async fn row(client: &impl GenericClient, what: &str, sql: &str, parameters: Parameters<'_>) -> Result<Row> {
    let failed = |error| Error::postgres(what, error);
    let statement = client.prepare_cached(sql).await.map_err(failed)?;
    client.query_one(&statement, parameters).await.map_err(failed)
}

/// A column of a row.
fn get<'a, T: FromSql<'a>>(row: &'a Row, column: &str) -> Result<T> {
    row.try_get(column).map_err(|error| Error::unreadable(format!("column {column}"), error))
}
