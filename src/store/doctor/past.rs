//! What was silent in the last 30 days (HK2), from what stays: the outbox and the archive.

use deadpool_postgres::GenericClient;

use super::{LATELY, found};
use crate::error::Result;
use crate::model::finding::Finding;

/// Most jobs that [`gaps`] reads of each table.
pub const MOST_RUNS: i64 = 500_000;

/// Silences that were announced.
pub async fn silences(client: &impl GenericClient) -> Result<Vec<Finding>> {
    const SILENCES: &str = "
        select 'was_silent' as finding, 'executor ' || coalesce(l.event_subject_ref, '?') as subject,
          format('it fell silent %s%s times within 30 days, last at %s', case when not r.is_whole then 'at least ' end, count(*),
            to_char(max(l.created_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI\"Z\"')) as what,
          'look into the log of its program at that time' as mend
        from lately l
        cross join reach r
        where l.event_domain = 'system' and l.event_type = 'queue_worker_silent'
        group by l.event_subject_ref, r.is_whole
        order by 2
        limit 50";
    found(client, "looking for past silences", &[LATELY, SILENCES].concat(), &[]).await
}

/// Holes of more than a day in the runs of each executor that is known. Reads the newest `most` jobs of each table: of a
/// queue with more than that, holes that began before them cannot be told from runs that were not read, and are not told.
pub async fn gaps(client: &impl GenericClient, most: i64) -> Result<Vec<Finding>> {
    const SQL: &str = "
        with made as materialized (
          select j.lease_owner, j.picked_at, j.created_at from job_queue j order by j.job_id desc limit $1),
        tried as materialized (
          select a.lease_owner, a.picked_at from job_attempt a order by a.job_id desc limit $1),
        kept as materialized (
          select a.created_at, a.history from job_archive a
          where a.finished_at > now() - interval '30 days' order by a.job_id desc limit $1),
        known as (
          select greatest(now() - interval '30 days',
            (select min(m.created_at) from made m having count(*) = $1),
            (select min(t.picked_at) from tried t having count(*) = $1),
            (select min(k.created_at) from kept k having count(*) = $1)) as since),
        runs as (
          select m.lease_owner, m.picked_at from made m
          union all
          select t.lease_owner, t.picked_at from tried t
          union all
          select h.one ->> 'lease_owner', (h.one ->> 'picked_at')::timestamptz
          from kept k cross join jsonb_array_elements(k.history) h (one)),
        gaps as (
          select r.lease_owner, r.picked_at, lag(r.picked_at) over (partition by r.lease_owner order by r.picked_at) as before
          from runs r
          -- whoever approves a step has it for a moment, too, and is no executor
          where r.picked_at >= (select n.since from known n)
            and r.lease_owner in (select h.name from v_queue_health h where h.component = 'executor')),
        holes as (
          select g.* from gaps g where g.picked_at - g.before > interval '1 day' order by g.picked_at desc limit 50)
        select 'work_gap' as finding, 'executor ' || g.lease_owner as subject,
          format('nothing was run under this name from %s to %s; %s%s jobs were made meanwhile',
            to_char(g.before at time zone 'UTC', 'YYYY-MM-DD HH24:MI\"Z\"'), to_char(g.picked_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI\"Z\"'),
            m.jobs, case when m.jobs = 1000 then ' or more' end) as what,
          'look into the log of its program, or of what calls it, at that time' as mend
        from holes g
        cross join lateral (
          select count(*) as jobs
          from (
            select from (select m.created_at from made m union all select k.created_at from kept k) c
            where c.created_at > g.before and c.created_at < g.picked_at
            limit 1000) x) m
        order by 2, 3";
    found(client, "looking for holes in the work of executors", SQL, &[&most]).await
}
