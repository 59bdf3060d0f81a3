//! The watch over backlog that no live executor may claim: nobody of its kind beats, or nobody is subscribed to it.
//!
//! Settings: `[maintenance] interval`. A round is one statement; any number of sidecars may watch. Each kind and domain
//! is told once when it begins and once when it is over.

use std::collections::BTreeSet;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::time::Instant;

use crate::backoff::Trouble;
use crate::config;
use crate::error::{Kind, Result};
use crate::postgres::Server;
use crate::postgres::pool::hand_back;
use crate::shutdown::Shutdown;
use crate::store::backlog::{self, PATIENCE, Unclaimed};

/// Pauses between tries, from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Tells of work that nobody may claim.
#[derive(Debug)]
pub struct UnclaimedWatch {
    server: Server,
    pool: Pool,
    interval: Duration,
}

impl UnclaimedWatch {
    /// A watch that takes its connection from `pool`.
    pub fn new(server: Server, pool: Pool, settings: &config::Maintenance) -> Self {
        Self { server, pool, interval: settings.interval }
    }

    /// Watches until told to stop. The first look waits: executors that start beside the sidecar are no alarm.
    pub async fn run(&self, shutdown: Shutdown) -> Result<()> {
        let mut trouble = None;
        let mut pause = self.interval;
        let mut told = BTreeSet::new();
        while shutdown.pause(pause).await {
            let round = tokio::select! {
                () = shutdown.requested() => return Ok(()),
                round = self.run_once() => round,
            };
            pause = match round {
                Ok(found) => {
                    trouble = None;
                    tell(&found, &mut told);
                    self.interval
                }
                Err(error) if matches!(error.kind(), Kind::Denied | Kind::Schema) => return Err(error),
                Err(error) => {
                    let trouble = trouble.get_or_insert_with(|| Trouble::begin(FIRST_PAUSE, LONGEST_PAUSE));
                    // a server that is away is the dispatcher's to tell
                    if trouble.failed(error.sort()) && error.kind() != Kind::Unreachable {
                        tracing::warn!("the watch over unclaimed backlog waits: {}", error.trying_again());
                    }
                    trouble.next_try().saturating_duration_since(Instant::now().into_std())
                }
            };
        }
        Ok(())
    }

    /// One look.
    pub async fn run_once(&self) -> Result<Vec<Unclaimed>> {
        let client = self.server.take(&self.pool).await?;
        let look = backlog::unclaimed(&client, PATIENCE);
        let outcome = self.server.in_time(1, "looking for unclaimed backlog", look).await;
        hand_back(client, outcome)
    }
}

/// Says what changed since the last look; `told` is what has been told and is not over.
fn tell(found: &[Unclaimed], told: &mut BTreeSet<String>) {
    let now: BTreeSet<String> = found.iter().map(ToString::to_string).collect();
    for one in found {
        let lane = one.to_string();
        if !told.insert(lane.clone()) {
            continue;
        }
        let (why, hint) = match one.reason.as_str() {
            "no_live_executor" => ("no executor of that kind is alive", "start one, such as `reveille work`"),
            _ => (
                "no live executor is subscribed to them",
                "`reveille executors list` says who may claim what, `reveille executors subscribe` adds to it",
            ),
        };
        tracing::warn!(
            executor.kind = %one.executor,
            job.kind = %one.job_kind,
            domain = one.event_domain,
            jobs.due = one.due,
            hint,
            "{lane} wait, and {why}"
        );
    }
    for lane in told.difference(&now) {
        tracing::info!("{lane} wait for nobody any more: they can be claimed, or are paused, or gone");
    }
    *told = now;
}
