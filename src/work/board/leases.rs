//! What the board is to the keeper: leases to renew, long runs to tell of, leases that were lost.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{Board, Held, Phase};
use crate::work::stats;
use crate::work::stop::StopReason;

/// A run that lasts longer is reported as in progress; a shorter one never is, which spares it a statement.
const START_IS_TOLD_AFTER: Duration = Duration::from_millis(50);

/// How long a job is left alone whose row somebody else has locked.
const BUSY_FOR: Duration = Duration::from_millis(500);

/// What the keeper has to do for the jobs held.
#[derive(Debug, Default)]
pub(in crate::work) struct Due {
    pub(in crate::work) start: Vec<(Uuid, i64)>,
    pub(in crate::work) renew: Vec<(Uuid, i64)>,
    /// When to ask again, if no job comes before.
    pub(in crate::work) next: Option<Instant>,
}

impl Due {
    fn look_at(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

impl Board {
    /// Ends when jobs came.
    pub(in crate::work) async fn added(&self) {
        self.added.notified().await;
    }

    /// What is to be said about jobs that wait or run. Those whose lease has ended are given up here.
    pub(in crate::work) fn due(&self, now: Instant) -> Due {
        let mut due = Due::default();
        let mut ended = Vec::new();
        let state = self.lock();
        let look_again = now + START_IS_TOLD_AFTER / 2;
        for (id, held) in &state.held {
            if let Some(busy_until) = held.busy_until.filter(|until| *until > now && held.ends > now) {
                due.look_at(busy_until.min(held.ends));
                continue;
            }
            match held.phase {
                Phase::Ended => continue,
                Phase::Running { told: true, .. } => {}
                Phase::Running { since, told: false } if now >= since + START_IS_TOLD_AFTER => {
                    due.start.push((*id, held.token));
                    due.look_at(look_again);
                }
                Phase::Waiting | Phase::Running { .. } => due.look_at(look_again),
            }
            if now >= held.ends {
                ended.push(*id);
            } else if now >= held.renew_at {
                due.renew.push((*id, held.token));
                due.look_at(look_again);
            } else {
                due.look_at(held.renew_at);
            }
        }
        drop(state);
        self.lost(&ended);
        due
    }

    /// The database knows now that these are in progress.
    pub(in crate::work) fn told(&self, ids: impl IntoIterator<Item = Uuid>) {
        let mut state = self.lock();
        for id in ids {
            if let Some(Held { phase: Phase::Running { told, .. }, .. }) = state.held.get_mut(&id) {
                *told = true;
            }
        }
    }

    /// Somebody else has locked the rows of these: they are asked about a little later.
    pub(in crate::work) fn busy(&self, ids: impl IntoIterator<Item = Uuid>) {
        let until = Instant::now() + BUSY_FOR;
        let mut state = self.lock();
        for id in ids {
            if let Some(held) = state.held.get_mut(&id) {
                held.busy_until = Some(until);
            }
        }
    }

    /// Leases last for `lease` from `since` on.
    pub(in crate::work) fn renewed(
        &self,
        ids: impl IntoIterator<Item = Uuid>,
        lease: Duration,
        since: Instant,
    ) {
        let mut state = self.lock();
        for id in ids {
            if let Some(held) = state.held.get_mut(&id) {
                held.ends = since + lease;
                held.renew_at = since + lease / 3;
            }
        }
    }

    /// Leases that are not ours any more: what waits is forgotten, what runs is asked to end.
    pub(in crate::work) fn lost(&self, ids: &[Uuid]) {
        let mut state = self.lock();
        for id in ids {
            match state.held.get(id).map(|held| held.phase) {
                Some(Phase::Running { .. }) => {
                    if let Some(held) = state.held.get(id) {
                        held.stop.ask(StopReason::LeaseLost);
                    }
                }
                Some(Phase::Waiting) => {
                    state.held.remove(id);
                    state.waiting.retain(|taken| taken.job.job_id != *id);
                    stats::add(&self.stats.lease_lost, 1);
                }
                Some(Phase::Ended) | None => {}
            }
        }
    }

    /// Asks one run to end, or all of them.
    pub(in crate::work) fn stop(&self, ids: Option<&[Uuid]>, reason: StopReason) {
        let state = self.lock();
        for (id, held) in &state.held {
            if ids.is_none_or(|ids| ids.contains(id)) && matches!(held.phase, Phase::Running { .. }) {
                held.stop.ask(reason);
            }
        }
    }

    /// The runs that have lasted for a while.
    pub(in crate::work) fn long_runs(&self) -> Vec<Uuid> {
        let state = self.lock();
        let is_long = |held: &Held| matches!(held.phase, Phase::Running { told: true, .. });
        state.held.iter().filter(|(_, held)| is_long(held)).map(|(id, _)| *id).collect()
    }

    /// A job that runs, if one does; for the heartbeat.
    pub(in crate::work) fn current(&self) -> Option<Uuid> {
        let state = self.lock();
        let runs = |held: &Held| matches!(held.phase, Phase::Running { .. });
        state.held.iter().find(|(_, held)| runs(held)).map(|(id, _)| *id)
    }
}
