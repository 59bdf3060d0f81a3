//! The main job, end to end, on a real document: a throw-away Postgres, the pilot host, the sidecar and a worker,
//! each the real one. The operator marks and approves; everything after that happens by itself.

mod document;
mod pipeline;
mod watch;

use std::path::Path;
use std::time::Duration;

use deadpool_postgres::Object;
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::app;
use crate::config::Settings;
use crate::error::{Error, Kind, Result};
use crate::maintain::consumer_sync;
use crate::postgres::Server;
use crate::postgres::embedded::{Options, Throwaway};
use crate::postgres::migrator::Migrator;
use crate::shutdown::Shutdown;
use crate::store::pilot_host::{self, Standing};
use crate::store::timeline::{EventLine, JobLine};
use crate::store::{gates, timeline};
use crate::work::{Handlers, Worker};

pub use document::Document;
pub use pipeline::Pipeline;
pub use watch::Step;

/// Is told every step as it happens.
pub type Tell<'a> = &'a mut (dyn FnMut(Step) -> Result<()> + Send);

const GATES: [&str; 3] =
    ["queue.job_substrate.enabled", "queue.worker.enabled", "queue.notify.bridge_enabled"];
const OPERATOR: &str = "user:demo-operator";
/// How long everything after the approval may take.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long the parts may take to start.
const STARTED: Duration = Duration::from_secs(15);
/// How long the parts may take to stop.
const STOP: Duration = Duration::from_secs(5);

/// What became of everything.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Every event, once for each consumer that wanted it.
    pub events: Vec<EventLine>,
    /// Every job.
    pub jobs: Vec<JobLine>,
    /// The document's record.
    pub record: Standing,
    /// Events by what made the dispatcher look.
    pub found_by: Vec<(String, i64)>,
    /// The same as a workflow, when that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Pipeline>,
}

impl Report {
    /// Whether everything ended as it should: cleaned, verified, and every job succeeded.
    pub fn is_good(&self) -> bool {
        self.record.lifecycle_status == "cleaned"
            && self.record.verdict.as_deref() == Some("verified")
            && self.jobs.iter().all(|job| job.status == "succeeded")
            && self.workflow.as_ref().is_none_or(Pipeline::is_good)
    }
}

/// Runs the demo on a file and a throw-away Postgres, of which nothing is left at the end or when told to stop.
/// With `workflow` the document is cut once more, by a workflow.
pub async fn run(path: &Path, workflow: bool, shutdown: &Shutdown, tell: Tell<'_>) -> Result<Report> {
    let document = unless_stopped(shutdown, Document::read(path)).await?;
    tell(Step::note("starting", "a throw-away Postgres (durable: every commit waits for the disk)"))?;
    // not given up half-way: it sees the request itself, and takes away what it has begun
    let options = Options { durable: true, shutdown: shutdown.clone(), ..Options::default() };
    let postgres = Throwaway::start(options)
        .await
        .map_err(|error| if shutdown.is_requested() { stopped().because(error) } else { error })?;
    tell(Step::note("started", postgres.binaries().version.to_string()))?;
    let report = play(&settings(&postgres), &document, workflow, shutdown, tell).await;
    let ended = postgres.stop().await;
    let report = report?; // what went wrong first
    ended.map(|()| report)
}

fn settings(postgres: &Throwaway) -> Settings {
    let mut settings = Settings::default();
    settings.database.url = postgres.url("postgres");
    settings.http.enabled = false;
    "demo-worker".clone_into(&mut settings.worker.executor_name);
    settings
}

/// Plays the story in the empty database of these settings, under which sidecar and worker run.
///
/// # Errors
/// The first of: a step that failed, a part that ended, the request to stop.
pub async fn play(
    settings: &Settings,
    document: &Document,
    workflow: bool,
    shutdown: &Shutdown,
    tell: Tell<'_>,
) -> Result<Report> {
    let server = Server::from_settings(&settings.database)?;
    let client = unless_stopped(shutdown, install(&server, tell)).await?;
    let parts = Shutdown::new();
    let mut tasks = start(settings, &server, &parts)?;
    let story = async {
        let record = mark_and_approve(&client, document, tell).await?;
        let watched = tokio::time::timeout(PATIENCE, watch::until_done(&client, record, tell)).await;
        watched.unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "the demo did not end in time")))?;
        let pipeline =
            if workflow { Some(pipeline::run(&client, document, record, tell).await?) } else { None };
        Ok((record, pipeline))
    };
    let told = tokio::select! {
        told = unless_stopped(shutdown, story) => told,
        Some(ended) = tasks.join_next() => Err(ended_early(ended)),
    };
    parts.request();
    let ended = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        () = ended => {}
        () = tokio::time::sleep(STOP) => parts.cut(),
        () = shutdown.was_cut() => parts.cut(),
    }
    let (record, pipeline) = told?;
    unless_stopped(shutdown, report(&client, record, pipeline)).await
}

/// The outcome of the work, which is dropped when the request to stop comes first.
async fn unless_stopped<T>(shutdown: &Shutdown, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        () = shutdown.requested() => Err(stopped()),
    }
}

fn stopped() -> Error {
    Error::new(Kind::Io, "stopped before the end")
}

fn ended_early(ended: std::result::Result<Result<()>, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) => Error::new(Kind::Io, "a part of the demo ended early"),
        Err(panic) => Error::new(Kind::Io, format!("a part of the demo failed: {panic}")).because(panic),
    }
}

/// Schema, host, consumers, open gates.
async fn install(server: &Server, tell: Tell<'_>) -> Result<Object> {
    let migrated = Migrator::new(server.clone()).up(None, false).await?;
    tell(Step::note("migrated", format!("{} phases", migrated.steps.len())))?;
    let pool = server.pool("demo", 1, &server.session())?;
    let mut client = server.take(&pool).await?;
    pilot_host::install(&client).await?;
    pilot_host::open_gates(&client, 0).await?;
    for gate in GATES {
        gates::set(&client, gate, true, Some(OPERATOR), "demo").await?.done("opening a gate")?;
    }
    let (files, options) = (consumer_sync::of_the_pilot()?, consumer_sync::Options::default());
    let plan = consumer_sync::plan(&client, &files, options).await?;
    consumer_sync::apply(&mut client, &plan, Some(OPERATOR), options).await?;
    tell(Step::note(
        "consumers",
        files.iter().map(|file| file.consumer.key.as_str()).collect::<Vec<_>>().join(", "),
    ))?;
    Ok(client)
}

/// The sidecar and a worker, as `run` and `work` have them.
fn start(settings: &Settings, server: &Server, parts: &Shutdown) -> Result<JoinSet<Result<()>>> {
    let mut tasks = JoinSet::new();
    let worker = Worker::new(server, settings, Handlers::new().with_sql())?;
    let (of_worker, of_sidecar, settings) = (parts.clone(), parts.clone(), settings.clone());
    tasks.spawn(async move { app::run(&settings, of_sidecar).await });
    tasks.spawn(async move { worker.run(of_worker).await.map(drop) });
    Ok(tasks)
}

/// What stays with the operator: MARK, a look, and the approval that commits the first fact.
async fn mark_and_approve(client: &Object, document: &Document, tell: Tell<'_>) -> Result<Uuid> {
    if let Some(encoding) = document.encoding {
        tell(Step::note("encoding", format!("not UTF-8: read as {encoding}")))?;
    }
    let begun = std::time::Instant::now();
    let marked = pilot_host::mark_file(client, &document.text, &document.name, OPERATOR).await?;
    let marked = marked.done("marking the document")?;
    let pieces = marked.get("piece_count").and_then(Value::as_i64).unwrap_or(0);
    let text = format!("{}: {} bytes in {pieces} pieces", document.name, document.text.len());
    tell(Step::timed("marked", text, begun.elapsed()))?;
    let record = marked.get("staging_record_id").and_then(Value::as_str).and_then(|id| id.parse().ok());
    let record: Uuid = record.ok_or_else(|| Error::new(Kind::Database, "MARK answered no record"))?;
    // the fact that it is marked has been read: the sidecar is awake before the one that matters is committed
    let read = async {
        while !timeline::is_read_to_the_end(client, "staging").await? {
            tokio::time::sleep(watch::LOOK).await;
        }
        Ok(())
    };
    tokio::time::timeout(STARTED, read).await.unwrap_or_else(|_| {
        Err(Error::new(Kind::Timeout, "the sidecar did not dispatch the first event in time"))
    })?;
    let begun = std::time::Instant::now();
    pilot_host::verify_mark(client, record, true, "demo-approval", OPERATOR)
        .await?
        .done("approving the document")?;
    tell(Step::timed("approved", format!("record {record}"), begun.elapsed()))?;
    Ok(record)
}

async fn report(client: &Object, record: Uuid, workflow: Option<Pipeline>) -> Result<Report> {
    let record = pilot_host::standing(client, record).await?;
    Ok(Report {
        events: timeline::events(client, "staging").await?,
        jobs: timeline::jobs(client).await?,
        record: record.ok_or_else(|| Error::new(Kind::Database, "the record is gone"))?,
        found_by: timeline::found_by(client).await?,
        workflow,
    })
}
