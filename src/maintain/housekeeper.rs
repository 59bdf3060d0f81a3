//! The housekeeper: beats for the sidecar, also when idle and when gated, tells who else does not beat any more, and
//! prunes what nobody reads again.
//!
//! Settings: `[maintenance]`. A round is one statement a chore; any number of sidecars may keep house.

use std::time::Duration;

use deadpool_postgres::Pool;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::silences::{Silences, Teller};
use crate::backoff::Trouble;
use crate::config;
use crate::error::{Kind, Result};
use crate::host;
use crate::model::executor::ExecutorKind;
use crate::model::refusal::{Answer, remedy};
use crate::postgres::Server;
use crate::postgres::pool::hand_back;
use crate::shutdown::Shutdown;
use crate::store;
use crate::store::heartbeats::{Beater, Registration};

/// Pauses between tries, from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long forgetting the name may delay the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Beats and prunes.
#[derive(Debug)]
pub struct Housekeeper {
    server: Server,
    pool: Pool,
    settings: config::Maintenance,
    beater: Beater,
}

/// What is known of this process's heartbeat.
#[derive(Debug, Default)]
struct Pulse {
    registered: bool,
    told_refusal: bool,
    silences: Teller,
}

/// What one round removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// Arrivals that every position has passed.
    pub arrivals: u64,
    /// Passes older than `keep_passes_for`.
    pub passes: u64,
}

impl Housekeeper {
    /// Beats under the name of the settings, else under one of its own: two processes of one name would hide each
    /// other's silence.
    pub fn new(server: Server, pool: Pool, settings: &config::Maintenance) -> Self {
        let name = match settings.executor_name.as_str() {
            "" => host::unique_name("dispatcher"),
            given => given.to_owned(),
        };
        Self { server, pool, settings: settings.clone(), beater: Beater::new(name) }
    }

    /// Keeps house until told to stop.
    pub async fn run(&self, shutdown: Shutdown) -> Result<()> {
        let mut trouble = None;
        let mut next_prune = Instant::now() + self.settings.interval;
        let mut pulse = Pulse::default();
        loop {
            let round = tokio::select! {
                // a batch that is cut off leaves nothing behind, and the next one begins where it began
                () = shutdown.requested() => return Ok(()),
                round = self.round(&mut pulse, &mut next_prune) => round,
            };
            let pause = match round {
                Ok(pause) => {
                    trouble = None;
                    pause
                }
                Err(error) if matches!(error.kind(), Kind::Denied | Kind::Schema) => return Err(error),
                Err(error) => {
                    pulse.registered = false;
                    let trouble = trouble.get_or_insert_with(|| Trouble::begin(FIRST_PAUSE, LONGEST_PAUSE));
                    // a server that is away is the dispatcher's to tell
                    if trouble.failed(error.sort()) && error.kind() != Kind::Unreachable {
                        tracing::warn!("housekeeping waits: {}", error.trying_again());
                    }
                    trouble.next_try().saturating_duration_since(Instant::now().into_std())
                }
            };
            if !shutdown.pause(pause).await {
                return Ok(());
            }
        }
    }

    /// Says goodbye when the sidecar has ended well: a name that was made up is forgotten, a given one is free for the
    /// next process. Whoever is killed stays, and goes stale.
    pub async fn leave(&self) {
        let leave = async {
            self.pool.retain(|_, _| false); // it may be busy with a statement that was cut off
            let client = self.server.take(&self.pool).await?;
            if self.settings.executor_name.is_empty() {
                store::heartbeats::retire(&client, &self.beater).await
            } else {
                store::heartbeats::leave(&client, &self.beater).await
            }
        };
        match timeout(FAREWELL, leave).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!("{} stays registered: {error}", self.beater.name),
            Err(_) => tracing::debug!("{} stays registered: no answer within {FAREWELL:?}", self.beater.name),
        }
    }

    async fn round(&self, pulse: &mut Pulse, next_prune: &mut Instant) -> Result<Duration> {
        self.beat(pulse).await?;
        // a statement of its own: what is wrong with others must not undo our own beat
        pulse.silences.tell(self.look().await?);
        if Instant::now() >= *next_prune {
            *next_prune = Instant::now() + self.settings.interval;
            let mut pruned = Pruned::default();
            while self.prune(&mut pruned).await? {
                self.beat(pulse).await?; // days of arrivals take many batches
            }
        }
        Ok(self.settings.heartbeat_interval.min(self.settings.interval))
    }

    async fn beat(&self, pulse: &mut Pulse) -> Result<()> {
        let client = self.server.take(&self.pool).await?;
        let beat = async {
            if pulse.registered {
                return store::heartbeats::tick(&client, &self.beater, None).await;
            }
            let metadata = json!({"role": "dispatcher", "version": env!("CARGO_PKG_VERSION")});
            // its kind is that of what runs beside Postgres; the role says that it claims nothing
            let registration = Registration {
                kind: ExecutorKind::PgWorker,
                cadence: self.settings.heartbeat_interval,
                metadata: &metadata,
                takeover: false,
            };
            store::heartbeats::register(&client, &self.beater, registration).await
        };
        let outcome = self.server.in_time(1, "beating", beat).await;
        let answer = hand_back(client, outcome)?;
        if let Answer::Refused(refusal) = &answer
            && !pulse.told_refusal
        {
            pulse.told_refusal = true;
            let hint = remedy(&refusal.reason).unwrap_or("see the contract's reasons");
            tracing::warn!(executor = %self.beater.name, "no heartbeat, dispatch goes on: {} ({hint})", refusal.reason);
        }
        pulse.registered = matches!(answer, Answer::Done(_));
        Ok(())
    }

    /// Looks who does not beat any more, and who does again.
    pub async fn look(&self) -> Result<Silences> {
        let client = self.server.take(&self.pool).await?;
        let outcome = self.server.in_time(1, "looking for silences", store::heartbeats::look(&client)).await;
        Ok(Silences::of(&hand_back(client, outcome)?))
    }

    /// One round of pruning, in batches until nothing is left; counted batch by batch, for who cuts it off.
    pub async fn run_once(&self, pruned: &mut Pruned) -> Result<()> {
        while self.prune(pruned).await? {}
        Ok(())
    }

    /// One batch; whether there is more.
    async fn prune(&self, pruned: &mut Pruned) -> Result<bool> {
        let client = self.server.take(&self.pool).await?;
        let prune = store::dispatch::prune(&client, self.settings.keep_passes_for);
        let outcome = self.server.in_time(1, "pruning arrivals", prune).await;
        let answer = hand_back(client, outcome)?;
        let count = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or(0);
        pruned.arrivals += count("arrivals");
        pruned.passes += count("passes");
        Ok(answer.get("more").and_then(Value::as_bool) == Some(true))
    }
}
