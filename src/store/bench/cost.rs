//! What idling costs the server.

use deadpool_postgres::GenericClient;

use super::script;
use crate::error::Result;
use crate::store::{get, row};

/// By what statements are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// Each top-level statement, by `pg_stat_statements`.
    Statements,
    /// Each transaction, by `pg_stat_database`: all there is without the extension.
    Transactions,
}

/// Prepares to count. `client` is in another database than the one to be watched, so that it does not count itself.
pub async fn count_statements(client: &impl GenericClient) -> Result<Counting> {
    const LOADED: &str = "
        select 'pg_stat_statements' = any (string_to_array(replace(current_setting('shared_preload_libraries'), ' ', ''), ','))
          as loaded";
    if get(&row(client, "looking for pg_stat_statements", LOADED, &[]).await?, "loaded")? {
        script(client, "adding pg_stat_statements", "create extension if not exists pg_stat_statements")
            .await?;
        return Ok(Counting::Statements);
    }
    Ok(Counting::Transactions)
}

/// Statements (or transactions) that the database `watched` has run so far.
pub async fn statements(client: &impl GenericClient, counting: Counting, watched: &str) -> Result<i64> {
    const STATEMENTS: &str = "
        select coalesce(sum(s.calls), 0)::bigint as count
        from pg_stat_statements s
        join pg_database d on d.oid = s.dbid
        where d.datname = $1 and s.toplevel";
    const TRANSACTIONS: &str = "
        select (d.xact_commit + d.xact_rollback)::bigint as count from pg_stat_database d where d.datname = $1";
    let sql = match counting {
        Counting::Statements => STATEMENTS,
        Counting::Transactions => TRANSACTIONS,
    };
    get(&row(client, "counting statements", sql, &[&watched]).await?, "count")
}

/// Dead rows in all tables of this database, and rows ever updated or deleted.
pub async fn dead_rows(client: &impl GenericClient) -> Result<(i64, i64)> {
    const SQL: &str = "
        select coalesce(sum(t.n_dead_tup), 0)::bigint as dead, coalesce(sum(t.n_tup_upd + t.n_tup_del), 0)::bigint as changed
        from pg_stat_user_tables t";
    let row = row(client, "counting dead rows", SQL, &[]).await?;
    Ok((get(&row, "dead")?, get(&row, "changed")?))
}

/// The server processes that serve a sidecar in this database, or, when asked for `own`, the bench itself.
pub async fn backends(client: &impl GenericClient, own: bool) -> Result<Vec<i32>> {
    const SQL: &str = "
        select coalesce(array_agg(a.pid), '{}') as pids
        from pg_stat_activity a
        where a.datname = current_database() and a.application_name like 'reveille/%'
          and (a.application_name like 'reveille/bench%') = $1";
    get(&row(client, "finding sessions", SQL, &[&own]).await?, "pids")
}
