//! The sweeper: finds events that no trigger recorded, so that a disabled trigger loses nothing either.
//!
//! Settings: `[sweep]`. Each sweep is one statement; one sweeper works at a time, whoever comes second goes away.
//! Runs at start, on its timer, and once in `tick`. Its window begins behind the oldest open transaction and may be
//! long (days without a sidecar, hours of a dump): a sweep may take longer than other statements, and one that did is
//! followed by a longer pause.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use serde_json::Value;

use super::stats::SweepStats;
use super::waker::Waker;
use crate::alive::Alive;
use crate::backoff::Trouble;
use crate::config;
use crate::error::{Kind, Result};
use crate::postgres::Server;
use crate::postgres::listener::Wake;
use crate::postgres::pool::hand_back;
use crate::shutdown::Shutdown;
use crate::store;

/// Without an index by time each sweep reads the whole outbox: it then runs this many times more seldom.
const UNINDEXED_FACTOR: u32 = 10;

/// How many times the statement timeout a sweep may take.
const PATIENCE: u32 = 20;

/// At most one part in so many of the time is spent on sweeping.
const LARGEST_SHARE: u32 = 10;

/// Reconciles the outbox with its arrivals.
#[derive(Debug)]
pub struct Sweeper {
    server: Server,
    pool: Pool,
    settings: config::Sweep,
    waker: Arc<Waker>,
    stats: Arc<SweepStats>,
    alive: Alive,
}

/// What a sweep found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Events that had no arrival; they have one now.
    pub missing: u64,
    /// Their domains.
    pub domains: Vec<String>,
}

impl Sweeper {
    /// Repaired domains are woken through `waker`.
    pub fn new(server: &Server, settings: &config::Sweep, waker: Arc<Waker>) -> Result<Self> {
        let server = server.patient(PATIENCE);
        let pool = server.pool("sweep", 1, &server.session())?;
        let (stats, alive) = (Arc::new(SweepStats::default()), Alive::default());
        Ok(Self { server, pool, settings: settings.clone(), waker, stats, alive })
    }

    /// The counters, to be shared with metrics.
    pub fn stats(&self) -> Arc<SweepStats> {
        Arc::clone(&self.stats)
    }

    /// Whether it turns.
    pub fn alive(&self) -> Alive {
        self.alive.clone()
    }

    /// Sweeps until told to stop.
    pub async fn run(&self, shutdown: Shutdown) -> Result<()> {
        let mut trouble = None;
        let mut interval = None;
        loop {
            self.alive.turns(self.server.limit(2));
            let round = tokio::select! {
                // a sweep that is cut off leaves nothing behind, and the next one begins where it began
                () = shutdown.requested() => return Ok(()),
                round = self.round(&mut interval) => round,
            };
            let pause = match round {
                Ok(pause) => {
                    trouble = None;
                    pause
                }
                Err(error) if matches!(error.kind(), Kind::Denied | Kind::Schema) => return Err(error),
                Err(error) => {
                    let longest = self.settings.interval.max(Duration::from_secs(1));
                    let trouble =
                        trouble.get_or_insert_with(|| Trouble::begin(Duration::from_secs(1), longest));
                    // a server that is away is the dispatcher's to tell
                    if trouble.failed(error.sort()) && error.kind() != Kind::Unreachable {
                        tracing::warn!("the sweep waits: {}", error.trying_again());
                    }
                    trouble.next_try().saturating_duration_since(Instant::now())
                }
            };
            self.alive.turns(pause);
            if !shutdown.pause(pause).await {
                return Ok(());
            }
        }
    }

    async fn round(&self, interval: &mut Option<Duration>) -> Result<Duration> {
        let pause = match *interval {
            Some(pause) => pause,
            None => *interval.insert(self.affordable_interval().await?),
        };
        let begun = Instant::now();
        self.run_once().await?;
        Ok(pause.max(begun.elapsed() * LARGEST_SHARE))
    }

    async fn affordable_interval(&self) -> Result<Duration> {
        let client = self.server.take(&self.pool).await?;
        let asked = store::dispatch::outbox_is_indexed_by_time(&client);
        let outcome = self.server.in_time(1, "looking at the outbox's indexes", asked).await;
        if hand_back(client, outcome)? {
            return Ok(self.settings.interval);
        }
        let interval = self.settings.interval * UNINDEXED_FACTOR;
        tracing::warn!(
            "event_outbox has no index that begins with created_at, so each sweep reads the whole table: \
             sweeping every {} only",
            humantime::format_duration(interval)
        );
        Ok(interval)
    }

    /// One sweep.
    pub async fn run_once(&self) -> Result<Swept> {
        let client = self.server.take(&self.pool).await?;
        let sweep = store::dispatch::sweep(&client, self.settings.margin);
        let outcome = self.server.in_time(1, "sweeping the outbox", sweep).await;
        let swept = read(&hand_back(client, outcome)?);
        self.stats.swept(swept.missing);
        if swept.missing > 0 {
            tracing::warn!(
                sweep.missing = swept.missing,
                domains = %swept.domains.join(", "),
                "the sweep found events without an arrival and repaired them: is the trigger reveille_event_arrival \
                 on event_outbox enabled?"
            );
            self.waker.wake(Wake::Resync);
        }
        Ok(swept)
    }
}

fn read(answer: &Value) -> Swept {
    let domains = answer.get("domains").and_then(Value::as_object);
    Swept {
        missing: answer.get("missing").and_then(Value::as_u64).unwrap_or(0),
        domains: domains.map(|found| found.keys().cloned().collect()).unwrap_or_default(),
    }
}
