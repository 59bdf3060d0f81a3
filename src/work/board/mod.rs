//! The jobs that a worker holds: waiting, running, or ended and not yet reported. One lock; nobody waits inside it.
//!
//! Here is what the runners and the stop do with it; `intake` is for the claimer, `outbox` for the reporter, `leases`
//! for the keeper.

mod intake;
mod leases;
mod outbox;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

pub(super) use self::leases::Due;
use super::pace::Pace;
use super::stats::{self, WorkerStats};
use super::stop::Stop;
use crate::model::job::{Job, Origin};
use crate::store::work::Leases;

/// How many jobs a worker may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Jobs run at the same time.
    pub(super) concurrency: usize,
    /// Jobs claimed ahead.
    pub(super) prefetch: usize,
    /// Jobs claimed or reported by one statement.
    pub(super) batch: usize,
}

/// The jobs held, and who waits for a change of them.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<State>,
    limits: Limits,
    stats: Arc<WorkerStats>,
    /// A job waits to be run, or none will come any more.
    ready: Notify,
    /// An outcome waits to be reported.
    outbox: Notify,
    /// A run began or ended, or an outcome was reported: there may be room for more.
    room: Notify,
    /// Jobs came.
    added: Notify,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<Uuid, Held>,
    waiting: VecDeque<Taken>,
    running: usize,
    reports: VecDeque<Report>,
    /// Reports on their way to the database.
    reporting: usize,
    pace: Pace,
    closed: bool,
}

#[derive(Debug)]
struct Held {
    token: i64,
    ends: Instant,
    renew_at: Instant,
    /// Not to be asked about before: somebody else has locked its row.
    busy_until: Option<Instant>,
    phase: Phase,
    stop: Stop,
}

impl Held {
    fn new(token: i64, since: Instant, lease: Duration, phase: Phase, stop: Stop) -> Self {
        Self { token, ends: since + lease, renew_at: since + lease / 3, busy_until: None, phase, stop }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Running { since: Instant, told: bool },
    Ended,
}

/// A job to run.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) job: Job,
    pub(super) stop: Stop,
}

/// What is to be said about a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    Succeeded { result_ref: Option<String> },
    Transient(String),
    Permanent(String),
    Snoozed(Duration),
    Cancelled,
    Released,
}

/// What is to be said about one job, and until when it can be said.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) id: Uuid,
    pub(super) token: i64,
    pub(super) job_kind: String,
    pub(super) origin: Origin,
    pub(super) took: Duration,
    pub(super) ending: Ending,
    /// When the lease ends.
    pub(super) until: Instant,
    /// It could not be said before: somebody may hold on to its row.
    pub(super) again: bool,
}

impl Board {
    pub(super) fn new(limits: Limits, stats: Arc<WorkerStats>) -> Self {
        Self {
            state: Mutex::default(),
            limits,
            stats,
            ready: Notify::new(),
            outbox: Notify::new(),
            room: Notify::new(),
            added: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when a run began or ended, or an outcome was reported.
    pub(super) async fn changed(&self) {
        self.room.notified().await;
    }

    /// The next job to run; none when no more will come.
    pub(super) async fn next(&self) -> Option<Taken> {
        loop {
            let ready = self.ready.notified();
            {
                let mut state = self.lock();
                if let Some(taken) = self.take(&mut state) {
                    return Some(taken);
                }
                if state.closed {
                    return None;
                }
            }
            ready.await;
        }
    }

    fn take(&self, state: &mut State) -> Option<Taken> {
        let taken = state.waiting.pop_front()?;
        let begun = Phase::Running { since: Instant::now(), told: false };
        if let Some(held) = state.held.get_mut(&taken.job.job_id) {
            held.phase = begun;
        }
        state.running += 1;
        stats::set(&self.stats.waiting, state.waiting.len());
        stats::set(&self.stats.running, state.running);
        if !state.waiting.is_empty() && !state.pace.is_instant() {
            self.ready.notify_one();
        }
        if self.is_low(state) {
            self.room.notify_one();
        }
        Some(taken)
    }

    /// Whether so few jobs wait that there may be room for more.
    fn is_low(&self, state: &State) -> bool {
        state.waiting.len() <= self.limits.prefetch / 2
    }

    /// The caller's run takes its time: somebody else shall take the next job.
    pub(super) fn pass_on(&self) {
        if !self.lock().waiting.is_empty() {
            self.ready.notify_one();
        }
    }

    /// A run ended. Without an ending there is nothing to report: it has been, or the lease was lost.
    pub(super) fn ended(&self, job: Job, took: Duration, ending: Option<Ending>) {
        let now = Instant::now();
        let mut state = self.lock();
        state.running -= 1;
        state.pace.note(took, now);
        stats::set(&self.stats.running, state.running);
        match ending {
            Some(ending) => Self::report(&mut state, job, took, ending),
            None => {
                state.held.remove(&job.job_id);
            }
        }
        let low = self.is_low(&state);
        drop(state);
        self.outbox.notify_one();
        if low {
            self.room.notify_one();
        }
    }

    fn report(state: &mut State, job: Job, took: Duration, ending: Ending) {
        let Some(held) = state.held.get_mut(&job.job_id) else { return };
        held.phase = Phase::Ended;
        let (token, until) = (held.token, held.ends);
        state.reports.push_back(Report {
            id: job.job_id,
            token,
            origin: job.origin(),
            job_kind: job.job_kind,
            took,
            ending,
            until,
            again: false,
        });
    }

    /// Gives back what waits behind runs that do not end; somebody else may have a hand free.
    pub(super) fn give_back_stalled(&self) -> usize {
        let stalled = {
            let state = self.lock();
            state.running >= self.limits.concurrency && state.pace.has_stalled(Instant::now())
        };
        if stalled { self.give_back() } else { 0 }
    }

    /// Gives back what was not started.
    pub(super) fn give_back(&self) -> usize {
        let mut state = self.lock();
        let waiting = std::mem::take(&mut state.waiting);
        let count = waiting.len();
        for Taken { job, .. } in waiting {
            Self::report(&mut state, job, Duration::ZERO, Ending::Released);
        }
        stats::set(&self.stats.waiting, 0);
        drop(state);
        self.outbox.notify_one();
        count
    }

    /// Jobs may come again.
    pub(super) fn open(&self) {
        self.lock().closed = false;
    }

    /// No more jobs will come: runners end when they have run theirs.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_waiters();
    }

    /// Forgets all that is held, and answers the leases.
    pub(super) fn abandon(&self) -> Leases {
        let held = std::mem::take(&mut *self.lock()).held;
        held.into_iter().map(|(id, held)| (id, held.token)).collect()
    }

    /// How many run.
    pub(super) fn running(&self) -> usize {
        self.lock().running
    }

    /// How many are held: waiting, running, or not reported yet.
    pub(super) fn held(&self) -> usize {
        self.lock().held.len()
    }
}
