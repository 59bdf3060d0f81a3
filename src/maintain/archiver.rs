//! The archiver: moves finished jobs from the hot table to `job_archive`, drops months of that which have had their time, and
//! removes workflows whose jobs have left that, too.
//!
//! Settings: `[maintenance] archive_interval`; in the database `queue.archive.after_seconds` (3600), how long a job stays
//! after its end, and `queue.retention.archive_months` (never), how long a month of the archive stays. A round is batches with short pauses, so that nobody waits for it; of any number of sidecars one
//! archives at a time. Until `queue.archive.enabled` is open it looks at one batch and only tells, once for as long as that
//! lasts.

use std::time::Duration;

use deadpool_postgres::Pool;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::backoff::Trouble;
use crate::config;
use crate::error::{Kind, Result};
use crate::postgres::Server;
use crate::postgres::pool::hand_back;
use crate::shutdown::Shutdown;
use crate::store;

/// Jobs that a statement looks at.
const BATCH: i32 = 1000;

/// Workflows that a statement removes or cancels; a cancellation may take thousands of jobs.
const WORKFLOWS: i32 = 20;

/// Between two statements that moved something.
const PAUSE: Duration = Duration::from_millis(20);

/// Rounds look at the newest that may be due. What was still waiting or running when its time came is looked for this
/// seldom: a million jobs scheduled for next week cost nothing in between.
const WHOLE_WALK: Duration = Duration::from_hours(1);

/// Pauses between tries, from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Moves finished jobs to the archive.
#[derive(Debug)]
pub struct Archiver {
    server: Server,
    pool: Pool,
    interval: Duration,
    jobs: Counter,
}

/// What a round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Archived {
    /// Jobs whose time had come.
    pub found: u64,
    /// Of these, how many have left; somebody had the others locked.
    pub archived: u64,
    /// Months of the archive that were dropped, with the keys of their jobs.
    pub months_dropped: u64,
    /// Workflows removed, because none of their jobs is kept any more.
    pub workflows_pruned: u64,
    /// Workflows that had failed for longer than `queue.retention.failed_workflow_days`, and are cancelled now.
    pub workflows_cancelled: u64,
    /// The gate lets it only look: nothing was changed.
    pub dry_run: bool,
}

/// Where the next round begins.
#[derive(Debug, Default)]
struct Place {
    again: Option<Uuid>,
    walked: Option<Instant>,
}

impl Archiver {
    /// An archiver that takes its connection from `pool`.
    pub fn new(server: Server, pool: Pool, settings: &config::Maintenance) -> Self {
        Self { server, pool, interval: settings.archive_interval, jobs: Counter::default() }
    }

    /// Adds the series to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("reveille_archive_jobs", "Jobs moved to the archive", self.jobs.clone());
    }

    /// Archives until told to stop.
    pub async fn run(&self, shutdown: Shutdown) -> Result<()> {
        let mut trouble = None;
        let mut place = Place::default();
        let mut told = false;
        loop {
            let mut archived = Archived::default();
            let round = tokio::select! {
                // a batch that is cut off leaves nothing behind
                () = shutdown.requested() => return Ok(()),
                round = self.round(&mut place, &mut archived) => round,
            };
            tell(archived, &mut told);
            let pause = match round {
                Ok(()) => {
                    trouble = None;
                    self.interval
                }
                Err(error) if matches!(error.kind(), Kind::Denied | Kind::Schema) => return Err(error),
                Err(error) => {
                    let trouble = trouble.get_or_insert_with(|| Trouble::begin(FIRST_PAUSE, LONGEST_PAUSE));
                    // a server that is away is the dispatcher's to tell
                    if trouble.failed(error.sort()) && error.kind() != Kind::Unreachable {
                        tracing::warn!("the archiver waits: {}", error.trying_again());
                    }
                    trouble.next_try().saturating_duration_since(Instant::now().into_std())
                }
            };
            if !shutdown.pause(pause).await {
                return Ok(());
            }
        }
    }

    async fn round(&self, place: &mut Place, archived: &mut Archived) -> Result<()> {
        let is_whole = place.walked.is_none_or(|walked| walked.elapsed() >= WHOLE_WALK);
        let begun = Instant::now();
        let again = self.walk(if is_whole { None } else { place.again }, archived).await?;
        *place = Place { again, walked: if is_whole { Some(begun) } else { place.walked } };
        self.retain(archived).await
    }

    /// One round over all old jobs and workflows; counted batch by batch, for who cuts it off.
    pub async fn run_once(&self, archived: &mut Archived) -> Result<()> {
        self.walk(None, archived).await?;
        self.retain(archived).await
    }

    /// Batches until there are no more workflows that have had their time.
    async fn retain(&self, archived: &mut Archived) -> Result<()> {
        loop {
            let client = self.server.take(&self.pool).await?;
            let retain = store::archive::retain(&client, WORKFLOWS);
            let outcome = self.server.in_time(1, "pruning workflows", retain).await;
            let answer = hand_back(client, outcome)?.done("pruning workflows")?;
            let count = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or(0);
            let is = |key: &str| answer.get(key).and_then(Value::as_bool).unwrap_or(false);
            archived.workflows_pruned += count("pruned");
            archived.workflows_cancelled += count("cancelled");
            if is("dry_run") || !is("more") {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    /// Batches until there are no more old jobs, or another sidecar archives; where the next round may begin.
    async fn walk(&self, mut after: Option<Uuid>, archived: &mut Archived) -> Result<Option<Uuid>> {
        loop {
            let answer = self.batch(after).await?;
            let count = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or(0);
            let place = |key: &str| answer.get(key).and_then(Value::as_str).and_then(|id| id.parse().ok());
            archived.found += count("found");
            archived.archived += count("archived");
            archived.dry_run = answer.get("dry_run").and_then(Value::as_bool).unwrap_or(true);
            self.jobs.inc_by(count("archived"));
            let months = answer.get("months");
            let dropped = months.and_then(|months| months.get("dropped")).and_then(Value::as_array);
            archived.months_dropped += dropped.map_or(0, |dropped| dropped.len() as u64);
            let is_more =
                months.and_then(|months| months.get("more")).and_then(Value::as_bool).unwrap_or(false);
            // the last batch again, while keys of a month are left
            after = place("next").or_else(|| after.filter(|_| is_more));
            if archived.dry_run || place("next").is_none() && !is_more {
                return Ok(place("again"));
            }
            if is_more || count("archived") > 0 {
                sleep(PAUSE).await;
            }
        }
    }

    async fn batch(&self, after: Option<Uuid>) -> Result<Value> {
        let client = self.server.take(&self.pool).await?;
        let archive = store::archive::archive(&client, BATCH, after);
        let outcome = self.server.in_time(1, "archiving finished jobs", archive).await;
        hand_back(client, outcome)?.done("archiving finished jobs")
    }
}

/// What left is said each time; that something only would, once.
fn tell(archived: Archived, told: &mut bool) {
    let Archived { found, archived, months_dropped, workflows_pruned, workflows_cancelled, dry_run } =
        archived;
    if archived > 0 {
        tracing::info!(jobs.archived = archived, "{archived} finished jobs left for the archive");
    }
    if months_dropped > 0 {
        tracing::info!(
            months.dropped = months_dropped,
            "{months_dropped} months of the archive ended longer ago than queue.retention.archive_months, and are dropped"
        );
    }
    if workflows_pruned > 0 {
        tracing::info!(
            workflows.pruned = workflows_pruned,
            "{workflows_pruned} workflows went, as their jobs had"
        );
    }
    if workflows_cancelled > 0 {
        tracing::warn!(
            workflows.cancelled = workflows_cancelled,
            "{workflows_cancelled} workflows are cancelled: they had failed longer ago than queue.retention.failed_workflow_days"
        );
    }
    if dry_run && found > 0 && !*told {
        tracing::info!(
            hint = "open queue.archive.enabled to move them",
            "finished jobs are due for the archive; they stay: the archiver is gated"
        );
    }
    *told = dry_run && (*told || found > 0);
}
