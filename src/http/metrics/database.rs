//! Gauges of the database: read when somebody asks, at most once every few seconds, within a deadline.
//!
//! The reading is done by [`Database::run`] and not by the request, so that a client that goes away leaves no
//! statement behind, and many that ask at once cost one reading. While nobody asks, nothing is read.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use futures::future::try_join5;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::flows::Flows;
use super::series::{Series, count, flag};
use crate::error::{Error, Kind, Result};
use crate::model::executor::ExecutorKind;
use crate::postgres::pool::hand_back;
use crate::postgres::{Server, Session};
use crate::store::backlog::{self, PATIENCE, Unclaimed};
use crate::store::gates::{self, Gate};
use crate::store::health::{self, Component};

/// Longest that a reading may take.
const READ_WITHIN: Duration = Duration::from_secs(2);
/// Longest that a request waits for a reading; longer than [`READ_WITHIN`], so that it sees a failed one, too.
const WAIT: Duration = Duration::from_secs(3);
/// The status hints of `v_queue_health`.
const HINTS: [&str; 4] = ["fresh", "warning", "stale", "never"];

/// Reads the gauges and keeps them for a while.
#[derive(Debug)]
pub(in crate::http) struct Database {
    server: Server,
    pool: Pool,
    keep: Duration,
    wanted: Notify,
    latest: watch::Sender<Reading>,
}

/// What was read, and when. Without `found` the database could not be read.
#[derive(Debug, Default, Clone)]
struct Reading {
    at: Option<Instant>,
    found: Option<Arc<Found>>,
}

#[derive(Debug)]
struct Found {
    health: Vec<Component>,
    queue_usage: f64,
    gates: Vec<Gate>,
    unclaimed: Vec<Unclaimed>,
    flows: Flows,
}

impl Reading {
    fn is_younger_than(&self, age: Duration) -> bool {
        self.at.is_some_and(|at| at.elapsed() < age)
    }
}

impl Database {
    /// Opens nothing yet. A reading is kept for `keep`.
    pub(in crate::http) fn new(server: Server, keep: Duration) -> Result<Self> {
        let session = Session { statement_timeout: READ_WITHIN, ..server.session() };
        let pool = server.pool("http", 1, &session)?;
        let latest = watch::Sender::default();
        Ok(Self { server, pool, keep, wanted: Notify::new(), latest })
    }

    /// Ends when the latest reading is young enough, or failed, or does not come.
    pub(super) async fn refreshed(&self) {
        let (mut latest, asked) = (self.latest.subscribe(), Instant::now());
        if !latest.borrow().is_younger_than(self.keep) {
            self.wanted.notify_one();
            let newer = latest.wait_for(|reading| reading.at.is_some_and(|at| at >= asked));
            let _ = timeout(WAIT, newer).await; // late: the reading's age tells
        }
    }

    /// Reads when asked; ends when it is dropped.
    pub(in crate::http) async fn run(&self) -> Infallible {
        loop {
            self.wanted.notified().await;
            if !self.latest.borrow().is_younger_than(self.keep) {
                self.note(self.read().await);
            }
        }
    }

    /// A failure is logged once, not at every scrape.
    fn note(&self, outcome: Result<Found>) {
        let before = self.latest.borrow().clone();
        let was_known_down = before.at.is_some() && before.found.is_none();
        if let (Err(error), false) = (&outcome, was_known_down) {
            tracing::warn!("/metrics goes without gauges of the database: {error}");
        }
        self.latest.send_replace(Reading { at: Some(Instant::now()), found: outcome.ok().map(Arc::new) });
    }

    async fn read(&self) -> Result<Found> {
        let end = Instant::now() + READ_WITHIN;
        let late =
            || Error::new(Kind::Timeout, format!("{}: no answer in {READ_WITHIN:?}", self.server.describe()));
        let client = timeout_at(end, self.server.take(&self.pool)).await.map_err(|_| late())??;
        let outcome = timeout_at(end, find(&client)).await.unwrap_or_else(|_| Err(late()));
        hand_back(client, outcome)
    }
}

async fn find(client: &Object) -> Result<Found> {
    let (health, queue_usage, gates, unclaimed, flows) = try_join5(
        health::list(client),
        health::notification_queue_usage(client),
        gates::list(client),
        backlog::unclaimed(client, PATIENCE),
        Flows::read(client),
    )
    .await?;
    Ok(Found { health, queue_usage, gates, unclaimed, flows })
}

impl Collector for Database {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let latest = self.latest.borrow().clone();
        // what is older was asked for and did not come
        let found = latest.found.filter(|_| latest.at.is_some_and(|at| at.elapsed() < self.keep + WAIT));
        let mut series = Series(encoder);
        let help = "Whether the gauges of the database could be read.";
        series.gauge("reveille_database_up", help, None, Some(flag(found.is_some())))?;
        found.map_or(Ok(()), |found| found.encode(&mut series))
    }
}

impl Found {
    fn encode(&self, series: &mut Series<'_>) -> fmt::Result {
        let health = || {
            self.health.iter().map(|one| {
                let labels = [("component", one.component.as_str()), ("name", one.name.as_str())];
                (one, labels)
            })
        };
        let statuses = health().flat_map(|(one, [component, name])| {
            HINTS.map(|hint| ([component, name, ("status_hint", hint)], flag(one.status_hint == hint)))
        });
        let help = "v_queue_health: 1 at the status hint that holds, 0 at the others.";
        series.gauges("reveille_queue_health_status", help, None, statuses)?;
        let ages = health().filter_map(|(one, labels)| Some((labels, one.age_seconds?)));
        let help = "v_queue_health: since when it is silent or waits.";
        series.gauges("reveille_queue_health_age", help, Some(&Unit::Seconds), ages)?;
        let values = health().filter_map(|(one, labels)| Some((labels, one.value?)));
        let help = "v_queue_health: beats of an executor, passes of a cursor, due jobs of a backlog.";
        series.gauges("reveille_queue_health_value", help, None, values)?;
        let unclaimed = ExecutorKind::ALL.map(|kind| {
            let of_kind = self.unclaimed.iter().filter(|one| one.executor == kind.as_str());
            let due: u64 = of_kind.map(|one| one.due.unsigned_abs()).sum();
            ([("executor", kind.as_str())], count(due))
        });
        let help = "Due jobs that no live executor may claim, once the oldest has waited for a minute.";
        series.gauges("reveille_backlog_unclaimed", help, None, unclaimed)?;
        let gates = self.gates.iter().map(|gate| ([("gate", gate.key.as_str())], flag(gate.open)));
        series.gauges("reveille_gate_open", "Whether the gate is open.", None, gates)?;
        self.flows.encode(series)?;
        let help = "Part of the server's notification queue in use; when it is full, commits fail.";
        let unit = Unit::Other("ratio".to_owned());
        series.gauge("reveille_notification_queue_usage", help, Some(&unit), Some(self.queue_usage))
    }
}
