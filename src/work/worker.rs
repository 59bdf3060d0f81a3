//! A worker: starts its parts, lets them run, and stops them in two steps.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::board::{Board, Limits};
use super::claimer::Claimer;
use super::guard::GRACE;
use super::handler::Handlers;
use super::lent::Lender;
use super::shared::{Kinds, Outage, Shared};
use super::sql::SqlRunner;
use super::stats::{WorkerCounts, WorkerStats};
use super::stop::StopReason;
use super::waker::Waker;
use super::{keeper, name, reporter, runner};
use crate::config::Settings;
use crate::error::{Error, Kind, Result};
use crate::host;
use crate::model::refusal::Refusal;
use crate::postgres::listener::{Listener, ListenerStatus};
use crate::postgres::{Server, Session};
use crate::shutdown::Shutdown;
use crate::store;
use crate::store::heartbeats::Beater;

/// Of the time for stopping, how much is kept for ending what did not end by itself, and for saying so.
const RESERVE: Duration = Duration::from_secs(4);
/// Between two looks for cancellations; a notification tells sooner.
const LOOK: Duration = Duration::from_secs(10);
/// How long a hard stop may take to give jobs back.
const CUT: Duration = Duration::from_secs(2);
/// How many batches of outcomes may be on their way at once.
const REPORTERS: usize = 2;

/// Claims jobs under one executor's name and runs them by its handlers.
///
/// Settings: `[worker]`; further `[dispatch] listen`, `[listener]`, `[maintenance] heartbeat_interval` and
/// `[shutdown] deadline`. Needs up to three connections, one for LISTEN, and one for each SQL function and
/// each handler in a transaction that runs.
pub struct Worker {
    pub(super) shared: Arc<Shared>,
    waker: Arc<Waker>,
    listener: Option<Listener>,
    /// How long running jobs may go on after the first step of stopping.
    patience: Duration,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("name", &self.shared.beater.name).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker of `settings.worker`; opens nothing yet. Without an executor's name it makes one up.
    pub fn new(server: &Server, settings: &Settings, handlers: Handlers) -> Result<Self> {
        let worker = settings.worker.clone();
        let stats = Arc::new(WorkerStats::default());
        let limits = Limits {
            concurrency: worker.concurrency,
            prefetch: worker.prefetch_limit(),
            batch: worker.batch_limit(),
        };
        let direct = || Server::direct(&settings.database);
        let listener = settings.dispatch.listen.then(direct).transpose()?;
        let lender = Lender::new(server, worker.concurrency, worker.time_limit)?;
        let sql = handlers.has_sql().then(|| SqlRunner::new(lender.clone(), worker.time_limit));
        let forgetful = Session { synchronous_commit: false, ..server.session() };
        let own_name = match worker.executor_name.as_str() {
            "" => host::unique_name(worker.kind.as_str()),
            given => given.to_owned(),
        };
        let waker = Arc::new(Waker::default());
        let listener = listener
            .map(|server| Listener::new(server, &settings.listener).standing(waker.standing(&own_name)));
        let shared = Shared {
            beater: Beater::new(own_name),
            listens: listener.is_some(),
            kinds_told: AtomicBool::new(false),
            takeover: false,
            taken_over: AtomicBool::new(false),
            cadence: settings.maintenance.heartbeat_interval,
            cancel_look: if settings.dispatch.listen { LOOK } else { worker.poll_interval.min(LOOK) },
            server: server.clone(),
            control: server.pool("worker", 2, &forgetful)?,
            reports: server.pool("worker-reports", REPORTERS, &server.session())?,
            board: Board::new(limits, Arc::clone(&stats)),
            handlers,
            lender,
            sql,
            kinds: Kinds::default(),
            outage: Outage::default(),
            unsure: Mutex::default(),
            stats,
            spans: crate::telemetry::Spans::default(),
            settings: worker,
        };
        let deadline = settings.shutdown.deadline;
        let patience = deadline.saturating_sub(RESERVE).max(deadline / 2);
        Ok(Self { shared: Arc::new(shared), waker, listener, patience })
    }

    /// Takes its name from a process that still beats under it, instead of waiting until that one is stale.
    #[must_use]
    pub fn taking_over(mut self) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.takeover = true;
        }
        self
    }

    /// The name that it claims under.
    pub fn name(&self) -> &str {
        &self.shared.beater.name
    }

    /// The counters, to be shared with metrics.
    pub fn stats(&self) -> Arc<WorkerStats> {
        Arc::clone(&self.shared.stats)
    }

    /// The listener's counters, to be shared with metrics; none in poll-only mode.
    pub fn listener(&self) -> Option<Arc<ListenerStatus>> {
        self.listener.as_ref().map(Listener::status)
    }

    /// Runs jobs until told to stop; answers what was done.
    ///
    /// The first step of `shutdown` gives back what was not started and lets running jobs go on for most of
    /// `[shutdown] deadline`; then they are stopped and given back. The second step stops at once.
    ///
    /// # Errors
    /// What trying again cannot mend: denied access, a missing schema, a name that another role owns.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<WorkerCounts> {
        let listener = self.listener.take();
        let status = listener.as_ref().map(Listener::status);
        let claimer = Claimer::new(Arc::clone(&self.shared), Arc::clone(&self.waker), status);
        let mut crew = JoinSet::new();
        let ended = tokio::select! {
            ended = self.work(claimer, &mut crew, listener, &shutdown) => ended,
            () = shutdown.was_cut() => Ok(()),
        };
        self.stop(crew, &shutdown).await;
        name::leave(&self.shared, self.shared.settings.executor_name.is_empty(), CUT).await;
        ended.map(|()| self.shared.stats.counts())
    }

    /// Runs everything that is ready, and what becomes ready meanwhile; answers what was done, or a closed gate.
    /// Then the name is forgotten: nobody beats between two runs, and nobody is to be alarmed by it.
    ///
    /// # Errors
    /// As [`Self::run`]; further any failure to claim.
    pub async fn run_once(&self, shutdown: Shutdown) -> Result<Result<WorkerCounts, Refusal>> {
        let mut claimer = Claimer::new(Arc::clone(&self.shared), Arc::clone(&self.waker), None);
        let mut crew = JoinSet::new();
        let all = async {
            if let Some(alive) = name::introduce(&self.shared).await? {
                return Ok(Err(alive));
            }
            self.start(&mut crew);
            tokio::select! {
                ended = claimer.run_once(&shutdown) => ended,
                failed = failure(&mut crew) => Err(failed),
            }
        };
        let ended = tokio::select! {
            ended = all => ended,
            () = shutdown.was_cut() => Ok(Ok(())),
        };
        self.stop(crew, &shutdown).await;
        name::leave(&self.shared, true, CUT).await; // refused when another process has the name
        ended.map(|done| done.map(|()| self.shared.stats.counts()))
    }

    async fn work(
        &self,
        mut claimer: Claimer,
        crew: &mut JoinSet<()>,
        listener: Option<Listener>,
        shutdown: &Shutdown,
    ) -> Result<()> {
        if !name::begin(&self.shared, shutdown).await? {
            return Ok(());
        }
        self.start(crew);
        tracing::info!(
            at = %self.shared.server.describe(),
            concurrency = self.shared.settings.concurrency,
            mode = if listener.is_some() { "notify and poll" } else { "poll only" },
            "{} is working",
            self.shared.beater.name
        );
        if let Some(listener) = listener {
            let (waker, stats, name) = (Arc::clone(&self.waker), self.stats(), self.name().to_owned());
            let channels = Waker::channels(self.shared.settings.kind);
            let shutdown = shutdown.clone();
            crew.spawn(async move {
                listener.run(channels, move |wake| waker.wake(&wake, &name, &stats), shutdown).await;
            });
        }
        // a task of its own, beside those that wake it and those that it wakes
        let (mut claiming, shutdown) = (JoinSet::new(), shutdown.clone());
        claiming.spawn(async move { claimer.run(&shutdown).await });
        tokio::select! {
            ended = claiming.join_next() => match ended {
                Some(Ok(ended)) => ended,
                Some(Err(panic)) => Err(broken(panic)),
                None => Ok(()),
            },
            failed = failure(crew) => Err(failed),
        }
    }

    /// Starts keeper, reporter and runners.
    fn start(&self, crew: &mut JoinSet<()>) {
        let shared = &self.shared;
        shared.board.open();
        crew.spawn(keeper::run(Arc::clone(shared), Arc::clone(&self.waker)));
        for _ in 0..REPORTERS {
            crew.spawn(reporter::run(Arc::clone(shared)));
        }
        for _ in 0..shared.settings.concurrency {
            crew.spawn(runner::run(Arc::clone(shared)));
        }
    }

    /// Gives back what was not started, waits for what runs, ends what does not end, and reports it all.
    async fn stop(&self, mut crew: JoinSet<()>, shutdown: &Shutdown) {
        let board = &self.shared.board;
        board.give_back();
        board.close();
        let all = async {
            if board.running() > 0 {
                tracing::info!("waiting for {} running jobs", board.running());
            }
            self.until(Instant::now() + self.patience, || board.running() == 0).await;
            if board.running() > 0 {
                tracing::warn!("{} jobs did not end in time: they are given back", board.running());
                board.stop(None, StopReason::Shutdown);
            }
            self.until(Instant::now() + RESERVE - GRACE / 2, || board.held() == 0).await;
        };
        tokio::select! {
            () = all => {}
            () = shutdown.was_cut() => {}
        }
        crew.shutdown().await;
        if board.held() > 0 || self.shared.unsure_for().is_some() {
            self.abandon().await;
        }
    }

    /// Waits until `holds`, or the deadline.
    async fn until(&self, deadline: Instant, holds: impl Fn() -> bool) {
        while !holds() {
            tokio::select! {
                () = self.shared.board.changed() => {}
                () = sleep_until(deadline) => return,
            }
        }
    }

    /// The last try to give jobs back, in a hurry: those held, and those of a claim that was cut. What is left stays
    /// leased until its lease ends.
    async fn abandon(&self) {
        let leases = self.shared.board.abandon();
        let release = async {
            let client = self.shared.server.take(&self.shared.reports).await?;
            store::work::release(&client, &leases).await?;
            self.shared.release_unknown(&client).await
        };
        let how = match timeout(CUT, release).await {
            Ok(Ok(())) => "given back",
            _ => "they stay leased; `reveille health` shows them once their leases have ended",
        };
        if !leases.is_empty() {
            tracing::warn!("{} jobs were cut: {how}", leases.len());
        }
    }
}

/// Ends when a part of the worker fails, which none should.
async fn failure(crew: &mut JoinSet<()>) -> Error {
    loop {
        match crew.join_next().await {
            Some(Ok(())) => {}
            Some(Err(panic)) => return broken(panic),
            None => std::future::pending().await,
        }
    }
}

fn broken(panic: JoinError) -> Error {
    Error::new(Kind::Io, format!("a part of the worker failed: {panic}")).because(panic)
}
