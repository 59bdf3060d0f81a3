//! The reaper: frees jobs whose lease has ended unreported, because their worker went away.
//!
//! Settings: `[maintenance] reap_interval`. A round is a statement, or a few while there are many; any number of sidecars may reap, none waits
//! for a row that another one has. Until both gates are open (`queue.lease_reaper.enabled`, and
//! `queue.lease_reaper.dry_run_only` closed) it only tells what it would do, once for as long as it lasts.

use std::time::Duration;

use deadpool_postgres::Pool;
use serde_json::Value;
use tokio::time::Instant;

use crate::alive::Alive;
use crate::backoff::Trouble;
use crate::config;
use crate::error::{Kind, Result};
use crate::postgres::Server;
use crate::postgres::pool::hand_back;
use crate::shutdown::Shutdown;
use crate::store;

/// Jobs a statement: few enough that none of their rows is locked for long.
const BATCH: i32 = 60;

/// Pauses between tries, from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Frees jobs of workers that went away.
#[derive(Debug)]
pub struct Reaper {
    server: Server,
    pool: Pool,
    interval: Duration,
    alive: Alive,
}

/// What a round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reaped {
    /// Jobs whose lease had ended.
    pub found: u64,
    /// Of these, how many are dead letters now.
    pub dead_lettered: u64,
    /// Jobs that could not be freed; they are tried again in the next round.
    pub failed: u64,
    /// The gates let it only look: nothing was changed.
    pub dry_run: bool,
}

impl Reaper {
    /// A reaper that takes its connection from `pool`.
    pub fn new(server: Server, pool: Pool, settings: &config::Maintenance) -> Self {
        Self { server, pool, interval: settings.reap_interval, alive: Alive::default() }
    }

    /// Whether it turns.
    pub fn alive(&self) -> Alive {
        self.alive.clone()
    }

    /// Reaps until told to stop.
    pub async fn run(&self, shutdown: Shutdown) -> Result<()> {
        let mut trouble = None;
        let mut told = 0;
        loop {
            let mut reaped = Reaped::default();
            let round = tokio::select! {
                // a batch that is cut off leaves nothing behind
                () = shutdown.requested() => None,
                round = self.run_once(&mut reaped) => Some(round),
            };
            if reaped.found > 0 || matches!(round, Some(Ok(()))) {
                tell(reaped, &mut told);
            }
            let Some(round) = round else { return Ok(()) };
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
                        tracing::warn!("the reaper waits: {}", error.trying_again());
                    }
                    trouble.next_try().saturating_duration_since(Instant::now().into_std())
                }
            };
            self.alive.turns(pause);
            if !shutdown.pause(pause).await {
                return Ok(());
            }
        }
    }

    /// One round: batches until one is not full; counted batch by batch, for when a later one fails or is cut off.
    pub async fn run_once(&self, reaped: &mut Reaped) -> Result<()> {
        loop {
            self.alive.turns(self.server.limit(1));
            // what failed is the oldest and would come again at once
            let batch = self.batch(i32::try_from(reaped.failed).unwrap_or(i32::MAX)).await?;
            reaped.found += batch.found;
            reaped.dead_lettered += batch.dead_lettered;
            reaped.failed += batch.failed;
            reaped.dry_run = batch.dry_run;
            if batch.dry_run || batch.found < u64::from(BATCH.unsigned_abs()) {
                return Ok(());
            }
        }
    }

    async fn batch(&self, skip: i32) -> Result<Reaped> {
        let client = self.server.take(&self.pool).await?;
        let reap = store::reaper::reap(&client, BATCH, skip);
        let outcome = self.server.in_time(1, "looking for ended leases", reap).await;
        let answer = hand_back(client, outcome)?.done("looking for ended leases")?;
        let count = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or(0);
        let dry_run = answer.get("dry_run").and_then(Value::as_bool).unwrap_or(true);
        Ok(Reaped {
            found: count("found"),
            dead_lettered: count("dead_lettered"),
            failed: count("failed"),
            dry_run,
        })
    }
}

/// What was freed is said each time; what only would be is said when it becomes more.
fn tell(reaped: Reaped, told: &mut u64) {
    let Reaped { found, dead_lettered, failed, dry_run } = reaped;
    if failed > 0 {
        tracing::warn!(
            jobs.failed = failed,
            hint = "fn_job_lease_reaper() names them and says why",
            "{failed} jobs whose lease had ended could not be freed"
        );
    }
    let freed = found - failed;
    if !dry_run && freed > 0 {
        tracing::warn!(
            jobs.freed = freed,
            jobs.dead_lettered = dead_lettered,
            "freed {freed} jobs whose lease had ended unreported; {dead_lettered} of them are dead letters now"
        );
    }
    if dry_run && found > *told {
        tracing::warn!(
            jobs.found = found,
            hint = "open queue.lease_reaper.enabled and close queue.lease_reaper.dry_run_only to free them",
            "the leases of {found} jobs have ended unreported; nothing is changed: the reaper is gated"
        );
    }
    *told = if dry_run { found } else { 0 };
}
