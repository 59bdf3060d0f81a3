//! What was dispatched, how fast, and whether every event made exactly the jobs it should.

use deadpool_postgres::GenericClient;
use serde::Serialize;

use crate::error::Result;
use crate::store::{get, row, rows};

/// What the passes after some pass did.
#[derive(Debug, Clone, Copy)]
pub struct Dispatched {
    /// Passes that read something.
    pub passes: i64,
    /// Events read.
    pub events: i64,
    /// Jobs made.
    pub jobs: i64,
    /// From the begin of the first to the end of the last, by the server's clock.
    pub seconds: f64,
}

/// The number of the newest pass.
pub async fn newest_pass(client: &impl GenericClient) -> Result<i64> {
    const SQL: &str = "select coalesce(max(p.pass_id), 0) as pass from dispatch_pass p";
    get(&row(client, "reading the newest pass", SQL, &[]).await?, "pass")
}

/// What the passes after `pass` did.
pub async fn dispatched(client: &impl GenericClient, pass: i64) -> Result<Dispatched> {
    const SQL: &str = "
        select count(*) as passes, coalesce(sum(p.events), 0)::bigint as events, coalesce(sum(p.jobs), 0)::bigint as jobs,
               coalesce(extract(epoch from max(p.finished_at) - min(p.finished_at - p.took)), 0)::float8 as seconds
        from dispatch_pass p
        where p.event_domain = $2 and p.pass_id > $1 and p.events > 0";
    let row = row(client, "counting passes", SQL, &[&pass, &super::DOMAIN]).await?;
    Ok(Dispatched {
        passes: get(&row, "passes")?,
        events: get(&row, "events")?,
        jobs: get(&row, "jobs")?,
        seconds: get(&row, "seconds")?,
    })
}

/// A tenth of a backlog.
#[derive(Debug, Clone, Serialize)]
pub struct Tenth {
    /// 1 to 10.
    pub tenth: i32,
    /// Passes that began in it.
    pub passes: i64,
    /// Jobs they made.
    pub jobs: i64,
    /// How long they took.
    pub seconds: f64,
}

/// The passes after `pass`, in ten parts of equally many events.
pub async fn tenths(client: &impl GenericClient, pass: i64) -> Result<Vec<Tenth>> {
    const SQL: &str = "
        with passes as (
          select p.pass_id, p.jobs, p.finished_at, p.took, sum(p.events) over () as total,
                 sum(p.events) over (order by p.pass_id) - p.events as before
          from dispatch_pass p
          where p.event_domain = $2 and p.pass_id > $1 and p.events > 0
        )
        select least(10, 1 + s.before * 10 / s.total)::int as tenth, count(*) as passes, sum(s.jobs)::bigint as jobs,
               extract(epoch from max(s.finished_at) - min(s.finished_at - s.took))::float8 as seconds
        from passes s
        group by 1
        order by 1";
    let found = rows(client, "reading passes by tenths", SQL, &[&pass, &super::DOMAIN]).await?;
    let tenth = |row| {
        Ok(Tenth {
            tenth: get(row, "tenth")?,
            passes: get(row, "passes")?,
            jobs: get(row, "jobs")?,
            seconds: get(row, "seconds")?,
        })
    };
    found.iter().map(tenth).collect()
}

/// The proof that nothing was lost and nothing made twice.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    /// Pairs of an event and a consumer that wants it.
    pub wanted: i64,
    /// Jobs made from events.
    pub jobs: i64,
    /// Different pairs of event and consumer among them.
    pub pairs: i64,
}

/// Counts wanted pairs and jobs.
pub async fn tally(client: &impl GenericClient) -> Result<Tally> {
    const SQL: &str = "
        select
          (select count(*)
           from event_outbox e
           join consumer_registry c on c.enabled and c.event_domain = e.event_domain and e.event_type like c.event_type_like)
            as wanted,
          j.jobs, j.pairs
        from (
          select count(*) as jobs, count(distinct (q.causation_event_id, q.consumer_key)) as pairs
          from job_queue q where q.causation_event_id is not null) j";
    let row = row(client, "counting jobs", SQL, &[]).await?;
    Ok(Tally { wanted: get(&row, "wanted")?, jobs: get(&row, "jobs")?, pairs: get(&row, "pairs")? })
}

/// Jobs that have succeeded, and jobs in all.
pub async fn succeeded(client: &impl GenericClient) -> Result<(i64, i64)> {
    const SQL: &str = "
        select count(*) filter (where j.status = 'succeeded') as succeeded, count(*) as jobs from job_queue j";
    let row = row(client, "counting succeeded jobs", SQL, &[]).await?;
    Ok((get(&row, "succeeded")?, get(&row, "jobs")?))
}
