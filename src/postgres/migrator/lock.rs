//! One migrator at a time for each schema.
//!
//! The advisory lock is polled, not waited for: a session that waits holds a snapshot, and `create index
//! concurrently` beside it then waits for that snapshot, which Postgres ends as a deadlock.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::SHORT;
use crate::backoff::Backoff;
use crate::error::{Error, Kind, Result};
use crate::postgres::explain;

/// Takes the lock of `schema` within `deadline`; it is held until [`release`] or the end of the session.
pub(super) async fn take(client: &Client, schema: &str, deadline: Duration) -> Result<()> {
    let key = key(schema);
    let parameter = parameter(&key);
    let end = Instant::now() + deadline;
    let mut pauses = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
    loop {
        let asked = client.query_typed_one("select pg_try_advisory_lock($1)", &parameter);
        let row = explain::within(SHORT, "taking the migration lock", asked).await?;
        if row.get(0) {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(held(client, key, deadline).await);
        }
        tokio::time::sleep(pauses.next_delay()).await;
    }
}

/// Gives the lock back, so that the next migrator need not wait for our connection to close.
pub(super) async fn release(client: &Client, schema: &str) {
    let key = key(schema);
    let parameter = parameter(&key);
    let released = client.query_typed("select pg_advisory_unlock($1)", &parameter);
    // the session is about to end, and the lock with it: an error here changes nothing
    let _ = explain::within(SHORT, "releasing the migration lock", released).await;
}

fn key(schema: &str) -> i64 {
    let digest = Sha256::digest(format!("reveille migrate {schema}").as_bytes());
    digest.iter().take(8).fold(0, |key, byte| (key << 8) | i64::from(*byte))
}

fn parameter(key: &i64) -> [(&(dyn ToSql + Sync), Type); 1] {
    [(key, Type::INT8)]
}

async fn held(client: &Client, key: i64, deadline: Duration) -> Error {
    let parameter = parameter(&key);
    let holders = client.query_typed(
        "select a.pid, a.application_name, coalesce(host(a.client_addr), 'this machine')
               from pg_locks l join pg_stat_activity a using (pid)
              where l.locktype = 'advisory' and l.granted and l.objsubid = 1 and a.datname = current_database()
                and l.classid::bigint = ($1 >> 32) & 4294967295 and l.objid::bigint = $1 & 4294967295",
        &parameter,
    );
    let holder = explain::within(SHORT, "asking who holds the migration lock", holders).await;
    let who = match holder.as_deref() {
        Ok([row, ..]) => {
            let (pid, name, host): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
            format!("process {pid} ({name}, from {host})")
        }
        _ => "another session".to_owned(),
    };
    let deadline = humantime::format_duration(deadline);
    Error::new(Kind::Timeout, format!("{who} has held the migration lock for longer than {deadline}"))
        .hint("let it finish, or end it with pg_terminate_backend, then try again")
}
