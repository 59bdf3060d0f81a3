//! `bench claim`: what claiming and succeeding through the functions costs beside bare statements, and whether it stays
//! so in a deep queue.
//!
//! One connection claims and ends jobs by n, once through `fn_job_claim` and `fn_job_succeed_many` as a worker calls
//! them, once by two plain statements. They take turns on the same table, batch by batch. Then n is fixed and the queue
//! gets deeper, and at last jobs stand beside it that may not be claimed.

use std::time::{Duration, Instant};

use deadpool_postgres::Object;

use super::report::{Report, median, number, ratio};
use super::stage::Stage;
use super::{Options, Tell};
use crate::error::Result;
use crate::model::executor::ExecutorKind;
use crate::store::bench::{self as sql, Standing};
use crate::store::claims::{self, Claim};
use crate::store::heartbeats;
use crate::store::work::{self, Leases};

const JOBS: u32 = 50_000;
const BATCHES: [u32; 4] = [1, 10, 100, 1000];
/// One measurement takes no more than so many batches: by one, all jobs would take minutes.
const MOST_BATCHES: u32 = 2000;
/// The batch at which the depth of the queue is varied.
const BATCH: u32 = 100;
const DEPTHS: [u32; 4] = [10_000, 100_000, 1_000_000, 5_000_000];
/// Jobs of each sort that may not be claimed.
const BESIDE: u32 = 1_000_000;
const ROUNDS: u32 = 3;
const KIND: &str = "bench.claim";
const EXECUTOR: &str = "bench-claim";
/// Longer than any bench: nobody beats meanwhile.
const A_DAY: Duration = Duration::from_hours(24);

/// As for `bench dispatch`: no checkpoint and no vacuum falls into a measurement.
const SETTINGS: [(&str, &str); 3] =
    [("max_wal_size", "16GB"), ("checkpoint_timeout", "30min"), ("autovacuum_naptime", "10min")];

pub(super) async fn run(options: &Options, tell: Tell<'_>) -> Result<Report> {
    let stage = Stage::begin(options, &SETTINGS, tell).await?;
    let outcome = measure(&stage, options, tell).await;
    stage.end().await?;
    outcome
}

async fn measure(stage: &Stage, options: &Options, tell: Tell<'_>) -> Result<Report> {
    let client = stage.client().await?;
    let report = Report::new("claim", sql::facts(&client).await?);
    let answer = heartbeats::announce(&client, EXECUTOR, ExecutorKind::PgWorker, A_DAY, Some(A_DAY)).await?;
    answer.done("registering the bench")?;
    let mut bench = Claims { client, report, rounds: options.rounds.unwrap_or(ROUNDS), tell };
    let jobs = options.jobs.unwrap_or(JOBS);
    bench.batches(jobs).await?;
    bench.depths(jobs.min(DEPTHS[0]), options.waiting).await?;
    Ok(bench.report)
}

/// The queue of a measurement.
#[derive(Debug, Clone, Copy)]
enum Queue {
    /// As many jobs as are taken, filled anew each time.
    Taken,
    /// Filled once: this many are left at the end, and as many of each sort that may not be claimed stand beside them.
    Left { waiting: u32, beside: u32 },
}

/// Both ways, in jobs a second.
struct Pair {
    ours: f64,
    bare: f64,
}

struct Claims<'a> {
    client: Object,
    report: Report,
    rounds: u32,
    tell: Tell<'a>,
}

impl Claims<'_> {
    async fn batches(&mut self, jobs: u32) -> Result<()> {
        for batch in BATCHES {
            let jobs = jobs.min(batch * MOST_BATCHES);
            let pair = self.measure(&format!("by {batch}"), batch, jobs, Queue::Taken).await?;
            self.report.at_least(format!("by {batch}: functions / bare"), ratio(pair.ours, pair.bare), 0.8);
        }
        Ok(())
    }

    /// Queues of growing depth, and one beside which others stand.
    async fn depths(&mut self, jobs: u32, deepest: Option<u32>) -> Result<()> {
        let mut depths = DEPTHS.map(|depth| depth.min(deepest.unwrap_or(depth))).to_vec();
        depths.dedup();
        let mut shallow = None;
        for waiting in depths {
            let name = format!("{waiting} waiting");
            let pair = self.measure(&name, BATCH, jobs, Queue::Left { waiting, beside: 0 }).await?;
            let shallow = *shallow.get_or_insert(pair.ours);
            self.report.at_least(format!("{name}: functions / bare"), ratio(pair.ours, pair.bare), 0.8);
            self.report.at_least(format!("{name} / the fewest"), ratio(pair.ours, shallow), 0.9);
        }
        let beside = BESIDE.min(deepest.unwrap_or(BESIDE));
        let sorts = Standing::ALL.map(Standing::as_str).join(" and as many ");
        let name = format!("beside {beside} {sorts}");
        let queue = Queue::Left { waiting: DEPTHS[0].min(beside), beside };
        let pair = self.measure(&name, BATCH, jobs, queue).await?;
        self.report.at_least(format!("{name} / alone"), ratio(pair.ours, shallow.unwrap_or_default()), 0.9);
        Ok(())
    }

    /// Takes `jobs` by `batch` in either way.
    async fn measure(&mut self, name: &str, batch: u32, jobs: u32, queue: Queue) -> Result<Pair> {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        if let Queue::Left { waiting, beside } = queue {
            (self.tell)(&format!("filling: {name}"));
            self.fill(i64::from(waiting) + i64::from(jobs) * i64::from(self.rounds) * 2, beside).await?;
        }
        for round in 1..=self.rounds {
            if matches!(queue, Queue::Taken) {
                self.fill(i64::from(jobs) * 2, 0).await?;
            }
            let before = sql::succeeded(&self.client).await?.0;
            let pair = self.take(batch, jobs).await?;
            let done = sql::succeeded(&self.client).await?.0 - before;
            self.report.check(format!("{name}, round {round}: succeeded"), i64::from(jobs) * 2, done);
            ours.push(pair.ours);
            bare.push(pair.bare);
        }
        let pair = Pair { ours: median(&ours), bare: median(&bare) };
        (self.tell)(&format!("{name}: {:.0} jobs/s, bare {:.0}", pair.ours, pair.bare));
        self.report.figure(format!("{name}, functions"), pair.ours, "jobs/s");
        self.report.figure(format!("{name}, bare"), pair.bare, "jobs/s");
        Ok(pair)
    }

    async fn fill(&self, waiting: i64, beside: u32) -> Result<()> {
        sql::fill_jobs(&self.client, KIND, waiting).await?;
        for standing in Standing::ALL {
            sql::stand_beside(&self.client, KIND, standing, beside.into()).await?;
        }
        sql::settle_jobs(&self.client).await
    }

    /// Takes `jobs` in each way, batch by batch in turns, so that whatever disturbs one disturbs the other.
    async fn take(&self, batch: u32, jobs: u32) -> Result<Pair> {
        let (mut ours, mut bare) = (Duration::ZERO, Duration::ZERO);
        let lane = sql::lane(&self.client, KIND).await?;
        for first in (0..jobs).step_by(usize::try_from(batch).unwrap_or(usize::MAX)) {
            let batch = batch.min(jobs - first);
            let begun = Instant::now();
            self.claim_and_succeed(batch).await?;
            ours += begun.elapsed();
            let begun = Instant::now();
            sql::bare_claim_and_succeed(&self.client, lane, batch).await?;
            bare += begun.elapsed();
        }
        let rate = |took: Duration| ratio(number(jobs.into()), took.as_secs_f64());
        Ok(Pair { ours: rate(ours), bare: rate(bare) })
    }

    /// As a worker does it.
    async fn claim_and_succeed(&self, batch: u32) -> Result<()> {
        let claim = Claim {
            executor_name: EXECUTOR,
            instance: None,
            limit: usize::try_from(batch).unwrap_or(usize::MAX),
            lease: None,
            job_kinds: Some(&[KIND.to_owned(), sql::paused_kind(KIND)]),
            canary: None,
        };
        let jobs = claims::claim(&self.client, &claim).await?.jobs;
        if !jobs.is_empty() {
            let leases: Leases = jobs.iter().map(|job| (job.job_id, job.lease_token)).collect();
            work::succeed(&self.client, &leases, &vec![None; jobs.len()], false).await?;
        }
        Ok(())
    }
}
