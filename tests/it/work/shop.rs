//! A database with open gates, a worker in it, and what is asked about its jobs.

use std::sync::Arc;
use std::time::Duration;

use reveille::config::Settings;
use reveille::error::Result;
use reveille::model::job::Job;
use reveille::model::refusal::Refusal;
use reveille::postgres::Server;
use reveille::shutdown::Shutdown;
use reveille::work::{Handler, Handlers, JobContext, Outcome, Worker, WorkerCounts, WorkerStats};
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{SOON, TestDb, server_at, wait_until};

/// So long that only a wake-up can be the reason for a look.
pub(super) const NEVER: Duration = Duration::from_hours(1);

/// A database whose gates are open, and a connection to it.
pub(super) struct Shop {
    pub(super) db: TestDb,
    pub(super) client: Client,
}

/// A worker at work in the test's runtime.
pub(super) struct Running {
    pub(super) shutdown: Shutdown,
    pub(super) stats: Arc<WorkerStats>,
    task: JoinHandle<Result<WorkerCounts>>,
}

impl Running {
    /// Takes the first step of stopping and waits for the end.
    pub(super) async fn stop(self) -> WorkerCounts {
        self.shutdown.request();
        self.end().await.unwrap()
    }

    /// Waits for the end.
    pub(super) async fn end(self) -> Result<WorkerCounts> {
        tokio::time::timeout(SOON, self.task).await.expect("the worker ends in time").unwrap()
    }
}

impl Shop {
    pub(super) async fn open() -> Self {
        let db = TestDb::new().await;
        db.open_gates().await;
        let client = db.client().await;
        // a delay that is drawn may be none at all
        let begin = "create table effect (job_id uuid, note text);
            select fn_gate_set('queue.retry.default.backoff_strategy', 'constant', 'test', 'test')";
        client.batch_execute(begin).await.unwrap();
        Self { db, client }
    }

    /// Settings of a worker that is woken, not timed.
    pub(super) fn settings(&self) -> Settings {
        let mut settings = self.db.settings();
        settings.database.connect_timeout = Duration::from_secs(15);
        settings.worker.executor_name = "worker-1".into();
        settings.worker.poll_interval = NEVER;
        settings
    }

    /// Registers an SQL function with this body; `p_job` is the job.
    pub(super) async fn handler(&self, kind: &str, body: &str) {
        let function = format!("handle_{}", kind.replace('.', "_"));
        let create = format!(
            "create function {function}(p_job jsonb) returns jsonb language plpgsql as $f$ begin {body} end $f$"
        );
        self.client.batch_execute(&create).await.unwrap();
        let insert = "insert into job_handler (job_kind, handler) values ($1, $2)";
        self.client.execute(insert, &[&kind, &format!("{function}(jsonb)")]).await.unwrap();
    }

    /// Starts a worker and waits until it is registered.
    pub(super) async fn start(&self, settings: &Settings, handlers: Handlers) -> Running {
        let running = Self::launch(settings, handlers);
        wait_until("the worker has looked for jobs", SOON, async || running.stats.counts().claims > 0).await;
        running
    }

    /// Starts a worker.
    pub(super) fn launch(settings: &Settings, handlers: Handlers) -> Running {
        let server = Server::from_settings(&settings.database).unwrap();
        let worker = Worker::new(&server, settings, handlers).unwrap();
        let (stats, shutdown) = (worker.stats(), Shutdown::new());
        Running { stats, task: tokio::spawn(worker.run(shutdown.clone())), shutdown }
    }

    /// A worker of SQL functions that does what is ready and ends.
    pub(super) async fn run_once(&self) -> Result<WorkerCounts, Refusal> {
        let settings = self.settings();
        let worker = Worker::new(&server_at(&self.db.url()), &settings, Handlers::new().with_sql()).unwrap();
        worker.run_once(Shutdown::new()).await.unwrap()
    }

    pub(super) async fn enqueue(&self, kind: &str) -> Uuid {
        let answer = self.value("select fn_job_enqueue($1, 'test')", &[&kind]).await;
        answer["job_id"].as_str().unwrap().parse().unwrap()
    }

    pub(super) async fn set(&self, key: &str, value: &str) {
        self.client.execute("select fn_gate_set($1, $2, 'test', 'test')", &[&key, &value]).await.unwrap();
    }

    /// The one JSON value of a statement.
    pub(super) async fn value(
        &self,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Value {
        self.client.query_one(sql, parameters).await.unwrap().get(0)
    }

    /// A job with all its columns.
    pub(super) async fn job(&self, id: Uuid) -> Value {
        self.value("select to_jsonb(j) from job_queue j where job_id = $1", &[&id]).await
    }

    pub(super) async fn wait_for_status(&self, id: Uuid, status: &str) -> Value {
        wait_until(&format!("the job is {status}"), SOON, async || self.job(id).await["status"] == status)
            .await;
        self.job(id).await
    }

    /// How many jobs have this status.
    pub(super) async fn count(&self, status: &str) -> i64 {
        let count = "select count(*) from job_queue where status = $1";
        self.client.query_one(count, &[&status]).await.unwrap().get(0)
    }

    /// How many effects handlers have left.
    pub(super) async fn effects(&self) -> i64 {
        self.client.query_one("select count(*) from effect", &[]).await.unwrap().get(0)
    }
}

/// A handler that ends only when it is let, and counts its runs.
#[derive(Clone)]
pub(super) struct Held {
    begun: Arc<Semaphore>,
    let_go: Arc<Semaphore>,
}

impl Held {
    /// The first `free` runs do not wait.
    pub(super) fn new(free: usize) -> Self {
        Self { begun: Arc::new(Semaphore::new(0)), let_go: Arc::new(Semaphore::new(free)) }
    }

    /// Waits until a run has begun that no earlier call has seen.
    pub(super) async fn begun(&self) {
        let permit = tokio::time::timeout(SOON, self.begun.acquire()).await;
        permit.expect("a run begins in time").unwrap().forget();
    }

    /// How many runs have begun that nobody has waited for.
    pub(super) fn begun_unseen(&self) -> usize {
        self.begun.available_permits()
    }

    /// Lets one run end.
    pub(super) fn let_go(&self) {
        self.let_go.add_permits(1);
    }
}

impl Handler for Held {
    async fn run(&self, _: &Job, _: &JobContext) -> Outcome {
        self.begun.add_permits(1);
        self.let_go.acquire().await.map(SemaphorePermit::forget).unwrap();
        Outcome::done()
    }
}
