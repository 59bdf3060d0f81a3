//! `bench held-snapshot`: a steady stream of jobs while another session holds a snapshot open all the time.
//!
//! No dead row can be cleaned then, and no dead index entry: what reads a queue from its head gets slower with every job
//! that is done. 2,000 jobs a second, in batches every 50 ms, go through a worker with its defaults; ten equal parts of
//! the time are compared.

use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, sleep_until};

use super::crew::{Begun, Crew};
use super::report::{Report, number, ratio};
use super::series::Series;
use super::stage::Stage;
use super::{Options, Tell};
use crate::error::Result;
use crate::store::bench as sql;

const LENGTH: Duration = Duration::from_mins(10);
/// Jobs of a batch: 2,000 a second.
const BATCH: i32 = 100;
/// Between two batches.
const TICK: Duration = Duration::from_millis(50);
/// Ten parts: minutes, unless told otherwise.
const PARTS: u32 = 10;
const KIND: &str = "bench.held";
/// Until connections are open and plans are made.
const WARM_UP: Duration = Duration::from_secs(2);
/// Longest wait for the last jobs.
const PATIENCE: Duration = Duration::from_mins(2);

pub(super) async fn run(options: &Options, tell: Tell<'_>) -> Result<Report> {
    let stage = Stage::begin(options, &[("max_wal_size", "8GB")], tell).await?;
    let outcome = measure(&stage, options, tell).await;
    stage.end().await?;
    outcome
}

async fn measure(stage: &Stage, options: &Options, tell: Tell<'_>) -> Result<Report> {
    let client = stage.client().await?;
    let mut report = Report::new("held-snapshot", sql::facts(&client).await?);
    let length = options.length.unwrap_or(LENGTH) / PARTS;
    let holder = stage.clients(1).await?.remove(0);
    sql::hold_snapshot(&holder).await?;
    let (begun, arrivals) = Begun::new();
    let mut settings = stage.settings();
    "bench-worker".clone_into(&mut settings.worker.executor_name);
    let crew = Crew::start(stage, &settings, KIND, begun)?;
    let mut stream = Stream { client, crew, arrivals, sent: Vec::new() };
    stream.flow(length.min(WARM_UP), &mut Series::new("warming up")).await?;
    let mut rates = Vec::new();
    for part in 1..=PARTS {
        let mut waits = Series::new(format!("part {part:2}, enqueued → handler"));
        let rate = stream.flow(length, &mut waits).await?;
        tell(&format!(
            "part {part} of {PARTS}: {rate:.0} jobs/s, half within {:.2} ms",
            waits.percentile(50.0)
        ));
        report.figure(format!("part {part:2}"), rate, "jobs/s");
        for percentile in [50.0, 99.0] {
            report.figure(format!("{}, p{percentile:.0}", waits.name()), waits.percentile(percentile), "ms");
        }
        rates.push(rate);
    }
    let (sent, succeeded) = stream.end().await?;
    report.check("jobs that succeeded", sent, succeeded);
    report.check("jobs that the held snapshot sees", 0, sql::seen_jobs(&holder).await?);
    let of = |rate: Option<&f64>| rate.copied().unwrap_or_default();
    report.at_least("the last part / the first", ratio(of(rates.last()), of(rates.first())), 0.95);
    Ok(report)
}

/// Jobs on their way.
struct Stream {
    client: Object,
    crew: Crew,
    arrivals: UnboundedReceiver<(String, Instant)>,
    /// When each batch was there; its place is the subject of its jobs.
    sent: Vec<Instant>,
}

impl Stream {
    /// Enqueues at the fixed rate for `length`; answers how many jobs a second succeeded meanwhile.
    async fn flow(&mut self, length: Duration, waits: &mut Series) -> Result<f64> {
        let (begun, before) = (Instant::now(), self.succeeded());
        let ticks = u32::try_from(length.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX).max(1);
        for tick in 0..ticks {
            sleep_until((begun + TICK * tick).into()).await;
            sql::enqueue_batch(&self.client, KIND, &self.sent.len().to_string(), BATCH).await?;
            self.sent.push(Instant::now());
            self.hear(waits);
            self.crew.is_well()?;
        }
        sleep_until((begun + TICK * ticks).into()).await;
        self.hear(waits);
        Ok(ratio(number(self.succeeded() - before), begun.elapsed().as_secs_f64()))
    }

    /// What has arrived meanwhile.
    fn hear(&mut self, waits: &mut Series) {
        while let Ok((subject, moment)) = self.arrivals.try_recv() {
            let sent = subject.parse().ok().and_then(|batch: usize| self.sent.get(batch));
            waits.record(sent.map_or(Duration::ZERO, |sent| moment.saturating_duration_since(*sent)));
        }
    }

    fn succeeded(&self) -> i64 {
        i64::try_from(self.crew.counts().succeeded).unwrap_or(i64::MAX)
    }

    /// Waits for the last; answers how many were sent, and how many succeeded.
    async fn end(self) -> Result<(i64, i64)> {
        let sent = i64::try_from(self.sent.len()).unwrap_or(i64::MAX) * i64::from(BATCH);
        let end = Instant::now() + PATIENCE;
        while self.succeeded() < sent && Instant::now() < end {
            sleep(TICK).await;
        }
        let succeeded = sql::succeeded(&self.client).await?.0;
        self.crew.stop().await?;
        Ok((sent, succeeded))
    }
}
