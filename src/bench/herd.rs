//! `bench herd`: many workers sleep, and one job after the other becomes ready.
//!
//! Each worker has a name and a listener of its own and runs one job at a time, as 64 small hosts would. The timer is
//! out of the way, so every claim has a job as its cause, and whatever is more than one a job was asked in vain.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::crew::{Begun, Crew};
use super::report::{Report, number, ratio};
use super::series::Series;
use super::stage::{Stage, too_slow};
use super::{Options, Tell};
use crate::error::Result;
use crate::store::bench as sql;

const WORKERS: u32 = 64;
const JOBS: u32 = 100;
const KIND: &str = "bench.herd";
/// Between the begin of one job and the next: all that were woken have claimed by then.
const GAP: Duration = Duration::from_millis(100);
/// Longest wait for one job, and for all workers to sleep.
const PATIENCE: Duration = Duration::from_mins(1);
const NEVER: Duration = Duration::from_hours(1);

pub(super) async fn run(options: &Options, tell: Tell<'_>) -> Result<Report> {
    // each worker: claims and reports, and its listener
    let stage = Stage::begin(options, &[("max_connections", "400")], tell).await?;
    let outcome = measure(&stage, options, tell).await;
    stage.end().await?;
    outcome
}

async fn measure(stage: &Stage, options: &Options, tell: Tell<'_>) -> Result<Report> {
    let client = stage.client().await?;
    let mut report = Report::new("herd", sql::facts(&client).await?);
    let (workers, jobs) = (options.clients.unwrap_or(WORKERS), options.jobs.unwrap_or(JOBS));
    let (begun, mut arrivals) = Begun::new();
    let mut herd = Vec::new();
    for number in 1..=workers {
        let mut settings = stage.settings();
        settings.worker.executor_name = format!("bench-worker-{number}");
        (settings.worker.concurrency, settings.worker.poll_interval) = (1, NEVER);
        herd.push(Crew::start(stage, &settings, KIND, begun.clone())?);
    }
    asleep(&herd).await?;
    tell(&format!("{workers} workers sleep"));
    let before = claims(&herd);
    let mut waits = Series::new("enqueue → handler");
    for job in 0..jobs {
        let sent = Instant::now();
        sql::enqueue(&client, KIND, &job.to_string()).await?;
        let Ok(Some((_, moment))) = timeout(PATIENCE, arrivals.recv()).await else {
            return Err(too_slow(&format!("job {job} did not begin"), PATIENCE));
        };
        waits.record(moment.saturating_duration_since(sent));
        sleep(GAP).await;
    }
    let tried = claims(&herd) - before;
    for crew in herd {
        crew.stop().await?;
    }
    report.check("jobs that succeeded", jobs.into(), sql::succeeded(&client).await?.0);
    report.figure("workers", workers.into(), "");
    report.figure("claims", number(tried), "");
    waits.tell(&mut report);
    report.at_most("claims tried for a job", ratio(number(tried), jobs.into()), 2.0);
    Ok(report)
}

/// Claims tried so far, by all of them.
fn claims(herd: &[Crew]) -> i64 {
    herd.iter().map(|crew| i64::try_from(crew.counts().claims).unwrap_or(i64::MAX)).sum()
}

/// Waits until all have looked, and look no more.
async fn asleep(herd: &[Crew]) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut last = -1;
    while Instant::now() < end {
        let now = claims(herd);
        if now == last && herd.iter().all(|crew| crew.counts().claims > 0) {
            return Ok(());
        }
        last = now;
        sleep(GAP * 5).await;
    }
    Err(too_slow("not all workers fell asleep", PATIENCE))
}
