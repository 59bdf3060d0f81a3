//! Brings the schema to what this binary needs, and back.
//!
//! Options: `to` (a phase number) and `dry_run`. Each phase is one transaction: its file, then its line in
//! `reveille_migration`; a phase that fails leaves nothing. A lock lets one migrator work on a schema at a time;
//! the others wait, find the work done, and succeed. A dry run does everything in one transaction and takes it
//! back. The rules that the files follow stand in `migrations/README.md`.

mod history;
mod lock;
mod look;
mod parts;
mod phase;
mod plain;
mod plan;
mod script;
mod teller;

use std::time::{Duration, Instant};

use deadpool_postgres::ClientWrapper;
use tokio::sync::watch;
use tokio_postgres::Client;

use self::history::History;
use self::script::Script;
use super::{Server, Session, explain};
use crate::error::Result;

pub use phase::{PHASES, Phase};
pub use plain::{Direction, Start};
pub use plan::{Action, Step};
pub use teller::At;

/// The version that is noted beside what it applied.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Longest that one statement of a migration may take.
const LONGEST_STATEMENT: Duration = Duration::from_hours(1);

/// Longest wait for an answer that takes no work.
const SHORT: Duration = Duration::from_secs(30);

/// Longest wait for a lock on a table: behind a waiting migration every producer waits too.
const LONGEST_TABLE_LOCK: &str = "set lock_timeout = '10s'";

/// Moves one schema between phases.
#[derive(Debug, Clone)]
pub struct Migrator {
    server: Server,
    phases: Vec<Phase>,
    patience: Duration,
    teller: Option<watch::Sender<At>>,
}

/// What a run did, or a dry run would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether it was all taken back.
    pub dry_run: bool,
    /// The last phase before; 0 is none.
    pub from: u32,
    /// The last phase after; 0 is none.
    pub to: u32,
    /// What was done, in order.
    pub steps: Vec<Step>,
    /// Phases were applied, and every login may create objects in their schema. Our functions run with the rights of
    /// their owner and look for names there: whoever may create may put something in their way.
    pub is_open: bool,
}

/// How a phase stands in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As this binary has it.
    Applied,
    /// Applied; its functions have another text now. `up` runs them again.
    FunctionsChanged,
    /// Applied; a function, procedure or view of it is gone. `up` makes it again.
    FunctionsMissing,
    /// Applied; somebody has replaced a function or view of it, or taken rights away. `up` puts them back.
    FunctionsReplaced,
    /// Applied; its `up.sql` has another text now. `up` refuses.
    Drifted,
    /// Not applied yet.
    Pending,
    /// Applied by a newer binary; unknown to this one.
    Unknown,
}

/// One phase as the binary, the schema, or both know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseStatus {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// How it stands.
    pub state: State,
    /// When it was applied.
    pub applied_at: Option<jiff::Timestamp>,
    /// The database role that applied it.
    pub applied_by: Option<String>,
    /// The reveille that ran its functions last.
    pub binary_version: Option<String>,
}

impl Migrator {
    /// For `server`'s schema, with the phases of this binary. `server` must be reached directly: behind a
    /// transaction pooler the lock would not hold (see [`Server::direct`]).
    pub fn new(server: Server) -> Self {
        Self::with_phases(server, PHASES.to_vec())
    }

    /// With other phases, which must be numbered 1, 2, 3, …
    pub fn with_phases(server: Server, phases: Vec<Phase>) -> Self {
        Self { server, phases, patience: Duration::from_mins(2), teller: None }
    }

    /// Waits for another migrator no longer than `patience` (default 2 minutes).
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Goes forward to phase `to`, or to the last. Errors name file and line; kind Schema: drift, or too new.
    pub async fn up(&self, to: Option<u32>, dry_run: bool) -> Result<Report> {
        self.migrate(dry_run, |history| plan::up(&self.phases, history, to)).await
    }

    /// Goes back to phase `to`; without it, one phase. Kind Refused: a phase will not lose its rows.
    pub async fn down(&self, to: Option<u32>, dry_run: bool) -> Result<Report> {
        self.migrate(dry_run, |history| plan::down(&self.phases, history, to)).await
    }

    /// How each phase stands. Changes nothing.
    pub async fn status(&self) -> Result<Vec<PhaseStatus>> {
        let client = self.client().await?;
        let history = History::read(&client, self.server.schema()).await?;
        let unknown =
            history.applied.iter().filter(|applied| applied.number > plan::last_number(&self.phases));
        let known = self.phases.iter().map(|phase| PhaseStatus::of(phase, &history));
        Ok(known.chain(unknown.map(PhaseStatus::unknown)).collect())
    }

    /// Whether the schema is what this binary needs; for the start of `run` and `work`.
    ///
    /// An error of kind Schema says what is wrong (missing, too old, too new, drifted) and which command mends it.
    pub async fn check(&self, client: &Client) -> Result<()> {
        let history = History::read(client, self.server.schema()).await?;
        plan::check(&self.phases, &history, self.server.schema())
    }

    async fn client(&self) -> Result<ClientWrapper> {
        let session = Session { statement_timeout: LONGEST_STATEMENT, synchronous_commit: true };
        self.server.client("migrate", &session).await
    }

    async fn migrate(
        &self,
        dry_run: bool,
        plan: impl Fn(&History) -> Result<Vec<Step>> + Send,
    ) -> Result<Report> {
        let client = self.client().await?;
        let schema = self.server.schema();
        explain::within(SHORT, "preparing to migrate", client.batch_execute(LONGEST_TABLE_LOCK)).await?;
        lock::take(&client, schema, self.patience).await?;
        let outcome = async {
            let history = History::read(&client, schema).await?;
            let steps = plan(&history)?;
            if dry_run {
                self.rehearse(&client, &history, steps).await
            } else {
                self.perform(&client, &history, steps).await
            }
        }
        .await;
        lock::release(&client, schema).await;
        outcome
    }

    /// Each step in a transaction of its own.
    async fn perform(&self, client: &Client, history: &History, mut steps: Vec<Step>) -> Result<Report> {
        for index in 0..steps.len() {
            let started = Instant::now();
            self.tell(&steps, index);
            let mut scripts = vec![Script::new("begin", "begin")];
            scripts.extend(self.around(history, &steps, index));
            scripts.push(Script::new("commit", "commit"));
            run(client, &scripts).await?;
            steps[index].took = started.elapsed();
            let step = &steps[index];
            tracing::debug!(phase = step.phase.folder(), action = ?step.action, "migration step done");
        }
        let applied = steps.iter().any(|step| step.action == Action::Apply);
        let is_open = applied && history::is_open_to_all(client, self.server.schema()).await?;
        Ok(Report { is_open, ..report(false, history, steps) })
    }

    /// All steps in one transaction, which is taken back.
    async fn rehearse(&self, client: &Client, history: &History, mut steps: Vec<Step>) -> Result<Report> {
        run(client, &[Script::new("begin", "begin")]).await?;
        for index in 0..steps.len() {
            let started = Instant::now();
            self.tell(&steps, index);
            run(client, &self.around(history, &steps, index)).await?;
            steps[index].took = started.elapsed();
        }
        run(client, &[Script::new("rollback", "rollback")]).await?;
        Ok(report(true, history, steps))
    }

    /// The scripts of the step at `index`, with what comes before the first phase and after the last.
    fn around(&self, history: &History, steps: &[Step], index: usize) -> Vec<Script> {
        let step = &steps[index];
        let schema = self.server.schema();
        let mut scripts = Vec::new();
        if index == 0 && !history.has_table {
            scripts.push(history::begin(schema, history));
        }
        scripts.extend(step.scripts());
        if step.action == Action::Undo && step.phase.number == 1 {
            scripts.push(history::end(schema));
        }
        scripts
    }
}

/// Runs the scripts; after an error the transaction is taken back before anything else happens.
async fn run(client: &Client, scripts: &[Script]) -> Result<()> {
    for script in scripts {
        if let Err(error) = script.run(client).await {
            // if this fails too the connection is gone, and the transaction with it
            let _ = explain::within(SHORT, "rolling back", client.batch_execute("rollback")).await;
            return Err(error);
        }
    }
    Ok(())
}

fn report(dry_run: bool, history: &History, steps: Vec<Step>) -> Report {
    let from = history.at();
    let to = steps.last().map_or(from, |last| match last.action {
        Action::Apply => last.phase.number,
        Action::RefreshFunctions => from,
        Action::Undo => last.phase.number - 1,
    });
    Report { dry_run, from, to, steps, is_open: false }
}

impl PhaseStatus {
    fn of(phase: &Phase, history: &History) -> Self {
        let applied = history.of(phase);
        let state = match applied {
            None => State::Pending,
            Some(applied) if applied.up_checksum != phase.up_checksum() => State::Drifted,
            Some(applied) if applied.functions_checksum != phase.functions_checksum() => {
                State::FunctionsChanged
            }
            Some(_) if history.missing_routine(phase).is_some() => State::FunctionsMissing,
            Some(_) if history.is_changed(phase) => State::FunctionsReplaced,
            Some(_) => State::Applied,
        };
        Self {
            number: phase.number,
            name: phase.name.to_owned(),
            state,
            applied_at: applied.map(|applied| applied.applied_at),
            applied_by: applied.map(|applied| applied.applied_by.clone()),
            binary_version: applied.map(|applied| applied.binary_version.clone()),
        }
    }

    fn unknown(applied: &history::Entry) -> Self {
        Self {
            number: applied.number,
            name: applied.name.clone(),
            state: State::Unknown,
            applied_at: Some(applied.applied_at),
            applied_by: Some(applied.applied_by.clone()),
            binary_version: Some(applied.binary_version.clone()),
        }
    }
}
