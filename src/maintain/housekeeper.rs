//! The housekeeper: beats for each part of the sidecar that turns, also when idle and when gated, tells who else does
//! not beat any more and what work nobody may claim, and prunes what nobody reads again.
//!
//! Settings: `[maintenance]`. A round is one statement a chore; any number of sidecars may keep house.

use std::time::Duration;

use deadpool_postgres::Pool;
use serde_json::Value;
use tokio::time::Instant;

use super::pulse::{Known, Pulse};
use super::silences::{self, Silences};
use super::unclaimed;
use crate::alive::Alive;
use crate::backoff::Trouble;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::postgres::Server;
use crate::postgres::pool::hand_back;
use crate::shutdown::Shutdown;
use crate::store;
use crate::store::backlog::{self, PATIENCE, Unclaimed};

/// Pauses between tries, from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Beats and prunes.
#[derive(Debug)]
pub struct Housekeeper {
    server: Server,
    pool: Pool,
    settings: config::Maintenance,
    pulse: Pulse,
}

/// What one round removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// Arrivals that every position has passed.
    pub arrivals: u64,
    /// Passes older than `keep_passes_for`.
    pub passes: u64,
}

/// What a round knows of those before it.
#[derive(Debug)]
struct Memory {
    known: Known,
    silences: silences::Teller,
    unclaimed: unclaimed::Teller,
    next_chores: Instant,
    /// The last look also asked about backlog, and failed: the next one asks for silences alone.
    asked_in_vain: bool,
}

impl Housekeeper {
    /// Beats for nobody yet.
    pub fn new(server: Server, pool: Pool, settings: &config::Maintenance) -> Self {
        let pulse = Pulse::new(server.clone(), pool.clone(), settings);
        Self { server, pool, settings: settings.clone(), pulse }
    }

    /// Beats for a part of the sidecar, too, while that turns.
    #[must_use]
    pub fn beating_for(mut self, role: &'static str, alive: Alive) -> Self {
        self.pulse.add(role, alive);
        self
    }

    /// Keeps house until told to stop.
    pub async fn run(&self, shutdown: Shutdown) -> Result<()> {
        let mut trouble = None;
        let mut memory = Memory {
            known: Known::default(),
            silences: silences::Teller::default(),
            unclaimed: unclaimed::Teller::default(),
            next_chores: Instant::now() + self.settings.interval,
            asked_in_vain: false,
        };
        loop {
            let round = tokio::select! {
                // a batch that is cut off leaves nothing behind, and the next one begins where it began
                () = shutdown.requested() => return Ok(()),
                round = self.round(&mut memory) => round,
            };
            let pause = match round {
                Ok(pause) => {
                    trouble = None;
                    pause
                }
                Err(error) if matches!(error.kind(), Kind::Denied | Kind::Schema) => return Err(error),
                Err(error) => {
                    memory.known.doubt();
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

    /// Says goodbye when the sidecar has ended well. Whoever is killed stays, and goes stale.
    pub async fn leave(&self) {
        self.pulse.leave().await;
    }

    async fn round(&self, memory: &mut Memory) -> Result<Duration> {
        self.pulse.beat(&mut memory.known).await?;
        let is_due = Instant::now() >= memory.next_chores;
        memory.asked_in_vain = is_due && !memory.asked_in_vain;
        // a statement of its own: what is wrong with others must not undo our own beat
        let (silences, unclaimed) = self.ask(memory.asked_in_vain.then_some(PATIENCE)).await?;
        memory.asked_in_vain = false;
        memory.silences.tell(silences);
        if let Some(found) = unclaimed {
            memory.unclaimed.tell(&found);
        }
        if is_due {
            memory.next_chores = Instant::now() + self.settings.interval;
            self.chores(&mut Pruned::default(), Some(&mut memory.known)).await?;
        }
        Ok(self.settings.heartbeat_interval.min(self.settings.interval))
    }

    /// Looks who does not beat any more, and who does again.
    pub async fn look(&self) -> Result<Silences> {
        Ok(self.ask(None).await?.0)
    }

    /// Looks what has waited for a minute, and no live executor may claim.
    pub async fn unclaimed(&self) -> Result<Vec<Unclaimed>> {
        let client = self.server.take(&self.pool).await?;
        let look = backlog::unclaimed(&client, PATIENCE);
        let outcome = self.server.in_time(1, "looking for unclaimed backlog", look).await;
        hand_back(client, outcome)
    }

    /// Looks for silences, and, given a patience, for unclaimed backlog by the same statement.
    async fn ask(&self, patience: Option<Duration>) -> Result<(Silences, Option<Vec<Unclaimed>>)> {
        let client = self.server.take(&self.pool).await?;
        let look = store::heartbeats::look(&client, patience);
        let outcome = self.server.in_time(1, "looking for silences", look).await;
        let (silences, unclaimed) = hand_back(client, outcome)?;
        Ok((Silences::of(&silences), unclaimed))
    }

    /// One round of chores; what is pruned is counted batch by batch, for who cuts it off.
    pub async fn run_once(&self, pruned: &mut Pruned) -> Result<()> {
        self.chores(pruned, None).await
    }

    /// Each chore is a statement of its own, in batches until nothing is left: one that fails holds up none of the others,
    /// and is tried again in the next round. Beats between batches: days of arrivals take many.
    async fn chores(&self, pruned: &mut Pruned, mut known: Option<&mut Known>) -> Result<()> {
        let mut failed: Option<Error> = None;
        for chore in [Chore::Prune, Chore::Order, Chore::Workflows, Chore::Routes] {
            let mut batches = 0;
            loop {
                batches += 1;
                match self.chore(chore, pruned).await {
                    Ok(more) if !more || batches == chore.batches() => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == Kind::Unreachable => return Err(Error::and(failed, error)),
                    Err(error) => {
                        failed = Some(Error::and(failed, error));
                        break;
                    }
                }
                if let Some(known) = known.as_deref_mut() {
                    self.pulse.beat(known).await?;
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// One batch of a chore; whether there is more.
    async fn chore(&self, chore: Chore, pruned: &mut Pruned) -> Result<bool> {
        let client = self.server.take(&self.pool).await?;
        let work = async {
            match chore {
                Chore::Prune => store::dispatch::prune(&client, self.settings.keep_passes_for).await,
                Chore::Order => store::dispatch::order_sweep(&client).await.map(|()| Value::Null),
                Chore::Workflows => store::dispatch::workflow_refresh(&client).await,
                Chore::Routes => store::dispatch::route_prune(&client).await.map(|()| Value::Null),
            }
        };
        let outcome = self.server.in_time(1, chore.name(), work).await;
        let answer = hand_back(client, outcome)?;
        let count = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or(0);
        pruned.arrivals += count("arrivals");
        pruned.passes += count("passes");
        Ok(answer.get("more").and_then(Value::as_bool) == Some(true))
    }
}

/// What is done once an interval.
#[derive(Debug, Clone, Copy)]
enum Chore {
    Prune,
    Order,
    Workflows,
    Routes,
}

impl Chore {
    /// How many batches a round may take.
    fn batches(self) -> u32 {
        match self {
            Self::Workflows => 20,
            Self::Prune | Self::Order | Self::Routes => u32::MAX,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Prune => "pruning arrivals",
            Self::Order => "placing jobs of ordering keys",
            Self::Workflows => "looking after workflows",
            Self::Routes => "pruning what routes note",
        }
    }
}
