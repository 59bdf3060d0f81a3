//! The dispatcher: one task that looks at domains when woken, when the timer says so, and after every outage.
//!
//! Any number of sidecars may run: a pass takes the domain's cursor row and whoever comes second goes away.
//! Settings: `[dispatch]`. Errors that may pass are logged once an outage and retried; denied access or a missing
//! schema end `run`. Source: `docs/ARCHITECTURE.md`, traps 1, 3, 8, 12, 13, 28.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::domain::{Domain, Turn};
use super::poll;
use super::state::{Asking, Done, State};
use super::stats::DispatchStats;
use super::trouble::Teller;
use super::waker::Waker;
use crate::alive::Alive;
use crate::config;
use crate::error::Result;
use crate::latch::Latch;
use crate::model::pass::FoundBy;
use crate::model::refusal::{Answer, PAUSED};
use crate::postgres::listener::ListenerStatus;
use crate::postgres::{Server, Session};
use crate::shutdown::Shutdown;
use crate::systemd;

/// How often the watchdog's timer turns when there is no watchdog.
const NO_WATCHDOG: Duration = Duration::from_hours(1);

/// Reads events and makes their jobs.
#[derive(Debug)]
pub struct Dispatcher {
    pub(super) server: Server,
    pub(super) place: String,
    pub(super) pool: Pool,
    pub(super) settings: config::Dispatch,
    pub(super) domains: Vec<String>,
    pub(super) waker: Arc<Waker>,
    pub(super) listener: Option<Arc<ListenerStatus>>,
    pub(super) stats: Arc<DispatchStats>,
    pub(super) latch: Latch,
    pub(super) alive: Alive,
    pub(super) spans: crate::telemetry::Spans,
}

impl Dispatcher {
    /// `connections` are those of passes and polls; `domains` are those to dispatch; `listener` is absent in poll-only
    /// mode.
    pub fn new(
        server: Server,
        settings: &config::Dispatch,
        connections: usize,
        domains: Vec<String>,
        waker: Arc<Waker>,
        listener: Option<Arc<ListenerStatus>>,
    ) -> Result<Self> {
        let session = Session { synchronous_commit: settings.synchronous_commit, ..server.session() };
        let pool = server.pool("dispatch", connections, &session)?;
        let stats = Arc::new(DispatchStats::default());
        let latch = Latch::alone("dispatcher", "not started yet");
        let (place, alive) = (server.describe(), Alive::default());
        Ok(Self {
            server,
            place,
            pool,
            settings: settings.clone(),
            domains,
            waker,
            listener,
            stats,
            latch,
            alive,
            spans: crate::telemetry::Spans::default(),
        })
    }

    /// Says through `latch` whether positions are known and the database can be used.
    #[must_use]
    pub fn latched(self, latch: Latch) -> Self {
        Self { latch, ..self }
    }

    /// The counters, to be shared with metrics.
    pub fn stats(&self) -> &DispatchStats {
        &self.stats
    }

    /// Whether its loop turns.
    pub fn alive(&self) -> Alive {
        self.alive.clone()
    }

    /// Dispatches until told to stop.
    pub async fn run(&self, shutdown: Shutdown) -> Result<()> {
        let mut state = self.begin(&shutdown);
        // the timer's statement comes and ends within this time, whatever else happens
        let next = self.settings.poll_interval.saturating_mul(2) + self.server.limit(2);
        let mut watchdog = tokio::time::interval(systemd::watchdog_interval().unwrap_or(NO_WATCHDOG));
        loop {
            self.alive.turns(next);
            self.start_waiting(&mut state);
            tokio::select! {
                biased;
                () = shutdown.requested() => break,
                Some(done) = state.running.next() => self.done(&mut state, done)?,
                () = self.waker.woken() => self.take_wakes(&mut state),
                _ = watchdog.tick() => systemd::alive(), // this loop turns, in an outage too
                () = tokio::time::sleep_until(state.next_poll), if state.asking.is_none() => self.start_poll(&mut state),
            }
        }
        self.latch.clear("stopping");
        self.finish(state, &shutdown).await;
        Ok(())
    }

    /// Lets the passes that run come to their end, and drops the marks of domains that are awake.
    async fn finish(&self, mut state: State, shutdown: &Shutdown) {
        let can_drop_marks = state.outage.is_none(); // else they fall by their own time
        let awake = state
            .resting
            .extract_if(.., |_, domain| can_drop_marks && domain.rhythm.is_awake())
            .collect::<Vec<_>>();
        let last_turn = |mut domain: Box<Domain>| -> BoxFuture<'static, Done> {
            Box::pin(async move {
                let outcome = domain.turn(FoundBy::Look).await;
                Done::Turned(domain, outcome)
            })
        };
        for (_, domain) in awake {
            state.running.push(last_turn(domain));
        }
        let mut last_turns = self.domains.len();
        while state.resting.len() < self.domains.len() {
            let done = tokio::select! {
                done = state.running.next() => done,
                () = shutdown.was_cut() => None,
            };
            match done {
                Some(Done::Turned(domain, outcome)) => {
                    if let Err(error) = outcome {
                        tracing::warn!(domain = %domain.name, "stopped in the middle: {error}; the position is unchanged");
                    } else if can_drop_marks && last_turns > 0 && domain.rhythm.is_awake() {
                        last_turns -= 1; // it came to its end just before it could see the stop
                        state.running.push(last_turn(domain));
                        continue;
                    }
                    state.resting.insert(domain.name.clone(), domain);
                }
                Some(Done::Attached(_) | Done::Polled(_) | Done::Due(..)) => {}
                None => break,
            }
        }
    }

    fn begin(&self, shutdown: &Shutdown) -> State {
        let domain = |name: &String| (name.clone(), Box::new(Domain::new(self, name, shutdown)));
        let resting = self.domains.iter().map(domain);
        State::new(resting.collect(), Instant::now() + poll::pause(self.settings.poll_interval))
    }

    fn take_wakes(&self, state: &mut State) {
        let (domains, all) = self.waker.take();
        for (name, found_by) in domains.iter().filter(|(name, _)| self.domains.contains(name)) {
            state.wait(name, *found_by);
        }
        if let Some(found_by) = all {
            self.look_everywhere(state, found_by);
        }
    }

    fn look_everywhere(&self, state: &mut State, found_by: FoundBy) {
        for name in &self.domains {
            state.wait(name, found_by);
        }
    }

    /// Starts turns of waiting domains while there is room: none before the positions are known, and nothing but the
    /// poll during an outage.
    fn start_waiting(&self, state: &mut State) {
        if state.waiting.is_empty() || (state.outage.is_some() && !state.probing) {
            return;
        }
        match state.asking {
            Some(Asking::Positions) => return,
            Some(Asking::Poll) if state.unattached => return,
            None if state.unattached => return self.start_attach(state),
            _ => {}
        }
        while self.domains.len() - state.resting.len() < self.settings.concurrency
            && let Some((mut domain, found_by)) = state.next_at_rest()
        {
            state.running.push(Box::pin(async move {
                let outcome = domain.turn(found_by).await;
                Done::Turned(domain, outcome)
            }));
        }
    }

    fn start_attach(&self, state: &mut State) {
        (state.asking, state.unattached) = (Some(Asking::Positions), false);
        let (server, pool) = (self.server.clone(), self.pool.clone());
        state.running.push(Box::pin(async move { Done::Attached(poll::attach(&server, &pool).await) }));
    }

    fn start_poll(&self, state: &mut State) {
        state.asking = Some(Asking::Poll);
        let (server, pool) = (self.server.clone(), self.pool.clone());
        let (domains, listener) = (self.domains.clone(), self.listener.clone());
        state.running.push(Box::pin(async move {
            Done::Polled(poll::poll(&server, &pool, &domains, listener.as_deref()).await)
        }));
    }

    fn done(&self, state: &mut State, done: Done) -> Result<()> {
        match done {
            Done::Turned(domain, outcome) => return self.turned(state, domain, outcome),
            Done::Due(name, turns) => {
                if state.resting.get(&name).is_some_and(|domain| domain.turns == turns) {
                    state.wait(&name, FoundBy::Look);
                }
            }
            Done::Attached(outcome) => {
                state.asking = None;
                return outcome.or_else(|error| self.teller().failed(state, None, error));
            }
            Done::Polled(outcome) => {
                state.asking = None;
                state.next_poll = Instant::now() + poll::pause(self.settings.poll_interval);
                match outcome {
                    Ok(answer) => self.polled(state, answer),
                    Err(error) => return self.teller().failed(state, None, error),
                }
            }
        }
        Ok(())
    }

    fn turned(&self, state: &mut State, domain: Box<Domain>, outcome: Result<Turn>) -> Result<()> {
        let (name, turns) = (domain.name.clone(), domain.turns);
        state.resting.insert(name.clone(), domain);
        if outcome.is_ok() {
            self.teller().succeeded(state, &name);
        }
        match outcome {
            Ok(Turn::Refused(refusal)) if refusal.reason == PAUSED => {
                state.gate(None);
                state.pause(&name, refusal.answer["scope"].as_str());
            }
            Ok(Turn::Refused(refusal)) => state.gate(Some(refusal.reason)),
            Ok(turn) => {
                state.gate(None);
                state.pause(&name, None);
                match turn {
                    Turn::Again => state.wait(&name, FoundBy::Look),
                    Turn::After(pause) if pause.is_zero() => state.wait(&name, FoundBy::Look),
                    Turn::After(pause) => state.running.push(Box::pin(async move {
                        tokio::time::sleep(pause).await;
                        Done::Due(name, turns)
                    })),
                    Turn::Rest | Turn::Refused(_) => {}
                }
            }
            Err(error) => {
                state.wait(&name, FoundBy::Start);
                return self.teller().failed(state, Some(&name), error);
            }
        }
        Ok(())
    }

    fn polled(&self, state: &mut State, answer: Answer) {
        if state.outage.is_some() && !state.probing {
            state.probing = true;
            state.unattached = true;
            self.look_everywhere(state, FoundBy::Start);
        }
        match answer {
            Answer::Refused(refusal) => state.gate(Some(refusal.reason)),
            Answer::Done(answer) => {
                state.gate(None);
                let found = answer.get("domains").and_then(serde_json::Value::as_array);
                for name in found.into_iter().flatten().filter_map(serde_json::Value::as_str) {
                    state.wait(name, FoundBy::Poll);
                }
            }
        }
    }

    fn teller(&self) -> Teller<'_> {
        Teller { database: &self.place, latch: &self.latch, stats: &self.stats }
    }
}
