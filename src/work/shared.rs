//! What the parts of one worker share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use serde_json::Value;
use tokio::time::Instant;

use super::board::Board;
use super::handler::Handlers;
use super::lent::Lender;
use super::sql::SqlRunner;
use super::stats::{self, WorkerStats};
use crate::config;
use crate::error::{Error, Result};
use crate::model::refusal::Answer;
use crate::postgres::Server;
use crate::postgres::pool::hand_back;
use crate::store;
use crate::store::heartbeats::Beater;
use crate::telemetry::Spans;

/// What the parts of one worker share. Built once, by the worker.
pub(super) struct Shared {
    /// The name that it claims under, and this process.
    pub(super) beater: Beater,
    /// Whether it has a listener, and can be told by name.
    pub(super) listens: bool,
    /// Whether the database knows the kinds of which to tell it.
    pub(super) kinds_told: AtomicBool,
    /// Whether to take the name from a process that still beats under it.
    pub(super) takeover: bool,
    /// Another process beats under the name now.
    pub(super) taken_over: AtomicBool,
    pub(super) settings: config::Worker,
    /// Time between two heartbeats.
    pub(super) cadence: Duration,
    /// Time between two looks for cancellations that nobody told us of.
    pub(super) cancel_look: Duration,
    pub(super) server: Server,
    /// For claims, starts, renewals and beats: what a crash forgets of them is fenced or done again, so these
    /// commits do not wait for the disk.
    pub(super) control: Pool,
    /// For outcomes, which must stay.
    pub(super) reports: Pool,
    pub(super) board: Board,
    pub(super) handlers: Handlers,
    /// For runs that are one transaction with their completion.
    pub(super) lender: Lender,
    pub(super) sql: Option<SqlRunner>,
    pub(super) kinds: Kinds,
    pub(super) outage: Outage,
    /// Since when a claim may have leased jobs that we have not heard of.
    pub(super) unsure: Mutex<Option<Instant>>,
    pub(super) stats: Arc<WorkerStats>,
    /// Makes the span of each run.
    pub(super) spans: Spans,
}

impl Shared {
    /// The lease to ask for; none leaves it to the database.
    pub(super) fn lease(&self) -> Option<Duration> {
        (!self.settings.lease.is_zero()).then_some(self.settings.lease)
    }

    /// A claim begins: until its answer is here, jobs may be ours that we do not know.
    pub(super) fn becomes_unsure(&self) {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }

    /// All that is leased under our name is on the board.
    pub(super) fn is_sure(&self) {
        *self.unsure.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How long ago that began; none when we are sure.
    pub(super) fn unsure_for(&self) -> Option<Duration> {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }

    /// Gives back what a claim leased whose answer never came.
    pub(super) async fn release_unknown(&self, client: &Object) -> Result<()> {
        let Some(unsure_for) = self.unsure_for() else { return Ok(()) };
        let (within, known) = (unsure_for + Duration::from_secs(1), self.board.known());
        let release = store::work::release_unknown(client, &self.beater, within, &known);
        let answer = self.server.in_time(1, "giving back unknown jobs", release).await?;
        let released = match &answer {
            Answer::Done(answer) => answer.get("released").and_then(Value::as_u64).unwrap_or_default(),
            Answer::Refused(_) => 0,
        };
        if released > 0 {
            tracing::info!("gave {released} jobs back whose claim was not answered");
        }
        self.is_sure();
        Ok(())
    }

    /// Reads anew which kinds there are to claim, and their time limits. True when the kinds have changed.
    pub(super) async fn read_kinds(&self) -> Result<bool> {
        let client = self.server.take(&self.control).await?;
        let own = self.handlers.kinds();
        let kinds = store::work::kinds(&client, &own);
        let outcome = self.server.in_time(1, "reading the handlers", kinds).await;
        Ok(self.kinds.replace(hand_back(client, outcome)?, self))
    }
}

/// The kinds that this worker claims.
#[derive(Debug, Default)]
pub(super) struct Kinds(RwLock<Arc<KindTable>>);

#[derive(Debug, Default)]
struct KindTable {
    /// False until they were read for the first time.
    known: bool,
    names: Arc<Vec<String>>,
    limits: HashMap<String, Duration>,
}

impl Kinds {
    /// Their names, for a claim.
    pub(super) fn names(&self) -> Arc<Vec<String>> {
        Arc::clone(&self.table().names)
    }

    /// The kind's own time limit, if it has one.
    pub(super) fn time_limit(&self, job_kind: &str) -> Option<Duration> {
        self.table().limits.get(job_kind).copied()
    }

    fn table(&self) -> Arc<KindTable> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, known: Vec<store::work::Kind>, shared: &Shared) -> bool {
        let wanted = &shared.settings.job_kinds;
        let mut table = KindTable { known: true, ..KindTable::default() };
        let mut names = Vec::new();
        for kind in known {
            let runs = shared.handlers.find(&kind.job_kind).is_some()
                || (shared.sql.is_some() && kind.handler.is_some());
            if !runs || !(wanted.is_empty() || wanted.contains(&kind.job_kind)) {
                continue;
            }
            if let Some(limit) =
                kind.time_limit_seconds.as_deref().and_then(|text| limit(&kind.job_kind, text))
            {
                table.limits.insert(kind.job_kind.clone(), limit);
            }
            names.push(kind.job_kind);
        }
        table.names = Arc::new(names);
        let old = self.table();
        let changed = !old.known || *old.names != *table.names;
        if changed {
            shared.kinds_told.store(false, Ordering::Relaxed);
            tell(&table.names, wanted);
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        changed
    }
}

fn limit(job_kind: &str, text: &str) -> Option<Duration> {
    let limit = text.trim().parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    if limit.is_none_or(|limit| limit.is_zero()) {
        tracing::warn!(
            "dot_config: job.{job_kind}.time_limit_seconds is `{text}`, not a number of seconds: not used"
        );
        return None;
    }
    limit
}

fn tell(names: &[String], wanted: &[String]) {
    let missing: Vec<&str> = wanted.iter().filter(|kind| !names.contains(kind)).map(String::as_str).collect();
    if !missing.is_empty() {
        tracing::warn!("no handler for {}: these jobs are left alone", missing.join(", "));
    }
    if names.is_empty() {
        tracing::warn!("no handlers: insert a kind and its function into job_handler");
    } else {
        tracing::info!("running jobs of {}", names.join(", "));
    }
}

/// Whether the database can be reached, said once at each change.
#[derive(Debug, Default)]
pub(super) struct Outage(AtomicBool);

impl Outage {
    /// Something could not be done because of `error`; it will be tried again.
    pub(super) fn failed(&self, stats: &WorkerStats, error: &Error) {
        if self.0.swap(true, Ordering::Relaxed) {
            tracing::debug!("still waiting for the database: {error}");
            return;
        }
        stats::add(&stats.outages, 1);
        tracing::warn!(hint = error.hint_text(), "waiting for the database: {error}");
    }

    /// Something could be done.
    pub(super) fn passed(&self) {
        if self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed) {
            tracing::info!("the database answers again");
        }
    }
}
