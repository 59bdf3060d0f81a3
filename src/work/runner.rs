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
use crate::model::job::{Job, Origin};

/// Runs jobs until no more will come.
pub(super) async fn run(shared: Arc<Shared>) {
    while let Some(Taken { job, stop }) = shared.board.next().await {
        let begun = Instant::now();
        let ending = one(&shared, &job, &stop).await;
        shared.board.ended(job, begun.elapsed(), ending);
        // a handler that never waits must not keep this thread for itself
        tokio::task::consume_budget().await;
    }
}

/// Runs one job; nothing to report when it has been, or must not be.
async fn one(shared: &Shared, job: &Job, stop: &Stop) -> Option<Ending> {
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
    complete(shared, job, begun, ran)
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
