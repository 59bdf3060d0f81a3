//! What runs jobs: Rust handlers, one a kind, and the SQL functions that `job_handler` names.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Transaction;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::stop::{Stop, StopReason};
use crate::model::job::Job;

/// How one run of a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well; `result_ref` says where the result is, if there is one.
    Succeeded {
        /// A reference, never the result itself.
        result_ref: Option<String>,
    },
    /// Not now: the same may succeed later. Counts as a failure and is tried again after a delay.
    Transient(String),
    /// Not ever: it goes to the dead letters.
    Permanent(String),
    /// Not yet: what it waits for is not there. Due again after this long; costs no attempt.
    Snoozed(Duration),
    /// It was asked to end (see [`JobContext::is_cancelled`]), and has.
    Cancelled,
}

impl Outcome {
    /// Well, without a result.
    pub fn done() -> Self {
        Self::Succeeded { result_ref: None }
    }
}

/// Runs jobs of one kind. Called for several jobs at once; a job may come again, so its effect must bear repeating (or
/// be one with its completion: [`TransactionHandler`]). Its lease is renewed while it runs; a panic is a failure that may
/// pass.
///
/// ```
/// use reveille::model::job::Job;
/// use reveille::work::{Handler, JobContext, Outcome};
///
/// struct Greet;
///
/// impl Handler for Greet {
///     async fn run(&self, job: &Job, _: &JobContext) -> Outcome {
///         match &job.source_ref {
///             Some(name) => Outcome::Succeeded { result_ref: Some(format!("greeting:{name}")) },
///             None => Outcome::Permanent("nobody to greet".into()),
///         }
///     }
/// }
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Runs one job. Dropped at the time limit, and when the worker must stop: see [`JobContext::stopped`].
    fn run(&self, job: &Job, context: &JobContext) -> impl Future<Output = Outcome> + Send;
}

/// What a [`TransactionHandler`] answers. For an error its SQLSTATE decides, as for an SQL function, whether the job is
/// tried again.
pub type TransactionResult = Result<Outcome, tokio_postgres::Error>;

/// Runs jobs of one kind in a transaction that also ends the job: effect and completion are there together, or neither.
///
/// Only a success is committed, and only while the lease is ours. After any other outcome, an error, a panic, the time
/// limit, a lost lease or connection nothing of the effect stays. What is done outside of the database is no part of it.
/// `docs/executors.md` has a whole program.
pub trait TransactionHandler: Send + Sync + 'static {
    /// Runs one job. Dropped as a [`Handler`] is. The transaction is the worker's: do not end it by a statement.
    fn run(
        &self,
        job: &Job,
        transaction: &Transaction<'_>,
        context: &JobContext,
    ) -> impl Future<Output = TransactionResult> + Send;
}

/// What a handler may know beside its job.
#[derive(Debug, Clone)]
pub struct JobContext {
    pub(super) stop: Stop,
    pub(super) deadline: Instant,
}

impl JobContext {
    /// Ends when the run should end early: the time limit is over, the lease was lost, the job
    /// was cancelled, or the worker stops. What is
    /// not finished about a second later is dropped.
    pub async fn stopped(&self) {
        self.stop.asked().await;
    }

    /// Whether the run should end early.
    pub fn is_stopped(&self) -> bool {
        self.stop.reason().is_some()
    }

    /// Whether it should end because somebody cancelled the job; the answer then is [`Outcome::Cancelled`].
    pub fn is_cancelled(&self) -> bool {
        self.stop.reason() == Some(StopReason::CancelRequested)
    }

    /// How much of the time limit is left.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// [`Handler`] as it can be stored.
pub(super) trait Stored: Send + Sync {
    fn run<'a>(&'a self, job: &'a Job, context: &'a JobContext) -> BoxFuture<'a, Outcome>;
}

impl<H: Handler> Stored for H {
    fn run<'a>(&'a self, job: &'a Job, context: &'a JobContext) -> BoxFuture<'a, Outcome> {
        Box::pin(Handler::run(self, job, context))
    }
}

/// [`TransactionHandler`] as it can be stored.
pub(super) trait StoredInTransaction: Send + Sync {
    fn run<'a>(
        &'a self,
        job: &'a Job,
        transaction: &'a Transaction<'a>,
        context: &'a JobContext,
    ) -> BoxFuture<'a, TransactionResult>;
}

impl<H: TransactionHandler> StoredInTransaction for H {
    fn run<'a>(
        &'a self,
        job: &'a Job,
        transaction: &'a Transaction<'a>,
        context: &'a JobContext,
    ) -> BoxFuture<'a, TransactionResult> {
        Box::pin(TransactionHandler::run(self, job, transaction, context))
    }
}

/// A handler written in Rust.
#[derive(Clone)]
pub(super) enum Rust {
    Plain(Arc<dyn Stored>),
    InTransaction(Arc<dyn StoredInTransaction>),
}

/// The handlers of a worker, by kind of job.
#[derive(Clone, Default)]
pub struct Handlers {
    by_kind: BTreeMap<String, Rust>,
    sql: bool,
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers")
            .field("kinds", &self.kinds())
            .field("sql", &self.sql)
            .finish_non_exhaustive()
    }
}

impl Handlers {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a Rust handler; it comes before an SQL function of the same kind.
    #[must_use]
    pub fn on(mut self, job_kind: impl Into<String>, handler: impl Handler) -> Self {
        self.by_kind.insert(job_kind.into(), Rust::Plain(Arc::new(handler)));
        self
    }

    /// Adds a Rust handler that runs in a transaction; each run has a connection of its own.
    #[must_use]
    pub fn in_transaction(mut self, job_kind: impl Into<String>, handler: impl TransactionHandler) -> Self {
        self.by_kind.insert(job_kind.into(), Rust::InTransaction(Arc::new(handler)));
        self
    }

    /// Adds the SQL functions of `job_handler`, also those that are registered later.
    #[must_use]
    pub fn with_sql(mut self) -> Self {
        self.sql = true;
        self
    }

    /// Whether SQL functions run too.
    pub(super) fn has_sql(&self) -> bool {
        self.sql
    }

    /// The kinds that have a Rust handler.
    pub(super) fn kinds(&self) -> Vec<String> {
        self.by_kind.keys().cloned().collect()
    }

    pub(super) fn find(&self, job_kind: &str) -> Option<&Rust> {
        self.by_kind.get(job_kind)
    }
}
