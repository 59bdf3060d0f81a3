//! The dispatcher: one task that looks at domains when woken, when the timer says so, and after every outage.
//!
//! Any number of sidecars may run: a pass takes the domain's cursor row and whoever comes second goes away.
//! Settings: `[dispatch]`. Errors that may pass are logged once an outage and retried; denied access or a missing
//! schema end `run`. Source: `docs/ARCHITECTURE.md`, traps 1, 3, 8, 12, 13, 28.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::domain::{Domain, Drained};
use super::poll;
use super::rhythm::Rhythm;
use super::state::{Done, State};
use super::stats::DispatchStats;
use super::waker::Waker;
use crate::backoff::Backoff;
use crate::config;
use crate::error::{Kind, Result};
use crate::latch::Latch;
use crate::model::pass::{FoundBy, Pass};
use crate::model::refusal::{Answer, Refusal};
use crate::postgres::listener::ListenerStatus;
use crate::postgres::pool::hand_back;
use crate::postgres::{Server, Session};
use crate::shutdown::Shutdown;
use crate::store;
use crate::systemd;

/// How often the watchdog's timer turns when there is no watchdog.
const NO_WATCHDOG: Duration = Duration::from_hours(1);

/// Reads events and makes their jobs.
#[derive(Debug)]
pub struct Dispatcher {
    server: Server,
    pool: Pool,
    settings: config::Dispatch,
    domains: Vec<String>,
    waker: Arc<Waker>,
    listener: Option<Arc<ListenerStatus>>,
    stats: Arc<DispatchStats>,
    latch: Latch,
}

impl Dispatcher {
    /// `domains` are those to dispatch; `listener` is absent in poll-only mode.
    pub fn new(
        server: Server,
        settings: &config::Dispatch,
        domains: Vec<String>,
        waker: Arc<Waker>,
        listener: Option<Arc<ListenerStatus>>,
    ) -> Result<Self> {
        let session = Session { synchronous_commit: settings.synchronous_commit, ..server.session() };
        let pool = server.pool("dispatch", settings.concurrency + 1, &session)?;
        let stats = Arc::new(DispatchStats::default());
        let latch = Latch::alone("dispatcher", "not started yet");
        Ok(Self { server, pool, settings: settings.clone(), domains, waker, listener, stats, latch })
    }

    /// Says through `latch` whether positions are known and the database can be used.
    #[must_use]
    pub fn latched(self, latch: Latch) -> Self {
        Self { latch, ..self }
    }

    /// The counters, to be shared with metrics.
    pub fn stats(&self) -> Arc<DispatchStats> {
        Arc::clone(&self.stats)
    }

    /// Every domain until nothing is left, or until `deadline`; answers what was done, or a closed gate.
    pub async fn run_once(&self, deadline: Duration) -> Result<std::result::Result<Pass, Refusal>> {
        let end = Instant::now() + deadline;
        let client = self.server.take(&self.pool).await?;
        store::dispatch::attach(&client).await?;
        let mut total = Pass::default();
        for domain in &self.domains {
            loop {
                let pass =
                    store::dispatch::pass(&client, domain, self.settings.batch_size, FoundBy::Tick).await?;
                match pass {
                    Err(refusal) => return Ok(Err(refusal)),
                    Ok(pass) => total.add(pass),
                }
                if !total.more || Instant::now() >= end {
                    break;
                }
            }
        }
        Ok(Ok(total))
    }

    /// Dispatches until told to stop.
    pub async fn run(&self, shutdown: Shutdown) -> Result<()> {
        let mut state = self.begin(&shutdown);
        let mut watchdog = tokio::time::interval(systemd::watchdog_interval().unwrap_or(NO_WATCHDOG));
        loop {
            if let Err(error) = self.start_waiting(&mut state).await {
                self.outage(&mut state, error)?;
            }
            tokio::select! {
                biased;
                () = shutdown.requested() => break,
                Some(done) = state.running.next() => self.done(&mut state, done)?,
                () = self.waker.woken() => self.take_wakes(&mut state),
                _ = watchdog.tick() => systemd::alive(), // this loop turns, in an outage too
                () = tokio::time::sleep_until(state.next_poll), if !state.polling => self.start_poll(&mut state),
            }
        }
        while let Some(done) = tokio::select! {
            done = state.running.next() => done,
            () = shutdown.was_cut() => None,
        } {
            if let Done::Drained(domain, Err(error)) = done {
                tracing::warn!(domain = %domain.name, "stopped in the middle: {error}; the position is unchanged");
            }
        }
        Ok(())
    }

    fn begin(&self, shutdown: &Shutdown) -> State {
        let resting = self.domains.iter().map(|name| {
            let domain = Domain {
                name: name.clone(),
                server: self.server.clone(),
                pool: self.pool.clone(),
                settings: self.settings.clone(),
                stats: Arc::clone(&self.stats),
                rhythm: Rhythm::new(&self.settings),
                shutdown: shutdown.clone(),
            };
            (name.clone(), Box::new(domain))
        });
        State {
            resting: resting.collect(),
            waiting: self.domains.iter().map(|name| (name.clone(), FoundBy::Start)).collect(),
            running: FuturesUnordered::new(),
            polling: false,
            next_poll: Instant::now() + poll::pause(self.settings.poll_interval),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            unattached: true,
            in_outage: false,
            closed: None,
        }
    }

    fn take_wakes(&self, state: &mut State) {
        let (domains, all) = self.waker.take();
        if let Some(found_by) = all {
            for name in &self.domains {
                state.waiting.insert(name.clone(), found_by);
            }
        }
        state.waiting.extend(domains.into_iter().filter(|(name, _)| self.domains.contains(name)));
    }

    /// Starts as many waiting domains as there is room for. Nothing starts during an outage but the poll.
    async fn start_waiting(&self, state: &mut State) -> Result<()> {
        if state.waiting.is_empty() || state.in_outage {
            return Ok(());
        }
        if state.unattached {
            self.attach().await?;
            state.unattached = false;
            self.latch.set("");
        }
        let limit = self.settings.concurrency;
        let ready: Vec<(String, FoundBy)> = state
            .waiting
            .iter()
            .filter(|(name, _)| state.resting.contains_key(*name))
            .map(|(name, found_by)| (name.clone(), *found_by))
            .take(limit.saturating_sub(self.domains.len() - state.resting.len()))
            .collect();
        for (name, found_by) in ready {
            state.waiting.remove(&name);
            if let Some(mut domain) = state.resting.remove(&name) {
                state.running.push(Box::pin(async move {
                    let outcome = domain.drain(found_by).await;
                    Done::Drained(domain, outcome)
                }));
            }
        }
        Ok(())
    }

    async fn attach(&self) -> Result<()> {
        let client = self.server.take(&self.pool).await?;
        let outcome = store::dispatch::attach(&client).await;
        let restored = hand_back(client, outcome)?;
        if restored {
            tracing::warn!(
                "a restored dump: kept arrivals are read again, the unique key of job_queue absorbs repeats"
            );
        }
        Ok(())
    }

    fn start_poll(&self, state: &mut State) {
        state.polling = true;
        let (server, pool) = (self.server.clone(), self.pool.clone());
        let (domains, listener) = (self.domains.clone(), self.listener.clone());
        state.running.push(Box::pin(async move {
            Done::Polled(poll::poll(&server, &pool, &domains, listener.as_deref()).await)
        }));
    }

    fn done(&self, state: &mut State, done: Done) -> Result<()> {
        match done {
            Done::Drained(domain, outcome) => {
                let name = domain.name.clone();
                state.resting.insert(name.clone(), domain);
                match outcome {
                    Ok(Drained::Idle) => state.gate(None),
                    Ok(Drained::Refused(refusal)) => state.gate(Some(refusal.reason)),
                    Err(error) => {
                        state.waiting.insert(name, FoundBy::Start);
                        return self.outage(state, error);
                    }
                }
            }
            Done::Polled(outcome) => {
                state.polling = false;
                state.next_poll = Instant::now() + poll::pause(self.settings.poll_interval);
                match outcome {
                    Ok(answer) => self.polled(state, answer),
                    Err(error) => return self.outage(state, error),
                }
            }
        }
        Ok(())
    }

    fn polled(&self, state: &mut State, answer: Answer) {
        if state.in_outage {
            tracing::info!(database = %self.server.describe(), "the database answers again");
            state.in_outage = false;
            state.unattached = true;
            state.backoff.reset();
            for name in &self.domains {
                state.waiting.insert(name.clone(), FoundBy::Start);
            }
        }
        match answer {
            Answer::Refused(refusal) => state.gate(Some(refusal.reason)),
            Answer::Done(answer) => {
                state.gate(None);
                let found = answer.get("domains").and_then(serde_json::Value::as_array);
                for name in found.into_iter().flatten().filter_map(serde_json::Value::as_str) {
                    state.waiting.entry(name.to_owned()).or_insert(FoundBy::Poll);
                }
            }
        }
    }

    /// An error that may pass is logged once and waited out; any other ends the run.
    fn outage(&self, state: &mut State, error: crate::error::Error) -> Result<()> {
        if matches!(error.kind(), Kind::Denied | Kind::Schema | Kind::Usage) {
            return Err(error);
        }
        if !state.in_outage {
            self.latch.clear(error.to_string());
            self.stats.outage();
            let hint = error.hint_text().unwrap_or("trying again");
            tracing::error!(database = %self.server.describe(), "{error}; {hint}");
        }
        state.in_outage = true;
        state.next_poll = Instant::now() + state.backoff.next_delay();
        Ok(())
    }
}
