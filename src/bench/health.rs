//! `bench health`: how long an operator waits for the answer when millions of jobs have been done.
//!
//! The same question as `reveille health` and the dashboard's first page ask, beside a running sidecar: in sessions that are
//! new, as the command line's is, and in one that stays, as the sidecar's are. First with all the finished jobs, then
//! without them: what health reads must not grow with what is over. In that order, as a machine may be slower for minutes
//! after it has written so much.

use std::time::{Duration, Instant};

use deadpool_postgres::Object;

use super::child::Sidecar;
use super::report::{Report, ratio};
use super::series::Series;
use super::stage::Stage;
use super::{Options, Tell};
use crate::error::Result;
use crate::store::{bench as sql, standing};

const JOBS: u32 = 10_000_000;
/// Jobs that are inserted by one statement.
const BATCH: i64 = 500_000;
/// Jobs that wait, so that there is something to tell.
const WAITING: i64 = 1000;
/// How often health is asked in each way.
const ROUNDS: u32 = 50;
const KIND: &str = "bench.health";
/// What an operator does not notice.
const GOAL_MS: f64 = 50.0;

pub(super) async fn run(options: &Options, tell: Tell<'_>) -> Result<Report> {
    let settings = [("max_wal_size", "16GB"), ("checkpoint_timeout", "30min")];
    let stage = Stage::begin(options, &settings, tell).await?;
    let outcome = measure(&stage, options, tell).await;
    stage.end().await?;
    outcome
}

async fn measure(stage: &Stage, options: &Options, tell: Tell<'_>) -> Result<Report> {
    let client = stage.client().await?;
    let mut report = Report::new("health", sql::facts(&client).await?);
    let (jobs, rounds) = (i64::from(options.jobs.unwrap_or(JOBS)), options.rounds.unwrap_or(ROUNDS));
    sql::add_consumer(&client, "bench_health", "*", KIND).await?; // which makes the kind known
    only_waiting(&client).await?;
    let sidecar = Sidecar::start(&options.program, stage, &[]).await?;
    tell(&format!("filling {jobs} finished jobs"));
    fill(&client, jobs).await?;
    let [new, staying] = ask(stage, &format!("{jobs} finished"), rounds).await?;
    report.check("jobs that have finished", jobs, sql::succeeded(&client).await?.0);
    only_waiting(&client).await?;
    sql::settle_jobs(&client).await?;
    let [new_without, staying_without] = ask(stage, "nothing finished", rounds).await?;
    sidecar.stop().await?;
    for series in [&new, &staying, &new_without, &staying_without] {
        series.tell(&mut report);
    }
    report.at_most("a new session, p50, ms", new.percentile(50.0), GOAL_MS);
    report.at_most("a session that stays, p99, ms", staying.percentile(99.0), GOAL_MS);
    let grown = ratio(new.percentile(50.0), new_without.percentile(50.0));
    report.at_most("a new session, with them / without", grown, 1.2);
    Ok(report)
}

/// Nothing but jobs that have waited for an hour.
async fn only_waiting(client: &Object) -> Result<()> {
    sql::fill_jobs(client, KIND, WAITING).await?;
    sql::make_old(client).await
}

async fn fill(client: &Object, jobs: i64) -> Result<()> {
    let mut filled = 0;
    while filled < jobs {
        let batch = BATCH.min(jobs - filled);
        sql::fill_finished(client, KIND, filled + 1, filled + batch).await?;
        filled += batch;
    }
    sql::settle_jobs(client).await
}

/// Asks in as many new sessions, each timed from before it connects, and then as often in one.
async fn ask(stage: &Stage, when: &str, rounds: u32) -> Result<[Series; 2]> {
    let mut new = Series::new(format!("{when}, a new session"));
    let mut staying = Series::new(format!("{when}, a session that stays"));
    for _ in 0..rounds {
        let begun = Instant::now();
        let clients = stage.clients(1).await?;
        for client in &clients {
            standing::read(client).await?;
        }
        new.record(begun.elapsed());
    }
    for client in &stage.clients(1).await? {
        standing::read(client).await?;
        for _ in 0..rounds {
            staying.record(timed(client).await?);
        }
    }
    Ok([new, staying])
}

async fn timed(client: &Object) -> Result<Duration> {
    let begun = Instant::now();
    standing::read(client).await?;
    Ok(begun.elapsed())
}
