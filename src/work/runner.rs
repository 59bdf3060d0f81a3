//! Runs jobs: one task for each job that may run at the same time; each takes the next job when it has a hand free.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::board::{Ending, Taken};
use super::guard::{Ran, guard};
use super::handler::{JobContext, Rust};
use super::shared::Shared;
use super::stats;
use super::stop::{Stop, StopReason};
use super::transaction;
use super::worker::Worker;
use crate::model::job::{Job, Origin};
use crate::telemetry::{JobRun, Spans};

impl Worker {
    /// Makes a span of each run by `spans`, and hands the run's own `traceparent` to its handler.
    #[must_use]
    pub fn traced(mut self, spans: Spans) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.spans = spans;
        }
        self
    }
}

/// Runs jobs until no more will come.
pub(super) async fn run(shared: Arc<Shared>) {
    while let Some(Taken { mut job, stop }) = shared.board.next().await {
        let begun = Instant::now();
        let span = shared.spans.run(&mut job, &shared.beater.name);
        let ending = one(&shared, &job, &stop, span).await;
        shared.board.ended(job, begun.elapsed(), ending);
        // a handler that never waits must not keep this thread for itself
        tokio::task::consume_budget().await;
    }
}

/// Runs one job; nothing to report when it has been, or must not be.
async fn one(shared: &Shared, job: &Job, stop: &Stop, span: JobRun) -> Option<Ending> {
    let begun = Instant::now();
    let kinds = || shared.kinds.time_limit(&job.job_kind);
    let limit = job.time_limit().or_else(kinds).unwrap_or(shared.settings.time_limit);
    let ran = if let Some(handler) = shared.handlers.find(&job.job_kind) {
        let context = JobContext { stop: stop.clone(), deadline: begun + limit };
        rust(shared, handler, job, limit, &context).await
    } else if let Some(runner) = &shared.sql {
        shared.board.pass_on();
        runner.run(job, limit, stop).await
    } else {
        Ran::Report(Ending::Permanent(format!("no handler for {}", job.job_kind)))
    };
    if stop.reason() == Some(StopReason::TimeLimit) {
        stats::add(&shared.stats.time_limits, 1);
    }
    let (outcome, error) = told(&ran);
    span.end(outcome, error);
    complete(shared, job, begun, ran)
}

/// How a run ended, as its span says it, and the error of a failure.
fn told(ran: &Ran) -> (&'static str, Option<&str>) {
    match ran {
        Ran::Succeeded | Ran::Report(Ending::Succeeded { .. }) => ("succeeded", None),
        Ran::LeaseLost => ("lease_lost", Some("the lease was lost while it ran")),
        Ran::Report(Ending::Transient(error)) => ("failed_transient", Some(error)),
        Ran::Report(Ending::Permanent(error)) => ("failed_permanent", Some(error)),
        Ran::Report(Ending::Snoozed(_)) => ("snoozed", None),
        Ran::Report(Ending::Cancelled) => ("cancelled", None),
        Ran::Report(Ending::Released) => ("released", None),
    }
}

async fn rust(shared: &Shared, handler: &Rust, job: &Job, limit: Duration, context: &JobContext) -> Ran {
    match handler {
        Rust::Plain(handler) => {
            guard(shared, context, async { handler.run(job, context).await }).await.ran(shared, limit)
        }
        Rust::InTransaction(handler) => {
            shared.board.pass_on();
            transaction::run(shared, handler.as_ref(), job, limit, context).await
        }
    }
}

/// What is left to report of a run.
fn complete(shared: &Shared, job: &Job, begun: Instant, ran: Ran) -> Option<Ending> {
    match ran {
        // also when the keeper was told "lost" meanwhile: a job that has just ended is no lease any more
        Ran::Succeeded => {
            stats::add(&shared.stats.succeeded, 1);
            tell_success(job.job_id, &job.job_kind, &job.origin(), begun.elapsed());
            None
        }
        Ran::LeaseLost => {
            tell_lost(shared, job);
            None
        }
        Ran::Report(ending) => Some(ending),
    }
}

fn tell_lost(shared: &Shared, job: &Job) {
    stats::add(&shared.stats.lease_lost, 1);
    let origin = job.origin();
    tracing::warn!(job.id = %job.job_id, event.id = origin.event_id.map(tracing::field::display), trace_id = origin.trace_id.as_deref(), "{}: the lease was lost while it ran; its result is dropped", job.job_kind);
}

/// The line of a job that ended well.
pub(super) fn tell_success(id: uuid::Uuid, job_kind: &str, origin: &Origin, took: Duration) {
    tracing::info!(job.id = %id, event.id = origin.event_id.map(tracing::field::display), trace_id = origin.trace_id.as_deref(), "{job_kind} succeeded in {} ms", took.as_millis());
}
