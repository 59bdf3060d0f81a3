//! `bench dispatch`: a backlog of events becomes jobs, beside a bare INSERT of the same rows.
//!
//! Two consumers, one of all events and one of every second, so three jobs for two events. The backlog is there
//! before the sidecar starts. The limit is one `INSERT … SELECT` of the very same rows into a table made like
//! `job_queue`; runs and limits take turns, medians are compared.

use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio::time::sleep;

use super::child::{Cost, Sidecar};
use super::report::{Report, median, number, ratio};
use super::stage::{Stage, too_slow};
use super::{Options, Tell};
use crate::error::Result;
use crate::store::bench::{self as sql, Dispatched};

const EVENTS: u32 = 200_000;
const ROUNDS: u32 = 3;
/// The default of `[dispatch] batch_size`.
const BATCH: u32 = 1000;
const SMALL_BATCH: u32 = 100;
const LARGE_BATCH: u32 = 5000;
/// Events inserted by one statement.
const CHUNK: u32 = 100_000;
/// Longest wait for the backlog to be read.
const PATIENCE: Duration = Duration::from_mins(15);
const LOOK: Duration = Duration::from_millis(100);

/// The log is large enough that no checkpoint falls into a run: a checkpoint costs the limit and the runs alike, but
/// not in the same moment.
const SETTINGS: [(&str, &str); 3] =
    [("max_wal_size", "16GB"), ("checkpoint_timeout", "30min"), ("autovacuum_naptime", "10min")];

pub(super) async fn run(options: &Options, tell: Tell<'_>) -> Result<Report> {
    let stage = Stage::begin(options, &SETTINGS, tell).await?;
    let outcome = match options.backlog {
        Some(events) => backlog(&stage, options, events, tell).await,
        None => batches(&stage, options, tell).await,
    };
    stage.end().await?;
    outcome
}

/// One run of the sidecar over a backlog.
struct Run {
    done: Dispatched,
    cost: Cost,
    /// The newest pass before it.
    pass: i64,
}

impl Run {
    fn rate(&self) -> f64 {
        ratio(number(self.done.jobs), self.done.seconds)
    }
}

async fn batches(stage: &Stage, options: &Options, tell: Tell<'_>) -> Result<Report> {
    let client = stage.client().await?;
    let mut report = Report::new("dispatch", sql::facts(&client).await?);
    consumers(&client).await?;
    let events = options.events.unwrap_or(EVENTS);
    let main = options.batch.unwrap_or(BATCH);
    let sizes = [main, SMALL_BATCH, LARGE_BATCH];
    let (mut rates, mut limits) = ([const { Vec::new() }; 3], Vec::new());
    let mut cost = Cost::default();
    for round in 0..options.rounds.unwrap_or(ROUNDS) {
        for (size, rates) in sizes.iter().zip(&mut rates) {
            let run = one_run(stage, &client, options, events, *size).await?;
            tell(&format!("batches of {size}: {:.0} jobs/s in {} passes", run.rate(), run.done.passes));
            check(&mut report, &client, events, &format!("round {}, batches of {size}", round + 1)).await?;
            rates.push(run.rate());
            if limits.is_empty() {
                cost = run.cost;
                sql::keep_rows(&client).await?;
            }
            if *size != SMALL_BATCH {
                let limit = limit(&client).await?;
                tell(&format!("bare INSERT … SELECT: {limit:.0} rows/s"));
                limits.push(limit);
            }
        }
    }
    let limit = median(&limits);
    report.figure("bare INSERT … SELECT", limit, "rows/s");
    for (size, rates) in sizes.iter().zip(&rates) {
        report.figure(format!("events to jobs, batches of {size}"), median(rates), "jobs/s");
    }
    report.figure("the sidecar's own processor time", cost.process.as_secs_f64(), "s");
    report.at_least(format!("batches of {main} / bare insert"), ratio(median(&rates[0]), limit), 0.80);
    report.at_least(
        format!("batches of {SMALL_BATCH} / batches of {LARGE_BATCH}"),
        ratio(median(&rates[1]), median(&rates[2])),
        0.75,
    );
    Ok(report)
}

async fn backlog(stage: &Stage, options: &Options, events: u32, tell: Tell<'_>) -> Result<Report> {
    let client = stage.client().await?;
    let mut report = Report::new("dispatch --backlog", sql::facts(&client).await?);
    consumers(&client).await?;
    tell(&format!("inserting {events} events"));
    let run = one_run(stage, &client, options, events, options.batch.unwrap_or(BATCH)).await?;
    check(&mut report, &client, events, "the backlog").await?;
    report.figure("events to jobs", run.rate(), "jobs/s");
    report.figure("passes", number(run.done.passes), "");
    let tenths = sql::tenths(&client, run.pass).await?;
    for tenth in &tenths {
        let name = format!("tenth {:2}: {} passes", tenth.tenth, tenth.passes);
        report.figure(name, ratio(number(tenth.jobs), tenth.seconds), "jobs/s");
    }
    if let (Some(first), Some(last)) = (tenths.first(), tenths.last()) {
        let rate = |tenth: &sql::Tenth| ratio(number(tenth.jobs), tenth.seconds);
        report.at_least("the last tenth / the first", ratio(rate(last), rate(first)), 1.0);
    }
    Ok(report)
}

async fn consumers(client: &Object) -> Result<()> {
    sql::add_consumer(client, "bench_all", "*", "bench.all").await?;
    sql::add_consumer(client, "bench_half", "even_*", "bench.half").await
}

/// Empties the tables, inserts the backlog, and times the sidecar over it by the passes that it records.
async fn one_run(stage: &Stage, client: &Object, options: &Options, events: u32, batch: u32) -> Result<Run> {
    sql::empty(client).await?;
    for first in (0..events).step_by(usize::try_from(CHUNK).unwrap_or(usize::MAX)) {
        let last = events.min(first + CHUNK);
        sql::fill_events(client, i64::from(first) + 1, i64::from(last)).await?;
    }
    sql::settle(client).await?;
    let pass = sql::newest_pass(client).await?;
    let batch = batch.to_string();
    let sidecar = Sidecar::start(&options.program, stage, &[("dispatch.batch_size", &batch)]).await?;
    let end = Instant::now() + PATIENCE;
    loop {
        let done = sql::dispatched(client, pass).await?;
        if done.events >= i64::from(events) {
            let cost = sidecar.cost(stage).await?;
            sidecar.stop().await?;
            return Ok(Run { done, cost, pass });
        }
        if Instant::now() > end {
            return Err(too_slow(&format!("only {} of {events} events were read", done.events), PATIENCE));
        }
        sleep(LOOK).await;
    }
}

/// Rows a second of one bare INSERT.
async fn limit(client: &Object) -> Result<f64> {
    sql::make_twin(client).await?;
    sql::checkpoint(client).await?;
    let begun = Instant::now();
    let rows = sql::insert_rows(client).await?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(ratio(number(i64::try_from(rows).unwrap_or(i64::MAX)), seconds))
}

async fn check(report: &mut Report, client: &Object, events: u32, what: &str) -> Result<()> {
    let tally = sql::tally(client).await?;
    let wanted = i64::from(events) + i64::from(events / 2);
    report.check(format!("{what}: pairs of event and consumer"), wanted, tally.wanted);
    report.check(format!("{what}: jobs"), wanted, tally.jobs);
    report.check(format!("{what}: pairs with a job"), wanted, tally.pairs);
    Ok(())
}
