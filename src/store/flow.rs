//! What flowed in the last hour, read so that a look costs the same whatever the tables hold.
//!
//! Passes are read along their index, at most [`MOST_PASSES`] a domain; jobs from the end of the primary key, whose ids
//! are time-ordered, at most [`MOST_JOBS`]. What was left out is told.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::{get, rows};
use crate::error::Result;

/// Most passes of a domain that are read.
pub const MOST_PASSES: i64 = 5000;
/// Most jobs that are read.
pub const MOST_JOBS: i64 = 5000;
/// Most leases that are counted.
pub const MOST_RUNNING: i64 = 10_000;
/// Jobs of which the latency is measured.
pub const MEASURED: i64 = 1000;

/// What passes of one domain read in one minute, because of one thing that made them look.
#[derive(Debug, Clone)]
pub struct Passed {
    /// The domain.
    pub domain: String,
    /// What made the dispatcher look.
    pub found_by: String,
    /// Whole minutes ago, 0 is this one.
    pub ago: i32,
    /// Events that were read.
    pub events: i64,
    /// Jobs that were made of them.
    pub jobs: i64,
    /// How many passes of the domain were looked at, all in all.
    pub looked: i64,
    /// The oldest of them.
    pub oldest: Timestamp,
}

/// Passes of the last hour, by domain, cause and minute.
pub async fn passed(client: &impl GenericClient) -> Result<Vec<Passed>> {
    const SQL: &str = "
        select c.event_domain, p.found_by, p.ago, sum(p.events)::bigint as events, sum(p.jobs)::bigint as jobs,
               max(p.looked)::bigint as looked, min(p.oldest) as oldest
        from dispatch_cursor c
        cross join lateral (
          select d.found_by, d.events, d.jobs,
                 floor(extract(epoch from date_trunc('minute', clock_timestamp()) + interval '1 minute' - d.finished_at) / 60)::int as ago,
                 count(*) over () as looked, min(d.finished_at) over () as oldest
          from (
            select l.found_by, l.events, l.jobs, l.finished_at
            from dispatch_pass l
            where l.event_domain = c.event_domain
            order by l.pass_id desc
            limit $1) d) p
        where p.ago between 0 and 59 and p.events > 0
        group by c.event_domain, p.found_by, p.ago
        order by c.event_domain, p.found_by, p.ago";
    let passed = |row: &Row| {
        Ok(Passed {
            domain: get(row, "event_domain")?,
            found_by: get(row, "found_by")?,
            ago: get(row, "ago")?,
            events: get(row, "events")?,
            jobs: get(row, "jobs")?,
            looked: get(row, "looked")?,
            oldest: get(row, "oldest")?,
        })
    };
    rows(client, "reading what was dispatched", SQL, &[&MOST_PASSES]).await?.iter().map(passed).collect()
}

/// Which of the newest jobs ended in the last hour.
#[derive(Debug, Clone)]
pub struct Ends {
    /// By domain and minute.
    pub ended: Vec<Ended>,
    /// How many jobs were looked at.
    pub looked: i64,
    /// When the oldest of them was made; none when there are no jobs.
    pub oldest: Option<Timestamp>,
}

impl Ends {
    /// Whether there are jobs that were not looked at.
    pub fn is_part(&self) -> bool {
        self.looked >= MOST_JOBS
    }
}

/// Jobs of one domain that ended in one minute.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The domain; none for jobs without one.
    pub domain: Option<String>,
    /// Whole minutes ago, 0 is this one.
    pub ago: i32,
    /// Those that succeeded.
    pub done: i64,
    /// Those that ended otherwise.
    pub failed: i64,
}

/// The newest jobs by domain and the minute of their end.
pub async fn ended(client: &impl GenericClient) -> Result<Ends> {
    // how many were looked at is told also when none of them has ended
    const SQL: &str = "
        with newest as materialized (
          select q.event_domain, q.status::text, q.finished_at, q.created_at
          from job_queue q
          order by q.job_id desc
          limit $1)
        select l.looked, l.oldest, e.event_domain, e.ago, e.done, e.failed
        from (select count(*) as looked, min(n.created_at) as oldest from newest n) l
        left join (
          select j.event_domain, j.ago, count(*) filter (where j.status in ('succeeded', 'cleaned')) as done,
                 count(*) filter (where j.status in ('failed', 'dead_letter')) as failed
          from (
            select n.event_domain, n.status,
                   floor(extract(epoch from date_trunc('minute', clock_timestamp()) + interval '1 minute' - n.finished_at) / 60)::int as ago
            from newest n) j
          where j.ago between 0 and 59
          group by j.event_domain, j.ago) e on true
        order by e.event_domain, e.ago";
    let found = rows(client, "reading which jobs ended", SQL, &[&MOST_JOBS]).await?;
    let ended = |row: &Row| {
        let Some(ago) = get(row, "ago")? else { return Ok(None) };
        let (done, failed) = (get(row, "done")?, get(row, "failed")?);
        Ok(Some(Ended { domain: get(row, "event_domain")?, ago, done, failed }))
    };
    let (looked, oldest) = match found.first() {
        Some(row) => (get(row, "looked")?, get(row, "oldest")?),
        None => (0, None),
    };
    let ended = found.iter().filter_map(|row| ended(row).transpose()).collect::<Result<_>>()?;
    Ok(Ends { ended, looked, oldest })
}

/// Leased jobs by domain, at most [`MOST_RUNNING`] in all.
pub async fn running(client: &impl GenericClient) -> Result<Vec<(Option<String>, i64)>> {
    const SQL: &str = "
        select l.event_domain, count(*) as running
        from (select q.event_domain from job_queue q where q.lease_until is not null limit $1) l
        group by l.event_domain
        order by l.event_domain";
    let found = rows(client, "counting what runs", SQL, &[&MOST_RUNNING]).await?;
    found.iter().map(|row| Ok((get(row, "event_domain")?, get(row, "running")?))).collect()
}

/// How long one way took for how many of the newest jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency {
    /// `event_to_job` or `job_to_claim`.
    pub way: String,
    /// Which of [`BOUNDS`] it stayed below; as many as there are, when it took longer.
    pub bucket: i32,
    /// How many.
    pub jobs: i64,
}

/// The upper bounds of the buckets, in milliseconds.
pub const BOUNDS: [i32; 9] = [5, 10, 25, 50, 100, 250, 1000, 10_000, 60_000];

/// From an event to its job, and from a job to its first claim, of the newest [`MEASURED`] jobs.
pub async fn latencies(client: &impl GenericClient) -> Result<Vec<Latency>> {
    // a job that was retried or put off says nothing about wake-ups
    const SQL: &str = "
        select w.way, width_bucket(w.took, $2::int[]::float8[])::int as bucket, count(*) as jobs
        from (
          select q.created_at, q.picked_at, q.scheduled_at, q.attempts, q.lease_losses, q.blocked_by, q.ordering_key, q.causation_event_id
          from job_queue q
          order by q.job_id desc
          limit $1) n
        left join event_outbox e on e.id = n.causation_event_id
        cross join lateral (values
          ('event_to_job', extract(epoch from n.created_at - e.created_at) * 1000),
          ('job_to_claim', case when n.attempts = 0 and n.lease_losses = 0 and n.scheduled_at < n.created_at + interval '1 millisecond'
             then extract(epoch from n.picked_at - n.created_at) * 1000 end)) w (way, took)
        where w.took >= 0
        group by 1, 2
        order by 1, 2";
    let found = rows(client, "measuring the newest jobs", SQL, &[&MEASURED, &BOUNDS.as_slice()]).await?;
    let latency = |row: &Row| {
        Ok(Latency { way: get(row, "way")?, bucket: get(row, "bucket")?, jobs: get(row, "jobs")? })
    };
    found.iter().map(latency).collect()
}

/// A number that moves whenever jobs, dead letters, workflows, gates or consumers do; the server counts for itself,
/// so it may be a second late, and costs no look at a table.
pub async fn pulse(client: &impl GenericClient) -> Result<i64> {
    const SQL: &str = "
        select coalesce(sum(s.n_tup_ins + s.n_tup_upd + s.n_tup_del), 0)::bigint as pulse
        from pg_stat_user_tables s
        where s.schemaname = current_schema()
          and s.relname in ('job_queue', 'job_archive', 'job_dead_letter', 'job_workflow', 'dot_config', 'consumer_registry',
            'queue_pause', 'event_outbox')";
    let found = rows(client, "feeling the pulse", SQL, &[]).await?;
    found.first().map_or(Ok(0), |row| get(row, "pulse"))
}
