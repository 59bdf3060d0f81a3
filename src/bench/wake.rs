//! `bench wake`: how long an idle system takes from a commit to the job, and to its handler.
//!
//! One event every 20 ms, sent when it is due whatever became of the one before. The bare limit is a transaction with
//! nothing but a NOTIFY, from sending its COMMIT to its arrival on another connection: it writes no log, so it waits
//! for no disk. What producers commit does wait for the disk; therefore their latencies begin when the COMMIT of the
//! event or job is acknowledged, and the time of that COMMIT stands beside them.
//!
//! The clock is this process's monotonic one, at both ends, on different connections. The job's row is the exception:
//! to ask for it over and over would take a processor from those who make it, so the server's own record of commits
//! (`track_commit_timestamp`) tells when the job was committed, and the wall clock of the same machine when the event
//! was acknowledged.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use deadpool_postgres::Object;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep_until, timeout};

use super::child::Sidecar;
use super::crew::{Begun, Crew};
use super::ear::Ear;
use super::report::Report;
use super::series::Series;
use super::stage::{Stage, too_slow};
use super::{Options, Tell};
use crate::error::Result;
use crate::store::bench as sql;

const LENGTH: Duration = Duration::from_secs(20);
const ROUNDS: u32 = 4;
const GAP: Duration = Duration::from_millis(20);
/// Events before measuring, while connections open and plans are made.
const WARM_UP: u32 = 25;
const KIND: &str = "bench.wake";
/// Longest wait for the last one.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Notify,
    Event,
    Job,
}

/// Where what was sent arrives, with its name and the moment.
type Arrivals = UnboundedReceiver<(String, Instant)>;

pub(super) async fn run(options: &Options, tell: Tell<'_>) -> Result<Report> {
    let stage = Stage::begin(options, &[("track_commit_timestamp", "on")], tell).await?;
    let outcome = measure(&stage, options, tell).await;
    stage.end().await?;
    outcome
}

async fn measure(stage: &Stage, options: &Options, tell: Tell<'_>) -> Result<Report> {
    let client = stage.client().await?;
    let mut report = Report::new("wake", sql::facts(&client).await?);
    sql::add_consumer(&client, "bench_wake", "*", KIND).await?;
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let length = options.length.unwrap_or(LENGTH) / rounds;
    let count = u32::try_from(length.as_millis() / GAP.as_millis()).unwrap_or(u32::MAX).max(1);
    let tracks = sql::tracks_commits(&client).await?;
    let mut all = [
        Series::new("bare NOTIFY round trip"),
        Series::new("commit → job row"),
        Series::new("commit → handler"),
        Series::new("enqueue → handler"),
        Series::new("the producer's own COMMIT"),
    ];
    let sidecar = Sidecar::start(&options.program, stage, &[]).await?;
    for round in 1..=rounds {
        tell(&format!("round {round} of {rounds}: {count} of each, one every 20 ms"));
        let [bare, row, handler, direct, commits] = &mut all;
        let (ear, mut arrivals) = Ear::open(stage, "bench_bare").await?;
        bare.take(&client, Sent::Notify, count, &mut arrivals).await?;
        ear.close();
        if tracks {
            row.take_rows(&client, count).await?;
        }
        sql::empty(&client).await?;
        let (begun, mut arrivals) = Begun::new();
        let mut settings = stage.settings();
        "bench-worker".clone_into(&mut settings.worker.executor_name);
        let crew = Crew::start(stage, &settings, KIND, begun)?;
        commits.record_all(handler.take(&client, Sent::Event, count, &mut arrivals).await?);
        check(&mut report, &client, round, count).await?;
        direct.take(&client, Sent::Job, count, &mut arrivals).await?;
        crew.stop().await?;
        sql::empty(&client).await?;
    }
    sidecar.stop().await?;
    conclude(&mut report, &all);
    Ok(report)
}

impl Series {
    /// Sends some and waits for all of them; the first few warm up. Answers how long their COMMITs took.
    async fn take(
        &mut self,
        client: &Object,
        sent: Sent,
        count: u32,
        arrivals: &mut Arrivals,
    ) -> Result<Vec<Duration>> {
        let moments = send(client, sent, WARM_UP).await?;
        wait(moments, sent, arrivals).await?;
        let moments = send(client, sent, count).await?;
        let commits = moments.values().map(|moment| moment.commit).collect();
        self.record_all(wait(moments, sent, arrivals).await?);
        Ok(commits)
    }

    /// Sends events without a worker, and lets the server tell when their jobs were committed.
    async fn take_rows(&mut self, client: &Object, count: u32) -> Result<()> {
        send(client, Sent::Event, WARM_UP).await?;
        let mut moments = send(client, Sent::Event, count).await?;
        let end = Instant::now() + PATIENCE;
        while !moments.is_empty() {
            if Instant::now() > end {
                return Err(too_slow(&format!("{} of {count} got no job", moments.len()), PATIENCE));
            }
            tokio::time::sleep(GAP).await;
            for (subject, micros) in sql::job_commits(client).await? {
                if let Some(moment) = moments.remove(&subject) {
                    let micros = u64::try_from(micros).unwrap_or(0).saturating_sub(moment.wall_micros);
                    self.record(Duration::from_micros(micros));
                }
            }
        }
        Ok(())
    }
}

/// When something was sent.
struct Moment {
    /// From which its latency counts: when the COMMIT of a NOTIFY was sent, when any other was acknowledged.
    begun: Instant,
    /// When its COMMIT was acknowledged, in microseconds since 1970.
    wall_micros: u64,
    /// How long its COMMIT took.
    commit: Duration,
}

/// Sends `count`, one each 20 ms; answers under which name and when each was.
async fn send(client: &Object, sent: Sent, count: u32) -> Result<BTreeMap<String, Moment>> {
    let start = Instant::now() + GAP;
    let mut moments = BTreeMap::new();
    for number in 0..count {
        sleep_until((start + GAP * number).into()).await;
        let name = uuid::Uuid::now_v7().to_string();
        sql::begin(client).await?;
        match sent {
            Sent::Notify => sql::notify(client, "bench_bare", &name).await?,
            Sent::Event => sql::insert_event(client, "even_made", &name).await?,
            Sent::Job => sql::enqueue(client, KIND, &name).await?,
        }
        let before = Instant::now();
        sql::commit(client).await?;
        let after = Instant::now();
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let moment = Moment {
            begun: if sent == Sent::Notify { before } else { after },
            wall_micros: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
            commit: after - before,
        };
        moments.insert(name, moment);
    }
    Ok(moments)
}

/// Waits until all have arrived; answers how long each took.
async fn wait(
    mut moments: BTreeMap<String, Moment>,
    sent: Sent,
    arrivals: &mut Arrivals,
) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    while !moments.is_empty() {
        let Ok(Some((name, arrived))) = timeout(PATIENCE, arrivals.recv()).await else {
            return Err(too_slow(&format!("{} of {sent:?} did not arrive", moments.len()), PATIENCE));
        };
        if let Some(moment) = moments.remove(&name) {
            latencies.push(arrived.saturating_duration_since(moment.begun));
        }
    }
    Ok(latencies)
}

async fn check(report: &mut Report, client: &Object, round: u32, count: u32) -> Result<()> {
    let tally = sql::tally(client).await?;
    let wanted = i64::from(WARM_UP + count);
    report.check(format!("round {round}: jobs"), wanted, tally.jobs);
    report.check(format!("round {round}: events with a job"), wanted, tally.pairs);
    Ok(())
}

fn conclude(report: &mut Report, all: &[Series; 5]) {
    for series in all.iter().filter(|series| !series.is_empty()) {
        series.tell(report);
    }
    let bare = all[0].percentile(50.0);
    for (series, times) in all[1..4].iter().zip([4.0, 7.0, 3.0]).filter(|(series, _)| !series.is_empty()) {
        let half = series.percentile(50.0);
        report.at_most(format!("{} p50 / bare p50", series.name()), half / bare, times);
        report.at_most(format!("{} p99 / its own p50", series.name()), series.percentile(99.0) / half, 4.0);
    }
}
