//! Jobs that somebody must look at, and events that became none.

use deadpool_postgres::GenericClient;

use super::{Patience, found};
use crate::error::Result;
use crate::model::finding::Finding;

/// Most claimable jobs that [`poison`] looks at.
pub const MOST_CLAIMABLE: i64 = 100_000;

/// Jobs whose workers go away: of those that wait to be claimed it looks at `most`, as there may be millions.
pub async fn poison(client: &impl GenericClient, most: i64) -> Result<Vec<Finding>> {
    const SQL: &str = "
        (select 'poison_job' as finding, 'job ' || p.job_id as subject,
          format('%s: %s of its leases ended without a word', p.job_kind, p.lease_losses) as what,
          format('reveille jobs explain %1$s; if it shall not run again: reveille jobs cancel %1$s --reason TEXT', p.job_id) as mend
        from (
          select w.job_id, w.job_kind, w.lease_losses
          from (select j.job_id, j.job_kind, j.lease_losses from job_queue j where j.claimable limit $1) w
          where w.lease_losses >= 2
          union
          select j.job_id, j.job_kind, j.lease_losses from job_queue j where j.lease_until is not null and j.lease_losses >= 2) p
        limit 20)
        union all
        (select 'poison_job', 'job ' || d.job_id, format('%s: it is a dead letter, because its workers went away: %s', d.job_kind, coalesce(d.error, 'no error given')),
          format('reveille dlq show %1$s; reveille dlq triage %1$s discarded --note TEXT; or, once its cause is gone: reveille dlq triage %1$s manual_replay --note TEXT, then reveille dlq replay %1$s --authorization TEXT --apply', d.dead_letter_id)
        from job_dead_letter d
        where d.triage_status in ('open', 'investigating', 'manual_replay') and d.reason_class = 'lease_lost'
        order by d.created_at limit 20)";
    found(client, "looking for jobs whose workers go away", SQL, &[&most]).await
}

/// Jobs that hold up others of their ordering key.
pub async fn keys(client: &impl GenericClient, patience: Patience) -> Result<Vec<Finding>> {
    const SQL: &str = "
        select 'key_blocked' as finding, 'ordering key ' || b.ordering_key as subject,
          format('%s jobs wait behind job %s: %s', b.behind, b.blocking_job_id, b.reason) as what,
          case b.blocking_status
            when 'dead_letter' then format('reveille dlq show %1$s; then reveille dlq triage %1$s discarded --note TEXT; or, to try it again: reveille dlq triage %1$s manual_replay --note TEXT, then reveille dlq replay %1$s --authorization TEXT --apply',
              coalesce((select d.dead_letter_id::text from job_dead_letter d where d.job_id = b.blocking_job_id order by d.created_at desc limit 1), 'ID'))
            else format('reveille jobs explain %1$s; if it shall not run: reveille jobs cancel %1$s --reason TEXT', b.blocking_job_id) end as mend
        from v_ordering_blocked b
        where b.blocking_status = 'dead_letter' or b.oldest_created_at < clock_timestamp() - make_interval(secs => $1)
        order by b.oldest_created_at limit 20";
    found(client, "looking at ordering keys", SQL, &[&patience.seconds()]).await
}

/// Events that a consumer could not digest.
pub async fn undigested(client: &impl GenericClient) -> Result<Vec<Finding>> {
    const SQL: &str = "
        select 'dispatch_errors' as finding, 'consumer ' || e.consumer_key as subject,
          format('%s events, last: %s (%s)', count(*), (array_agg(e.message order by e.last_at desc))[1],
            (array_agg(e.sqlstate order by e.last_at desc))[1]) as what,
          format('mend the consumer (reveille consumers show %s), then reveille events dispatch %s', e.consumer_key, (array_agg(e.event_id order by e.last_at desc))[1]) as mend
        from (select * from dispatch_error x order by x.first_at desc limit 10000) e
        group by e.consumer_key
        order by 2 limit 20";
    found(client, "looking at events without a decision", SQL, &[]).await
}
