//! The name that the agent works under: registered at the start, beaten for while the server runs, left at its end; and
//! what is leased under it.
//!
//! The server beats, also when the agent is idle or a gate is closed: it is what can fall silent. Leases it does not
//! renew, so that an agent that hangs loses its job, and somebody else gets it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use serde_json::json;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

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
use crate::store::work::Leases;

/// Longest that leaving may take.
const LEAVING: Duration = Duration::from_secs(5);

/// One name and its leases.
pub(super) struct Executor {
    beater: Beater,
    kind: ExecutorKind,
    takeover: bool,
    pub(super) lease: Option<Duration>,
    cadence: Duration,
    server: Server,
    pool: Pool,
    held: Mutex<Held>,
    /// Calls that change what is leased, one at a time; false when it has left.
    turn: tokio::sync::Mutex<bool>,
}

#[derive(Debug, Default)]
struct Held {
    leases: BTreeMap<Uuid, i64>,
    registered: bool,
    /// Since when a claim may have leased jobs that we have not heard of.
    unsure: Option<Instant>,
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
            pool: server.pool("mcp-executor", 2, &session)?,
            server: server.clone(),
            held: Mutex::default(),
            turn: tokio::sync::Mutex::new(true),
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

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut told = !self.held().registered;
        let mut pause = if told { backoff.next_delay() } else { self.cadence };
        while shutdown.pause(pause).await {
            pause = match self.beat().await {
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
            .ask("registering", async |client| {
                store::heartbeats::register(client, &self.beater, registration).await
            })
            .await?;
        self.held().registered = matches!(answer, Answer::Done(_));
        Ok(answer)
    }

    /// One beat; a name that is not known any more, or not yet, is registered.
    pub(super) async fn beat(&self) -> Result<Answer> {
        if !self.held().registered {
            return self.register().await;
        }
        let current = self.held().leases.keys().next().copied();
        let answer = self
            .ask("beating", async |client| store::heartbeats::tick(client, &self.beater, current).await)
            .await?;
        match answer {
            Answer::Refused(refusal) if refusal.reason == "executor_not_registered" => self.register().await,
            answer => Ok(answer),
        }
    }

    /// Does something with a connection, within the deadline of one statement.
    pub(super) async fn ask<T>(&self, what: &str, ask: impl AsyncFnOnce(&Object) -> Result<T>) -> Result<T> {
        let client = self.server.take(&self.pool).await?;
        let outcome = self.server.in_time(1, what, ask(&client)).await;
        hand_back(client, outcome)
    }

    /// The turn to change what is leased; none when the server is stopping.
    pub(super) async fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, bool>> {
        Some(self.turn.lock().await).filter(|open| **open)
    }

    /// A claim begins: until its answer is here, jobs may be ours that we do not know.
    pub(super) fn becomes_unsure(&self) {
        self.held().unsure.get_or_insert_with(Instant::now);
    }

    /// Its answer is here: these are ours.
    pub(super) fn holds(&self, leases: impl IntoIterator<Item = (Uuid, i64)>) {
        let mut held = self.held();
        held.unsure = None;
        held.leases.extend(leases);
    }

    /// A job is not ours any more.
    pub(super) fn lets_go(&self, (id, token): (Uuid, i64)) {
        let mut held = self.held();
        if held.leases.get(&id) == Some(&token) {
            held.leases.remove(&id);
        }
    }

    /// Gives back what a claim leased whose answer never came.
    pub(super) async fn release_unknown(&self) -> Result<()> {
        let (since, known) = {
            let held = self.held();
            let Some(since) = held.unsure else { return Ok(()) };
            (since, held.leases.keys().copied().collect::<Vec<_>>())
        };
        let within = since.elapsed() + Duration::from_secs(1);
        self.ask("giving back unknown jobs", async |client| {
            store::work::release_unknown(client, &self.beater, within, &known).await
        })
        .await?;
        self.held().unsure = None;
        Ok(())
    }

    /// Gives back what is leased and leaves the name to another process. What cannot be told now, the reaper does.
    pub(super) async fn leave(&self) {
        let leave = async {
            *self.turn.lock().await = false; // after the call that is under way
            self.release_unknown().await?;
            let leases: Leases = self.held().leases.iter().map(|(id, token)| (*id, *token)).collect();
            if !leases.is_empty() {
                self.ask("giving jobs back", async |client| store::work::release(client, &leases).await)
                    .await?;
                tracing::info!(executor = %self.name(), "gave {} jobs back", leases.len());
            }
            if self.held().registered {
                self.ask("leaving", async |client| store::heartbeats::leave(client, &self.beater).await)
                    .await?;
            }
            Ok(())
        };
        let late = Error::new(Kind::Timeout, "giving back: the database has not answered");
        if let Err(error) = timeout(LEAVING, leave).await.unwrap_or(Err(late)) {
            tracing::warn!(executor = %self.name(), "what is leased comes back when its lease has ended: {error}");
        }
    }
}
