//! The name that the agent works under: registered at the start, beaten for while the server runs, left at its end; and
//! what is leased under it.
//!
//! The server beats, also when the agent is idle or a gate is closed: it is what can fall silent. Leases it does not
//! renew, so that an agent that hangs loses its job, and somebody else gets it.

mod held;
mod leases;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use serde_json::json;
use tokio::time::{Instant, timeout};

use self::held::Held;
use super::Name;
use crate::backoff::Backoff;
use crate::config::Settings;
use crate::error::{Error, Kind, Result};
use crate::host;
use crate::model::executor::ExecutorKind;
use crate::model::refusal::{Answer, Refusal};
use crate::postgres::pool::hand_back;
use crate::postgres::{Server, Session};
use crate::shutdown::Shutdown;
use crate::store;
use crate::store::heartbeats::{Beater, Registration};

/// What is said of a server that keeps silent at the end.
const NO_ANSWER: &str = "giving back: the database has not answered";
/// Longest that leaving may take, and each step of it.
const LEAVING: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_secs(2);
/// How long leaving waits for a claim that is under way, so that its jobs go back, too.
const TURN: Duration = Duration::from_secs(1);
/// Calls of the agent's that may be at the database at the same time.
const CALLS: usize = 4;

/// One name and its leases.
pub(super) struct Executor {
    beater: Beater,
    kind: ExecutorKind,
    takeover: bool,
    pub(super) lease: Option<Duration>,
    cadence: Duration,
    server: Server,
    /// For what the agent calls.
    calls: Pool,
    /// For beats and for leaving, which wait for no call.
    control: Pool,
    state: Mutex<State>,
    /// Claims, one at a time: of one alone it is known what an answer that never came may have leased.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    held: Held,
    registered: bool,
    /// Since when a claim may have leased jobs that we have not heard of.
    unsure: Option<Instant>,
    has_left: bool,
}

impl Executor {
    /// Opens nothing yet.
    pub(super) fn new(server: &Server, settings: &Settings, name: Name) -> Result<Self> {
        let session = Session { synchronous_commit: true, ..server.session() };
        Ok(Self {
            beater: Beater::new(name.name),
            kind: name.kind,
            takeover: name.takeover,
            lease: (!settings.worker.lease.is_zero()).then_some(settings.worker.lease),
            cadence: settings.maintenance.heartbeat_interval,
            calls: server.pool("mcp-executor", CALLS, &session)?,
            control: server.pool("mcp-heartbeat", 1, &session)?,
            server: server.clone(),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.beater.name
    }

    pub(super) fn beater(&self) -> &Beater {
        &self.beater
    }

    pub(super) fn kind(&self) -> ExecutorKind {
        self.kind
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers the name. A database that is not there is left to [`Self::keep`].
    pub(super) async fn begin(&self, patience: Duration) -> Result<std::result::Result<(), Refusal>> {
        let waited = Error::new(Kind::Timeout, "registering: the database has not answered yet");
        match timeout(patience, self.register()).await.unwrap_or(Err(waited)) {
            Ok(Answer::Refused(refusal)) => Ok(Err(refusal)),
            Ok(Answer::Done(_)) => {
                tracing::info!(executor = %self.name(), kind = %self.kind, "working under this name");
                Ok(Ok(()))
            }
            Err(error) if error.is_retryable() => {
                tracing::warn!(executor = %self.name(), hint = error.hint_text(), "{}", error.trying_again());
                Ok(Ok(()))
            }
            Err(error) => Err(error),
        }
    }

    /// Beats until it is told to end.
    pub(super) async fn keep(&self, shutdown: &Shutdown) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut told = !self.state().registered;
        let mut pause = if told { backoff.next_delay() } else { self.cadence };
        while shutdown.pause(pause).await {
            let beat = tokio::select! {
                // what it has leased is not to wait for a beat
                () = shutdown.requested() => return,
                beat = self.beat() => beat,
            };
            pause = match beat {
                Ok(answer) => {
                    self.tell(&answer, &mut told);
                    backoff.reset();
                    self.cadence
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(executor = %self.name(), hint = error.hint_text(), "{}", error.trying_again());
                    }
                    backoff.next_delay()
                }
            };
        }
    }

    /// A change is said once.
    fn tell(&self, answer: &Answer, told: &mut bool) {
        match answer {
            Answer::Done(_) if std::mem::replace(told, false) => {
                tracing::info!(executor = %self.name(), "beating again");
            }
            Answer::Refused(refusal) if !std::mem::replace(told, true) => {
                let hint = refusal.hint();
                tracing::warn!(executor = %self.name(), hint, "no beat is taken: {}", refusal.reason);
            }
            _ => {}
        }
    }

    async fn register(&self) -> Result<Answer> {
        let metadata = json!({
            "role": "agent",
            "version": env!("CARGO_PKG_VERSION"),
            "host": host::name(),
            "pid": std::process::id(),
        });
        let registration = Registration {
            kind: self.kind,
            cadence: self.cadence,
            metadata: &metadata,
            takeover: self.takeover,
        };
        let answer = self
            .ask_through(&self.control, "registering", async |client| {
                store::heartbeats::register(client, &self.beater, registration).await
            })
            .await?;
        self.state().registered = matches!(answer, Answer::Done(_));
        Ok(answer)
    }

    /// One beat; a name that is not known any more, or not yet, is registered.
    pub(super) async fn beat(&self) -> Result<Answer> {
        if !self.state().registered {
            return self.register().await;
        }
        let current = self.state().held.current(Instant::now());
        let answer = self
            .ask_through(&self.control, "beating", async |client| {
                store::heartbeats::tick(client, &self.beater, current).await
            })
            .await?;
        match answer {
            Answer::Refused(refusal) if refusal.reason == "executor_not_registered" => self.register().await,
            answer => Ok(answer),
        }
    }

    /// Does for the agent something with a connection, within the deadline of one statement.
    pub(super) async fn ask<T>(&self, what: &str, ask: impl AsyncFnOnce(&Object) -> Result<T>) -> Result<T> {
        self.ask_through(&self.calls, what, ask).await
    }

    async fn ask_through<T>(
        &self,
        pool: &Pool,
        what: &str,
        ask: impl AsyncFnOnce(&Object) -> Result<T>,
    ) -> Result<T> {
        let client = self.server.take(pool).await?;
        let outcome = self.server.in_time(1, what, ask(&client)).await;
        hand_back(client, outcome)
    }

    /// The turn to claim.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Whether the server is stopping: what is leased now would be nobody's.
    pub(super) fn has_left(&self) -> bool {
        self.state().has_left
    }

    /// Gives back what is leased and leaves the name to another process. Each step is tried, whatever became of those
    /// before; what cannot be told now, the reaper does.
    pub(super) async fn leave(&self) {
        self.state().has_left = true;
        self.control.retain(|_, _| false); // it may be busy with a beat that was cut off
        let leave = async {
            let _turn = timeout(TURN, self.turn.lock()).await; // one that hangs longer is fenced by its tokens
            let known = self.step(self.release(&self.control, false)).await;
            let unknown = self.step(self.release_unknown(&self.control)).await;
            let name = self.step(self.leave_name()).await;
            [known, unknown, name]
                .into_iter()
                .filter_map(Result::err)
                .fold(None, |earlier, error| Some(Error::and(earlier, error)))
        };
        let late = Error::new(Kind::Timeout, NO_ANSWER);
        if let Some(error) = timeout(LEAVING, leave).await.unwrap_or(Some(late)) {
            tracing::warn!(executor = %self.name(), "what is leased comes back when its lease has ended: {error}");
        }
    }

    async fn step(&self, step: impl Future<Output = Result<()>>) -> Result<()> {
        timeout(STEP, step).await.unwrap_or_else(|_| {
            self.control.retain(|_, _| false); // its connection is busy with what was cut off
            Err(Error::new(Kind::Timeout, NO_ANSWER))
        })
    }

    async fn leave_name(&self) -> Result<()> {
        if !self.state().registered {
            return Ok(());
        }
        let leave = async |client: &Object| store::heartbeats::leave(client, &self.beater).await;
        self.ask_through(&self.control, "leaving", leave).await.map(|_| ())
    }
}
