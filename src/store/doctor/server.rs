//! The server: who holds back vacuum, what is bloated, how full the notification queue is.

use deadpool_postgres::GenericClient;

use super::{Patience, found};
use crate::error::Result;
use crate::model::finding::Finding;
use crate::model::sorts;
use crate::store::health;

/// From this part of the notification queue on somebody must look (trap 4).
const QUEUE_PART: f64 = 0.1;

/// What has no age in seconds is old from this many transactions for each second of patience.
const TRANSACTIONS_A_SECOND: f64 = 1000.0;

/// Sessions, prepared transactions, standbys and slots that hold the oldest snapshot. A transaction with an id does so in any
/// database: no snapshot of ours is younger, which holds back vacuum and what has been read of `event_arrival` alike.
pub async fn snapshots(client: &impl GenericClient, patience: Patience) -> Result<Vec<Finding>> {
    const SQL: &str = "
        (select 'snapshot_held' as finding,
          'process ' || a.pid || case when a.datname <> current_database() then ' in database ' || a.datname else '' end as subject,
          format('%s has had a transaction open for %s s (%s): %s', coalesce(nullif(a.application_name, ''), a.usename, '?'),
            round(extract(epoch from clock_timestamp() - a.xact_start)), a.state, left(a.query, 200)) as what,
          format('let it end; or: select pg_terminate_backend(%s)', a.pid) as mend
        from pg_stat_activity a
        where a.pid <> pg_backend_pid() and (a.backend_xid is not null or (a.backend_xmin is not null and a.datname = current_database()))
          and a.backend_type <> 'autovacuum worker' and a.xact_start < clock_timestamp() - make_interval(secs => $1)
        order by a.xact_start limit 10)
        union all
        (select 'snapshot_held', 'standby ' || coalesce(nullif(a.application_name, ''), a.client_addr::text, a.pid::text),
          format('by hot_standby_feedback a query there has held back vacuum here for %s transactions', age(a.backend_xmin)),
          format('let the query there end, or set hot_standby_feedback = off there; or, if it is gone: select pg_terminate_backend(%s)', a.pid)
        from pg_stat_activity a
        where a.backend_type = 'walsender' and a.xact_start is null and age(a.backend_xmin) >= $2::float8
        order by age(a.backend_xmin) desc limit 10)
        union all
        (select 'snapshot_held', 'prepared transaction ' || p.gid || case when p.database <> current_database() then ' in database ' || p.database else '' end,
          format('prepared by %s, %s s ago', p.owner, round(extract(epoch from clock_timestamp() - p.prepared))),
          format('finish it from its program; or%s: rollback prepared %L', case when p.database <> current_database() then ', in that database' end, p.gid)
        from pg_prepared_xacts p
        where p.prepared < clock_timestamp() - make_interval(secs => $1)
        order by p.prepared limit 10)
        union all
        (select 'snapshot_held', 'replication slot ' || s.slot_name,
          case when s.active then format('its reader (process %s) is %s transactions behind, and it holds back what vacuum may remove', s.active_pid, h.age)
            else 'nobody reads from it, and it holds back what vacuum may remove' end,
          format(case when s.active then 'see why its reader lags; or, once that is stopped: select pg_drop_replication_slot(%L)'
            else 'start its reader; or: select pg_drop_replication_slot(%L)' end, s.slot_name)
        from pg_replication_slots s
        cross join lateral (select greatest(age(s.xmin), case when s.database = current_database() then age(s.catalog_xmin) end) as age) h
        where h.age is not null and (not s.active or h.age >= $2::float8)
        order by h.age desc limit 10)
        union all
        select 'could_not_look', 'sessions of other roles', format('%s is no member of pg_read_all_stats, and sees only its own transactions', current_user),
          format('grant pg_read_all_stats to %I', current_user)
        where not pg_has_role(current_user, 'pg_read_all_stats', 'usage')";
    let seconds = patience.seconds();
    let transactions = seconds * TRANSACTIONS_A_SECOND;
    let mut found = found(client, "looking for open transactions", SQL, &[&seconds, &transactions]).await?;
    for one in found.iter_mut().filter(|one| one.finding == sorts::COULD_NOT_LOOK.name) {
        "info".clone_into(&mut one.severity);
    }
    Ok(found)
}

/// Tables of ours, and those shared with the host, of which a good part is dead. By itself vacuum comes at a fifth, so that
/// more than a quarter says that it does not, or does not help.
pub async fn bloat(client: &impl GenericClient) -> Result<Vec<Finding>> {
    const SQL: &str = "
        select 'table_bloated' as finding, 'table ' || s.relname as subject,
          format('%s dead rows beside %s live ones; last vacuum: %s', s.n_dead_tup, s.n_live_tup,
            coalesce(to_char(greatest(s.last_vacuum, s.last_autovacuum) at time zone 'UTC', 'YYYY-MM-DD HH24:MI\"Z\"'), 'never')) as what,
          format('vacuum (analyze) %I; if it does not help, see snapshot_held', s.relname) as mend
        from pg_stat_user_tables s
        where s.schemaname = current_schema() and s.n_dead_tup > 10000 and s.n_dead_tup > s.n_live_tup / 4 and fn_route_is_own(s.relid)
        order by s.n_dead_tup desc
        limit 50";
    found(client, "looking for bloat", SQL, &[]).await
}

/// How full the notification queue is.
pub async fn notify_queue(client: &impl GenericClient) -> Result<Vec<Finding>> {
    Ok(queue_use(health::notification_queue_usage(client).await?))
}

fn queue_use(usage: f64) -> Vec<Finding> {
    if usage < QUEUE_PART {
        return Vec::new();
    }
    let what = format!("{:.0} % of it is in use", usage * 100.0);
    let mend = "end the session that listens and sits in a transaction: select pid, xact_start, query from pg_stat_activity \
                where state like 'idle in%' order by xact_start; select pg_terminate_backend(PID)";
    vec![sorts::NOTIFY_QUEUE_FILLING.found("the server's notification queue", what, mend)]
}

#[cfg(test)]
mod tests {
    use super::queue_use;

    #[test]
    fn a_tenth_of_the_notification_queue_is_worth_a_word() {
        assert!(queue_use(0.0).is_empty() && queue_use(0.099).is_empty());
        assert_eq!(queue_use(0.5)[0].what, "50 % of it is in use");
    }
}
