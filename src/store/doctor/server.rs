//! The server: who holds back vacuum, what is bloated, how full the notification queue is.

use deadpool_postgres::GenericClient;

use super::{Patience, found};
use crate::error::Result;
use crate::model::finding::Finding;
use crate::model::sorts;
use crate::store::health;

/// From this part of the notification queue on somebody must look (trap 4).
const QUEUE_PART: f64 = 0.1;

/// Sessions, prepared transactions and slots that hold the oldest snapshot.
pub async fn snapshots(client: &impl GenericClient, patience: Patience) -> Result<Vec<Finding>> {
    const SQL: &str = "
        (select 'snapshot_held' as finding, 'process ' || a.pid as subject,
          format('%s has had a transaction open for %s s (%s): %s', coalesce(nullif(a.application_name, ''), a.usename, '?'),
            round(extract(epoch from clock_timestamp() - a.xact_start)), a.state, left(a.query, 200)) as what,
          format('let it end; or: select pg_terminate_backend(%s)', a.pid) as mend
        from pg_stat_activity a
        where a.datname = current_database() and a.pid <> pg_backend_pid() and (a.backend_xmin is not null or a.backend_xid is not null)
          and a.xact_start < clock_timestamp() - make_interval(secs => $1)
        order by a.xact_start limit 10)
        union all
        (select 'snapshot_held', 'prepared transaction ' || p.gid, format('prepared by %s, %s s ago', p.owner, round(extract(epoch from clock_timestamp() - p.prepared))),
          format('finish it from its program; or: rollback prepared %L', p.gid)
        from pg_prepared_xacts p
        where p.database = current_database() and p.prepared < clock_timestamp() - make_interval(secs => $1)
        order by p.prepared limit 10)
        union all
        (select 'snapshot_held', 'replication slot ' || s.slot_name, 'nobody reads from it, and it holds back what vacuum may remove',
          format('start its reader; or: select pg_drop_replication_slot(%L)', s.slot_name)
        from pg_replication_slots s
        where not s.active and (s.xmin is not null or (s.catalog_xmin is not null and s.database = current_database())) limit 10)
        union all
        select 'could_not_look', 'sessions of other roles', format('%s is no member of pg_read_all_stats, and sees only its own transactions', current_user),
          format('grant pg_read_all_stats to %I', current_user)
        where not pg_has_role(current_user, 'pg_read_all_stats', 'usage')";
    let mut found = found(client, "looking for open transactions", SQL, &[&patience.seconds()]).await?;
    for one in found.iter_mut().filter(|one| one.finding == sorts::COULD_NOT_LOOK.name) {
        "info".clone_into(&mut one.severity);
    }
    Ok(found)
}

/// Hot tables with more dead rows than live ones.
pub async fn bloat(client: &impl GenericClient) -> Result<Vec<Finding>> {
    const SQL: &str = "
        select 'table_bloated' as finding, 'table ' || s.relname as subject,
          format('%s dead rows beside %s live ones; last vacuum: %s', s.n_dead_tup, s.n_live_tup,
            coalesce(to_char(greatest(s.last_vacuum, s.last_autovacuum) at time zone 'UTC', 'YYYY-MM-DD HH24:MI\"Z\"'), 'never')) as what,
          format('vacuum (analyze) %I; if it does not help, see snapshot_held', s.relname) as mend
        from pg_stat_user_tables s
        where s.schemaname = current_schema()
          and s.relname in ('job_queue', 'job_attempt', 'job_dead_letter', 'job_rate', 'queue_heartbeat', 'event_outbox', 'event_arrival',
            'dispatch_pass', 'dispatch_cursor', 'dispatch_error', 'consumer_registry', 'dot_config')
          and s.n_dead_tup > 10000 and s.n_dead_tup > s.n_live_tup
        order by s.n_dead_tup desc";
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
