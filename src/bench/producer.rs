//! `bench producer`: what the outbox's trigger and a running sidecar cost those who insert events.
//!
//! Some clients insert one event a transaction as fast as they can: without a trigger, with a NOTIFY at every insert
//! (a trigger as most queues have it), and with ours and the sidecar running, once with a consumer of every event and
//! once without any. The ways take turns, medians are compared. The sidecar's processor time is told apart: on a
//! machine of few cores it takes what producers could have used, on a larger one it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::child::{Cost, Sidecar};
use super::process::processor_time_of;
use super::report::{Report, median, number, ratio};
use super::stage::{Stage, too_slow};
use super::{Options, Tell};
use crate::error::{Error, Kind, Result};
use crate::store::bench::{self as sql, Trigger};
use crate::store::consumers;

const CLIENTS: u32 = 8;
const LENGTH: Duration = Duration::from_secs(10);
const ROUNDS: u32 = 3;
/// Longest wait until the sidecar has read what was inserted.
const PATIENCE: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(50);
/// Inserts before counting begins.
const WARM_UP: Duration = Duration::from_millis(500);
const CONSUMER: &str = "bench_all";

/// The four ways to insert.
const WAYS: [Way; 4] = [
    Way { name: "no trigger", trigger: Trigger::None, consumer: false },
    Way { name: "NOTIFY at every insert", trigger: Trigger::Notify, consumer: false },
    Way { name: "ours, no consumer", trigger: Trigger::Arrival, consumer: false },
    Way { name: "ours, one consumer", trigger: Trigger::Arrival, consumer: true },
];

struct Way {
    name: &'static str,
    trigger: Trigger,
    consumer: bool,
}

/// One measurement.
struct Run {
    rate: f64,
    /// The sidecar's share of the machine.
    share: f64,
    process_share: f64,
    /// Microseconds of processor time that a transaction took of its session; zero when that cannot be seen.
    session_micros: f64,
    inserted: i64,
}

pub(super) async fn run(options: &Options, tell: Tell<'_>) -> Result<Report> {
    let settings = [("max_wal_size", "8GB"), ("checkpoint_timeout", "30min")];
    let stage = Stage::begin(options, &settings, tell).await?;
    let outcome = measure(&stage, options, tell).await;
    stage.end().await?;
    outcome
}

async fn measure(stage: &Stage, options: &Options, tell: Tell<'_>) -> Result<Report> {
    let client = stage.client().await?;
    let mut report = Report::new("producer", sql::facts(&client).await?);
    sql::add_consumer(&client, CONSUMER, "*", "bench.all").await?;
    let producers = Arc::new(stage.clients(options.clients.unwrap_or(CLIENTS)).await?);
    let mut runs = [const { Vec::<Run>::new() }; 4];
    for _ in 0..options.rounds.unwrap_or(ROUNDS) {
        for (way, runs) in WAYS.iter().zip(&mut runs) {
            let run = one_run(stage, &client, &producers, options, way).await?;
            tell(&format!("{}: {:.0} transactions/s", way.name, run.rate));
            if way.trigger == Trigger::Arrival {
                check(&mut report, &client, way, &run).await?;
            }
            runs.push(run);
        }
    }
    conclude(&mut report, &runs, stage.is_own());
    Ok(report)
}

fn conclude(report: &mut Report, runs: &[Vec<Run>; 4], sessions_are_seen: bool) {
    let of = |way: usize, value: fn(&Run) -> f64| median(&runs[way].iter().map(value).collect::<Vec<_>>());
    let rates = [0, 1, 2, 3].map(|way| of(way, |run| run.rate));
    for (way, rate) in WAYS.iter().zip(rates) {
        report.figure(way.name, rate, "transactions/s");
    }
    for way in (0..4).filter(|_| sessions_are_seen) {
        let name = format!("{}: processor time a transaction, in its session", WAYS[way].name);
        report.figure(name, of(way, |run| run.session_micros), "µs");
    }
    for way in [2, 3] {
        let name = WAYS[way].name;
        report.figure(
            format!("{name}: the sidecar's process, of the machine"),
            of(way, |run| run.process_share),
            "",
        );
        if sessions_are_seen {
            report.figure(
                format!("{name}: the sidecar with its sessions, of the machine"),
                of(way, |run| run.share),
                "",
            );
        }
        report.figure(format!("{name} / no trigger, nothing told apart"), ratio(rates[way], rates[0]), "");
    }
    for way in [2, 3] {
        let name = WAYS[way].name;
        report.at_least(format!("{name} / NOTIFY at every insert"), ratio(rates[way], rates[1]), 2.0);
        let left = rates[0] * (1.0 - of(way, |run| run.share));
        report.at_least(
            format!("{name} / no trigger on what the sidecar leaves"),
            ratio(rates[way], left),
            0.85,
        );
    }
}

async fn one_run(
    stage: &Stage,
    client: &Object,
    producers: &Arc<Vec<Object>>,
    options: &Options,
    way: &Way,
) -> Result<Run> {
    sql::set_trigger(client, way.trigger).await?;
    sql::empty(client).await?;
    consumers::set_enabled(client, CONSUMER, way.consumer, Some("bench"), "a bench").await?;
    sql::settle(client).await?;
    let pass = sql::newest_pass(client).await?;
    let sidecar = match way.trigger {
        Trigger::Arrival => Some(Sidecar::start(&options.program, stage, &[]).await?),
        _ => None,
    };
    let counting = Arc::new(AtomicBool::new(false));
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for number in 0..producers.len() {
        tasks.spawn(produce(Arc::clone(producers), number, Arc::clone(&counting), Arc::clone(&stop)));
    }
    sleep(WARM_UP).await;
    let before = cost(sidecar.as_ref(), stage).await?;
    let own_before = own_sessions(stage).await?;
    let begun = Instant::now();
    counting.store(true, Ordering::Relaxed);
    sleep(options.length.unwrap_or(LENGTH)).await;
    counting.store(false, Ordering::Relaxed);
    let span = begun.elapsed();
    let own = own_sessions(stage).await?.saturating_sub(own_before);
    let cost = cost(sidecar.as_ref(), stage).await?.since(before);
    stop.store(true, Ordering::Relaxed);
    let (mut inserted, mut counted) = (0, 0);
    while let Some(done) = tasks.join_next().await {
        let (all, within) =
            done.map_err(|error| Error::new(Kind::Io, "a producer was cut off").because(error))??;
        inserted += all;
        counted += within;
    }
    if let Some(sidecar) = sidecar {
        wait_until_read(client, pass, inserted).await?;
        sidecar.stop().await?;
    }
    let process_only = Cost { sessions: Duration::ZERO, ..cost };
    Ok(Run {
        rate: ratio(number(counted), span.as_secs_f64()),
        share: cost.share(span),
        process_share: process_only.share(span),
        session_micros: ratio(own.as_secs_f64() * 1e6, number(counted)),
        inserted,
    })
}

/// Processor time of the producers' sessions; zero when it cannot be seen.
async fn own_sessions(stage: &Stage) -> Result<Duration> {
    if !stage.is_own() {
        return Ok(Duration::ZERO);
    }
    Ok(processor_time_of(sql::backends(&stage.client().await?, true).await?))
}

async fn cost(sidecar: Option<&Sidecar>, stage: &Stage) -> Result<Cost> {
    match sidecar {
        Some(sidecar) => sidecar.cost(stage).await,
        None => Ok(Cost::default()),
    }
}

/// Inserts until told to stop; answers all inserts, and those that ended while it counted.
async fn produce(
    producers: Arc<Vec<Object>>,
    number: usize,
    counting: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
) -> Result<(i64, i64)> {
    let subject = format!("subject-{number}");
    let (mut all, mut counted) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        sql::insert_event(&producers[number], "even_made", &subject).await?;
        all += 1;
        counted += i64::from(counting.load(Ordering::Relaxed));
    }
    Ok((all, counted))
}

async fn wait_until_read(client: &Object, pass: i64, inserted: i64) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let read = sql::dispatched(client, pass).await?.events;
        if read >= inserted {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(too_slow(&format!("only {read} of {inserted} events were read"), PATIENCE));
        }
        sleep(LOOK).await;
    }
}

async fn check(report: &mut Report, client: &Object, way: &Way, run: &Run) -> Result<()> {
    let wanted = if way.consumer { run.inserted } else { 0 };
    let tally = sql::tally(client).await?;
    report.check(format!("{}: jobs", way.name), wanted, tally.jobs);
    report.check(format!("{}: events with a job", way.name), wanted, tally.pairs);
    Ok(())
}
