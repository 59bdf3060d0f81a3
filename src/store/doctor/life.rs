//! Gates, and the parts that must be alive.

use deadpool_postgres::GenericClient;

use super::found;
use crate::error::Result;
use crate::model::finding::Finding;

/// Closed gates behind which something waits.
pub async fn gates(client: &impl GenericClient) -> Result<Vec<Finding>> {
    const SQL: &str = "
        with waits as (
          select
            (select count(*) from consumer_registry c where c.enabled) as consumers,
            (select count(*) from (select from job_queue j where j.claimable limit 1000) q) as jobs)
        select x.finding, 'gate ' || g.key as subject, x.what,
          format('reveille gate open %s --reason TEXT', g.key) as mend
        from fn_gate_list() g
        cross join waits w
        cross join lateral (
          select 'gate_closed' as finding, format('it is closed, and %s consumers are enabled', w.consumers) as what
          where g.key = 'queue.job_substrate.enabled' and w.consumers > 0
          union all
          select 'gate_closed', format('it is closed, and %s%s jobs wait to be claimed', w.jobs, case when w.jobs = 1000 then ' or more' end)
          where g.key = 'queue.worker.enabled' and w.jobs > 0
          union all
          select 'bridge_closed', format('it is closed, and %s consumers are enabled', w.consumers)
          where g.key = 'queue.notify.bridge_enabled' and w.consumers > 0) x
        where g.value is distinct from 'true'";
    found(client, "looking at gates", SQL, &[]).await
}

/// What `v_queue_health` calls stale or never.
pub async fn silent(client: &impl GenericClient) -> Result<Vec<Finding>> {
    const SQL: &str = "
        select x.finding, h.component || ' ' || h.name as subject, x.what, x.mend
        from v_queue_health h
        cross join lateral (select coalesce(round(h.age_seconds) || ' s', 'ever') as age) a
        cross join lateral (
          select 'executor_silent' as finding, format('it has not beaten for %s', a.age) as what,
            format('start its program again; if it does not come back: reveille executors forget %s', h.name) as mend
          where h.component = 'executor' and h.status_hint = 'stale'
          union all
          select 'executor_never_beat', 'it is registered, and has never beaten',
            format('start its program; if there is none: reveille executors forget %s', h.name)
          where h.component = 'executor' and h.status_hint = 'never'
          union all
          select 'executor_silent', format('this worker of the host has not run for %s, by its own cursor', a.age),
            'call it again: it is the host''s, and nobody can beat for it'
          where h.component = 'legacy_cursor'
          union all
          select 'dispatch_behind', coalesce(h.detail ->> 'reason', format('its oldest unread event has waited for %s', a.age)),
            'reveille run; or, for once, reveille tick'
          where h.component = 'cursor' and h.name <> 'sweep'
          union all
          select 'sweep_behind', format('no sweep has come further for %s', a.age),
            'reveille run; or, for once, reveille tick; if one runs, see snapshot_held'
          where h.component = 'cursor' and h.name = 'sweep'
          union all
          select 'nobody_alive', format('%s jobs are due, the oldest for %s', h.value, a.age),
            format('reveille work, or start an executor of kind %s', h.name)
          where h.component = 'backlog'
          union all
          select 'leases_ended', format('%s jobs, the oldest for %s', h.value, a.age),
            'reveille gate open queue.lease_reaper.enabled --reason TEXT; reveille gate close queue.lease_reaper.dry_run_only --reason TEXT; then reveille tick'
          where h.component = 'lease'
          union all
          select 'dead_letters_open', format('%s, the oldest for %s', h.value, a.age),
            case when h.name <> 'job_queue' then 'see dispatch_errors: mend the consumer, then reveille events dispatch ID'
              else 'reveille dlq list; ' || coalesce((
                -- those that kill their workers, or hold an ordering key, are findings of their own
                select format('then, oldest first, once its cause is gone: reveille dlq triage %1$s manual_replay --note TEXT; reveille dlq replay %1$s --authorization TEXT --apply; or, if it shall not run again: reveille dlq triage %1$s discarded --note TEXT',
                  d.dead_letter_id)
                from job_dead_letter d
                where d.triage_status in ('open', 'investigating', 'manual_replay') and d.reason_class <> 'lease_lost' and d.job ->> 'ordering_key' is null
                order by d.created_at, d.dead_letter_id limit 1), 'see poison_job and key_blocked') end
          where h.component = 'dead_letter') x
        where h.status_hint in ('stale', 'never')
        order by h.component, h.name
        limit 100";
    found(client, "looking for what is silent", SQL, &[]).await
}
