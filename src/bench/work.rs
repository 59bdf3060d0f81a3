//! `bench work`: one worker with a Rust handler drains a queue of jobs that do nothing.
//!
//! The limit is one connection that claims a batch and ends it well by two plain statements, without functions, gates,
//! leases that anybody looks at, or heartbeats. They take turns on the same table. The worker has its defaults.

use std::time::Instant;

use deadpool_postgres::Object;

use super::crew::drain;
use super::report::{Report, median, ratio};
use super::stage::Stage;
use super::{Options, Tell};
use crate::error::Result;
use crate::store::bench as sql;

const JOBS: u32 = 50_000;
const BATCH: u32 = 100;
const ROUNDS: u32 = 5;
const KIND: &str = "bench.nothing";

pub(super) async fn run(options: &Options, tell: Tell<'_>) -> Result<Report> {
    let settings = [("max_wal_size", "8GB"), ("checkpoint_timeout", "30min")];
    let stage = Stage::begin(options, &settings, tell).await?;
    let outcome = measure(&stage, options, tell).await;
    stage.end().await?;
    outcome
}

async fn measure(stage: &Stage, options: &Options, tell: Tell<'_>) -> Result<Report> {
    let client = stage.client().await?;
    let mut report = Report::new("work", sql::facts(&client).await?);
    let jobs = i64::from(options.jobs.unwrap_or(JOBS));
    let batch = options.batch.unwrap_or(BATCH);
    let (mut limits, mut rates) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds.unwrap_or(ROUNDS) {
        fill(&client, jobs).await?;
        let limit = bare(&client, batch).await?;
        tell(&format!("bare claim and succeed: {limit:.0} jobs/s"));
        limits.push(limit);
        fill(&client, jobs).await?;
        let rate = drain(stage, KIND, jobs).await?;
        tell(&format!("one worker: {rate:.0} jobs/s"));
        rates.push(rate);
        let (succeeded, all) = sql::succeeded(&client).await?;
        report.check(format!("round {round}: jobs"), jobs, all);
        report.check(format!("round {round}: jobs that succeeded"), jobs, succeeded);
    }
    report.figure(format!("bare claim and succeed by {batch}, one connection"), median(&limits), "jobs/s");
    report.figure("one worker, Rust handler", median(&rates), "jobs/s");
    report.at_least("one worker / bare", ratio(median(&rates), median(&limits)), 1.2);
    Ok(report)
}

async fn fill(client: &Object, jobs: i64) -> Result<()> {
    sql::fill_jobs(client, KIND, jobs).await?;
    sql::settle_jobs(client).await
}

async fn bare(client: &Object, batch: u32) -> Result<f64> {
    let lane = sql::lane(client, KIND).await?;
    let begun = Instant::now();
    let mut done = 0_u32;
    loop {
        match sql::bare_claim_and_succeed(client, lane, batch).await? {
            0 => return Ok(ratio(done.into(), begun.elapsed().as_secs_f64())),
            count => done += u32::try_from(count).unwrap_or(u32::MAX),
        }
    }
}
