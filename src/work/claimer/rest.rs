//! Rest: a worker with a free hand and nothing to do may be named in a wake-up, and then the others sleep on (trap 20).
//!
//! Who is named answers for the job: he claims, or sees to it that others look. `fn_job_wake`, `fn_job_pass_on`.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Claimer;
use crate::error::Result;
use crate::postgres::pool::hand_back;
use crate::store;

/// What a stop waits for the database at most.
const FAREWELL: Duration = Duration::from_millis(500);

impl Claimer {
    /// With a free hand this worker may be named from now on; with none it may no more, and what is left is for others.
    /// True when there is nothing to wait for but a call and the timer.
    pub(super) async fn rest(&mut self) -> bool {
        if self.rhythm.is_awake() {
            return true; // nobody is named
        }
        let rests = self.shared.board.has_free_hand();
        if rests {
            self.waker.rest(self.refused.is_none());
        } else if self.waker.rest(false) {
            self.fill_up().await;
        }
        rests
    }

    /// This worker takes no more for now. If there is more to do, another one is woken; if not, this one need not look again
    /// by itself.
    pub(super) async fn fill_up(&mut self) {
        self.owes = false;
        match self.pass_on(false).await {
            Ok(false) if !self.rhythm.is_awake() => self.rhythm.settled(Instant::now()),
            Ok(_) => {}
            Err(error) => {
                self.owes = true;
                self.shared.outage.failed(&self.shared.stats, &error);
            }
        }
    }

    /// The worker stops: what it was named in, or may just be, is for others.
    pub(super) async fn retire(&mut self) {
        let rested = self.waker.rest(false);
        if (rested || self.owes) && !matches!(timeout(FAREWELL, self.pass_on(false)).await, Ok(Ok(_))) {
            tracing::debug!("a wake-up was not passed on: others find the job at their poll");
        }
    }

    /// Hands a wake-up on to other workers; whether there is anything for them.
    pub(super) async fn pass_on(&self, has_room: bool) -> Result<bool> {
        let shared = &self.shared;
        let client = shared.server.take(&shared.control).await?;
        let kinds = shared.kinds.names();
        let pass = store::wakes::pass_on(&client, &shared.beater, &kinds, has_room);
        let outcome = shared.server.in_time(1, "passing a wake-up on", pass).await;
        hand_back(client, outcome)
    }
}
