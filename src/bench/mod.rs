//! The benches: how fast the assembled whole is, beside the bare limit of the same server in the same run.
//!
//! Each bench has a throw-away server that keeps its promises (fsync and synchronous commits on), or a database of its
//! own on a given server; the sidecar is a child process, as in operation, so that its processor time and memory can be
//! read. Figures are told apart from the proof: a bench that lost an event or made a job twice has failed, one that is
//! slow has not. `docs/benchmarks.md` says how each is measured.

mod child;
mod claim;
mod crew;
mod dispatch;
mod ear;
mod enqueue;
mod health;
mod held;
mod herd;
mod idle;
mod machine;
mod process;
mod producer;
mod report;
mod series;
mod stage;
mod wake;
mod work;
mod workflow;

use std::path::PathBuf;
use std::time::Duration;

use crate::error::Result;

pub use machine::Machine;
pub use report::{Bound, Check, Figure, Goal, Report};

/// Which bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bench {
    /// Events of a backlog to jobs.
    Dispatch,
    /// What the trigger and the sidecar cost producers.
    Producer,
    /// From a commit to the job, and to its handler.
    Wake,
    /// What nothing to do costs.
    Idle,
    /// Jobs that do nothing, through one worker.
    Work,
    /// Steps of workflows, beside as many plain jobs.
    Workflow,
    /// Claims and successes through the functions.
    Claim,
    /// Jobs enqueued by the thousand.
    Enqueue,
    /// A steady stream while a session holds a snapshot.
    HeldSnapshot,
    /// One job at a time, and many workers that sleep.
    Herd,
    /// What an operator waits for when millions of jobs are done.
    Health,
}

impl Bench {
    /// All of them, in the order of `all`.
    pub const ALL: [Self; 11] = [
        Self::Dispatch,
        Self::Producer,
        Self::Wake,
        Self::Idle,
        Self::Work,
        Self::Workflow,
        Self::Claim,
        Self::Enqueue,
        Self::HeldSnapshot,
        Self::Herd,
        Self::Health,
    ];
}

/// Sizes, and where to run. A size of none is the bench's own.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program to run as the sidecar: this one.
    pub program: PathBuf,
    /// Address of a server to run on, in a database of its own that is dropped afterwards; none starts a throw-away
    /// server.
    pub server: Option<String>,
    /// Events of `dispatch`.
    pub events: Option<u32>,
    /// Read one backlog of this many events and compare its tenths, instead of comparing batches.
    pub backlog: Option<u32>,
    /// Jobs of `work`, `workflow`, `claim`, `enqueue` and `herd`; finished ones of `health`.
    pub jobs: Option<u32>,
    /// Most jobs that wait in `claim`.
    pub waiting: Option<u32>,
    /// Events of a pass, jobs of a bare claim or of an enqueue.
    pub batch: Option<u32>,
    /// Producers of `producer`, workers of `herd`.
    pub clients: Option<u32>,
    /// Length of one measurement.
    pub length: Option<Duration>,
    /// How often measurements and limits take turns.
    pub rounds: Option<u32>,
}

/// Says what is being done while it takes its time.
pub type Tell<'a> = &'a mut (dyn FnMut(&str) + Send);

/// Runs one bench.
pub async fn run(bench: Bench, options: &Options, tell: Tell<'_>) -> Result<Report> {
    match bench {
        Bench::Dispatch => dispatch::run(options, tell).await,
        Bench::Producer => producer::run(options, tell).await,
        Bench::Wake => wake::run(options, tell).await,
        Bench::Idle => idle::run(options, tell).await,
        Bench::Work => work::run(options, tell).await,
        Bench::Workflow => workflow::run(options, tell).await,
        Bench::Claim => claim::run(options, tell).await,
        Bench::Enqueue => enqueue::run(options, tell).await,
        Bench::HeldSnapshot => held::run(options, tell).await,
        Bench::Herd => herd::run(options, tell).await,
        Bench::Health => health::run(options, tell).await,
    }
}
