//! The bare limits: what the same server does with the same rows when nobody dispatches and nobody is careful.

use deadpool_postgres::GenericClient;
use uuid::Uuid;

use super::script;
use super::stage::{checkpoint, row_count};
use crate::error::Result;
use crate::store::{get, row, rows};

/// Keeps what was dispatched as `bench_rows`: the columns that a pass writes, in the order in which it wrote them. As
/// plain types: a value of a domain is not checked again when it is copied, and those of a pass are.
pub async fn keep_rows(client: &impl GenericClient) -> Result<()> {
    const SQL: &str = "
        drop table if exists bench_rows;
        create table bench_rows as
        select job_kind::text, executor::text, event_domain, source_ref, target_ref, payload_ref, safe_payload::jsonb,
               priority::int, scheduled_at, max_attempts::int, idempotency_key::text, ordering_key, actor::text,
               causation_event_id, consumer_key, correlation_id
        from job_queue";
    script(client, "keeping the jobs", SQL).await?;
    script(client, "settling the kept jobs", "vacuum (analyze) bench_rows").await
}

/// Makes `bench_twin`, an empty table like `job_queue`: the same columns, defaults, checks, indexes, storage settings
/// and triggers.
pub async fn make_twin(client: &impl GenericClient) -> Result<()> {
    const SQL: &str = "
        drop table if exists bench_twin;
        create table bench_twin (like job_queue including all);
        do $$
        declare
          v_trigger record;
        begin
          execute (
            select format('alter table bench_twin set (%s)', array_to_string(c.reloptions, ', '))
            from pg_class c where c.oid = 'job_queue'::regclass);
          for v_trigger in
            select t.tgname, pg_get_triggerdef(t.oid) as definition
            from pg_trigger t where t.tgrelid = 'job_queue'::regclass and not t.tgisinternal
          loop
            execute regexp_replace(v_trigger.definition, ' ON [^ ]+ ', ' ON bench_twin ');
          end loop;
        end
        $$";
    script(client, "making a table like job_queue", SQL).await
}

/// Inserts the kept rows into the twin, in one statement; answers how many.
pub async fn insert_rows(client: &impl GenericClient) -> Result<u64> {
    const SQL: &str = "
        insert into bench_twin (
          job_kind, executor, event_domain, source_ref, target_ref, payload_ref, safe_payload, priority, scheduled_at,
          max_attempts, idempotency_key, ordering_key, actor, causation_event_id, consumer_key, correlation_id)
        select * from bench_rows";
    row_count(client, "inserting the same rows without a dispatcher", SQL, &[]).await
}

/// Empties `job_queue` and fills it with so many jobs of one kind; see [`settle_jobs`].
pub async fn fill_jobs(client: &impl GenericClient, job_kind: &str, count: i64) -> Result<()> {
    const SQL: &str = "
        insert into job_queue (job_kind, actor, idempotency_key, source_ref, safe_payload)
        select $1::text, 'bench', n.n::text, 'subject-' || n.n, jsonb_build_object('n', n.n)
        from generate_series(1, $2::bigint) as n (n)";
    script(client, "emptying job_queue", "truncate job_queue").await?;
    row_count(client, "inserting jobs", SQL, &[&job_kind, &count]).await?;
    Ok(())
}

/// Lets all jobs have waited for an hour.
pub async fn make_old(client: &impl GenericClient) -> Result<()> {
    const SQL: &str = "update job_queue set scheduled_at = scheduled_at - interval '1 hour'";
    row_count(client, "making jobs old", SQL, &[]).await.map(drop)
}

/// Adds the finished jobs numbered `from` to `to`, as they are an hour after their success; past the trigger that lets
/// every job begin as queued.
pub async fn fill_finished(client: &impl GenericClient, job_kind: &str, from: i64, to: i64) -> Result<()> {
    const SQL: &str = "
        insert into job_queue (job_kind, actor, idempotency_key, source_ref, safe_payload, status, finished_at)
        select $1::text, 'bench', 'finished ' || n.n, 'subject-' || n.n, jsonb_build_object('n', n.n), 'succeeded',
               clock_timestamp() - interval '1 hour'
        from generate_series($2::bigint, $3::bigint) as n (n)";
    let trigger = |way: &str| format!("alter table job_queue {way} trigger job_queue_begins_queued");
    script(client, "lifting the guard of new jobs", &trigger("disable")).await?;
    row_count(client, "inserting finished jobs", SQL, &[&job_kind, &from, &to]).await?;
    script(client, "setting the guard of new jobs", &trigger("enable")).await
}

/// Why jobs that stand in `job_queue` may not be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Due in a day.
    Scheduled,
    /// Behind another job.
    Blocked,
    /// Of a kind that is paused.
    Paused,
}

impl Standing {
    /// Each sort.
    pub const ALL: [Self; 3] = [Self::Scheduled, Self::Blocked, Self::Paused];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Blocked => "blocked",
            Self::Paused => "paused",
        }
    }
}

/// The kind of those that are paused beside jobs of a kind.
pub fn paused_kind(job_kind: &str) -> String {
    format!("{job_kind}.paused")
}

/// Adds so many jobs that may not be claimed.
pub async fn stand_beside(
    client: &impl GenericClient,
    job_kind: &str,
    standing: Standing,
    count: i64,
) -> Result<()> {
    const PAUSE: &str = "select fn_pause('job_kind', $1, 'bench', 'the bench looks past it')";
    const SQL: &str = "
        insert into job_queue (job_kind, actor, idempotency_key, source_ref, safe_payload, scheduled_at, blocked_by)
        select $1::text, 'bench', $2::text || ' ' || n.n, 'subject-' || n.n, jsonb_build_object('n', n.n),
               clock_timestamp() + case when $2 = 'scheduled' then interval '1 day' else interval '0' end,
               case when $2 = 'blocked' then 1 else 0 end
        from generate_series(1, $3::bigint) as n (n)";
    let paused = paused_kind(job_kind);
    let kind = if standing == Standing::Paused { &paused } else { job_kind };
    if standing == Standing::Paused {
        row_count(client, "pausing a kind", PAUSE, &[&kind]).await?;
    }
    row_count(client, "inserting jobs that stand", SQL, &[&kind, &standing.as_str(), &count]).await?;
    Ok(())
}

/// Gives `job_queue` its statistics and hint bits, and writes a checkpoint, so that no figure pays for them.
pub async fn settle_jobs(client: &impl GenericClient) -> Result<()> {
    script(client, "settling job_queue", "vacuum (analyze) job_queue").await?;
    checkpoint(client).await
}

/// The lane of a kind's jobs, of which there is at least one.
pub async fn lane(client: &impl GenericClient, job_kind: &str) -> Result<i64> {
    const SQL: &str = "select j.lane from job_queue j where j.job_kind = $1 limit 1";
    get(&row(client, "asking for a lane", SQL, &[&job_kind]).await?, "lane")
}

/// Claims up to `batch` jobs of a lane and ends them well by two plain statements without gates, leases that anybody would
/// check, or functions; answers how many.
pub async fn bare_claim_and_succeed(client: &impl GenericClient, lane: i64, batch: u32) -> Result<usize> {
    const SUCCEED: &str = "
        update job_queue j
        set status = 'succeeded', finished_at = clock_timestamp(), lease_until = null, updated_at = clock_timestamp()
        where j.job_id = any ($1)";
    // one lane, as the jobs of a bench are of one kind: the index is read in its own order
    let claim = format!(
        "update job_queue j
         set status = 'leased', lease_owner = 'bench', lease_token = 1,
             lease_until = clock_timestamp() + interval '5 minutes', picked_at = clock_timestamp(),
             updated_at = clock_timestamp()
         where j.job_id = any (array(
           select q.job_id
           from job_queue q
           where q.executor = 'PG_worker' and q.claimable and q.lane = {lane}
             and q.priority = 100 and q.scheduled_at <= clock_timestamp()
           order by q.scheduled_at, q.job_id
           limit {batch}
           for update skip locked))
         returning j.job_id"
    );
    let claimed = rows(client, "claiming without a worker", &claim, &[]).await?;
    let ids = claimed.iter().map(|row| get(row, "job_id")).collect::<Result<Vec<Uuid>>>()?;
    if !ids.is_empty() {
        row_count(client, "succeeding without a worker", SUCCEED, &[&ids]).await?;
    }
    Ok(ids.len())
}
