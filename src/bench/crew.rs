//! The worker of a bench: in this process, because a handler written in Rust is part of a program.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::report::{number, ratio};
use super::stage::{Stage, too_slow};
use crate::config::Settings;
use crate::error::{Error, Kind, Result};
use crate::model::job::Job;
use crate::shutdown::Shutdown;
use crate::work::{Handler, Handlers, JobContext, Outcome, Worker, WorkerCounts, WorkerStats};

const PATIENCE: Duration = Duration::from_mins(10);
const LOOK: Duration = Duration::from_millis(2);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// A running worker.
pub(super) struct Crew {
    stats: Arc<WorkerStats>,
    shutdown: Shutdown,
    task: JoinSet<Result<WorkerCounts>>,
}

impl Crew {
    /// Starts a worker with one handler.
    pub(super) fn start(
        stage: &Stage,
        settings: &Settings,
        job_kind: &str,
        handler: impl Handler,
    ) -> Result<Self> {
        let worker = Worker::new(&stage.server, settings, Handlers::new().on(job_kind, handler))?;
        let (stats, shutdown) = (worker.stats(), Shutdown::new());
        let mut task = JoinSet::new();
        task.spawn(worker.run(shutdown.clone()));
        Ok(Self { stats, shutdown, task })
    }

    /// What it has done so far.
    pub(super) fn counts(&self) -> WorkerCounts {
        self.stats.counts()
    }

    /// An error if it has ended by itself.
    pub(super) fn is_well(&mut self) -> Result<()> {
        match self.task.try_join_next() {
            None => Ok(()),
            Some(Ok(Err(error))) => Err(error),
            Some(_) => Err(Error::new(Kind::Io, "the worker ended by itself")),
        }
    }

    /// Stops it; answers what it did.
    pub(super) async fn stop(mut self) -> Result<WorkerCounts> {
        self.shutdown.request();
        match timeout(STOP_DEADLINE, self.task.join_next()).await {
            Ok(Some(Ok(counts))) => counts,
            Ok(_) => Err(Error::new(Kind::Io, "the worker was cut off")),
            Err(_) => Err(too_slow("the worker did not stop", STOP_DEADLINE)),
        }
    }
}

/// Jobs a second of one worker whose handler does nothing, from its start, connecting and registering included, until it
/// has reported the last of so many jobs.
pub(super) async fn drain(stage: &Stage, job_kind: &str, jobs: i64) -> Result<f64> {
    let mut settings = stage.settings();
    "bench-worker".clone_into(&mut settings.worker.executor_name);
    let begun = Instant::now();
    let mut crew = Crew::start(stage, &settings, job_kind, Nothing)?;
    let seconds = loop {
        let done = i64::try_from(crew.counts().succeeded).unwrap_or(i64::MAX);
        if done >= jobs {
            break begun.elapsed().as_secs_f64();
        }
        if begun.elapsed() > PATIENCE {
            return Err(too_slow(&format!("only {done} of {jobs} jobs succeeded"), PATIENCE));
        }
        crew.is_well()?;
        sleep(LOOK).await;
    };
    crew.stop().await?;
    Ok(ratio(number(jobs), seconds))
}

/// Does nothing, but says when it began.
#[derive(Clone)]
pub(super) struct Begun(UnboundedSender<(String, Instant)>);

impl Begun {
    /// With the other end: subject and moment of each job.
    pub(super) fn new() -> (Self, UnboundedReceiver<(String, Instant)>) {
        let (sender, receiver) = unbounded_channel();
        (Self(sender), receiver)
    }
}

impl Handler for Begun {
    async fn run(&self, job: &Job, _: &JobContext) -> Outcome {
        let now = Instant::now();
        let subject = job.source_ref.clone().unwrap_or_default();
        self.0.send((subject, now)).ok(); // nobody listens at the end
        Outcome::done()
    }
}

/// Does nothing.
pub(super) struct Nothing;

impl Handler for Nothing {
    async fn run(&self, _: &Job, _: &JobContext) -> Outcome {
        Outcome::done()
    }
}
