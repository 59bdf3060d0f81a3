//! One domain from wake-up to sleep: pass after pass while there is something, awake while it streams, then arm,
//! look once more, and wait for whoever could not see that we fell asleep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{Object, Pool};

use super::rhythm::{Next, Rhythm};
use super::stats::DispatchStats;
use super::waker::channel;
use crate::config;
use crate::error::Result;
use crate::model::pass::{FoundBy, Pass};
use crate::model::refusal::Refusal;
use crate::postgres::Server;
use crate::postgres::pool::hand_back;
use crate::shutdown::Shutdown;
use crate::store;

/// First pause while blind transactions are open; it doubles up to the poll interval.
const FIRST_BLIND_PAUSE: Duration = Duration::from_millis(5);

/// Dispatches one domain. The dispatcher keeps one for each and runs at most one `drain` of it at a time.
#[derive(Debug)]
pub(super) struct Domain {
    pub(super) name: String,
    pub(super) server: Server,
    pub(super) pool: Pool,
    pub(super) settings: config::Dispatch,
    pub(super) stats: Arc<DispatchStats>,
    pub(super) rhythm: Rhythm,
    pub(super) shutdown: Shutdown,
}

/// How a drain ended.
#[derive(Debug)]
pub(super) enum Drained {
    /// Everything committed has been read, or another sidecar reads it.
    Idle,
    /// A gate is closed; the position stays.
    Refused(Refusal),
}

impl Domain {
    /// Reads until nothing is left and sleep is safe. Ends early when told to stop, with the mark dropped.
    pub(super) async fn drain(&mut self, found_by: FoundBy) -> Result<Drained> {
        let client = self.server.take(&self.pool).await?;
        let outcome = self.drain_with(&client, found_by).await;
        if outcome.is_err() {
            self.rhythm.armed(); // the mark falls by its own time
        }
        hand_back(client, outcome)
    }

    async fn drain_with(&mut self, client: &Object, mut found_by: FoundBy) -> Result<Drained> {
        loop {
            let pass = match self.pass(client, found_by).await? {
                Ok(pass) => pass,
                Err(refusal) => {
                    self.arm(client).await?;
                    return Ok(Drained::Refused(refusal));
                }
            };
            if self.shutdown.is_requested() {
                self.arm(client).await?;
                return Ok(Drained::Idle);
            }
            if pass.more {
                continue;
            }
            let now = Instant::now();
            let next = if pass.events > 0 { self.rhythm.found(now) } else { self.rhythm.empty(now) };
            match next {
                Next::Sleep => return Ok(Drained::Idle),
                Next::Look { mark } => {
                    if mark {
                        self.mark(client).await?;
                    }
                    self.shutdown.pause(self.settings.look_interval).await;
                }
                Next::Arm => return self.fall_asleep(client).await,
            }
            found_by = FoundBy::Look;
        }
    }

    /// One transaction; counts what it did.
    async fn pass(&self, client: &Object, found_by: FoundBy) -> Result<Result<Pass, Refusal>> {
        let begun = Instant::now();
        let pass = store::dispatch::pass(client, &self.name, self.settings.batch_size, found_by).await?;
        if let Ok(pass) = &pass
            && pass.events > 0
        {
            self.stats.passed(&self.name, found_by, pass, begun.elapsed());
            tracing::debug!(
                domain = %self.name,
                found_by = found_by.as_str(),
                dispatch.events = pass.events,
                dispatch.jobs = pass.jobs,
                "dispatched"
            );
            if pass.errors > 0 {
                tracing::warn!(
                    domain = %self.name,
                    dispatch.errors = pass.errors,
                    "events that a consumer could not digest: see dispatch_error"
                );
            }
        }
        Ok(pass)
    }

    async fn mark(&mut self, client: &Object) -> Result<()> {
        let now = Instant::now();
        store::wakes::awake(client, &channel(&self.name), self.settings.awake_for).await?;
        self.rhythm.marked(now);
        Ok(())
    }

    async fn arm(&mut self, client: &Object) -> Result<Option<String>> {
        if !self.rhythm.is_awake() {
            return Ok(None);
        }
        let blind = store::wakes::arm(client, &channel(&self.name)).await?;
        self.rhythm.armed();
        Ok(blind)
    }

    /// Arms, looks once more, and goes on looking while transactions are open that may have read the mark before
    /// it fell: they commit without a NOTIFY. Whoever inserts later reads the fallen mark and notifies.
    async fn fall_asleep(&mut self, client: &Object) -> Result<Drained> {
        let Some(mut blind) = self.arm(client).await? else {
            return self.last_look(client).await;
        };
        let mut pause = FIRST_BLIND_PAUSE;
        loop {
            let still_blind = store::wakes::is_blind(client, &blind).await?;
            if let Drained::Refused(refusal) = self.last_look(client).await? {
                return Ok(Drained::Refused(refusal));
            }
            if self.rhythm.is_awake() {
                // the last look met a stream and set the mark again: begin anew
                match self.arm(client).await? {
                    Some(snapshot) => blind = snapshot,
                    None => return self.last_look(client).await,
                }
                continue;
            }
            // a poll comes anyway after the poll interval: longer than that nobody has to wait
            if !still_blind || pause >= self.settings.poll_interval || !self.shutdown.pause(pause).await {
                return Ok(Drained::Idle);
            }
            pause *= 2;
        }
    }

    /// Reads what is there, without setting the mark.
    async fn last_look(&mut self, client: &Object) -> Result<Drained> {
        loop {
            match self.pass(client, FoundBy::Look).await? {
                Err(refusal) => return Ok(Drained::Refused(refusal)),
                Ok(pass) if pass.more => {}
                Ok(_) => return Ok(Drained::Idle),
            }
        }
    }
}
