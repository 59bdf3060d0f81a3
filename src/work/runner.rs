//! Runs jobs: one task for each job that may run at the same time; each takes the next job when it has a hand free.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, timeout};

use super::board::{Ending, Taken};
use super::handler::{JobContext, Outcome, Stored};
use super::shared::Shared;
use super::sql::{self, SqlEnding};
use super::stats;
use super::stop::{Stop, StopReason};
use crate::model::job::Job;

/// How long a run may go on after it was asked to end, before it is dropped.
pub(super) const GRACE: Duration = Duration::from_secs(1);

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
    let limit = shared.kinds.time_limit(&job.job_kind).unwrap_or(shared.settings.time_limit);
    let ending = if let Some(handler) = shared.handlers.find(&job.job_kind) {
        rust(shared, handler.as_ref(), job, limit, stop).await
    } else if let Some(runner) = &shared.sql {
        shared.board.pass_on();
        sql(shared, runner, job, limit, stop).await
    } else {
        Some(Ending::Permanent(format!("no handler for {}", job.job_kind)))
    };
    if stop.reason() == Some(StopReason::TimeLimit) {
        stats::add(&shared.stats.time_limits, 1);
    }
    ending
}

fn tell_lost(shared: &Shared, job: &Job) {
    stats::add(&shared.stats.lease_lost, 1);
    tracing::warn!(job.id = %job.job_id, "{}: the lease was lost while it ran; its result is dropped", job.job_kind);
}

async fn sql(
    shared: &Shared,
    runner: &sql::SqlRunner,
    job: &Job,
    limit: Duration,
    stop: &Stop,
) -> Option<Ending> {
    let begun = Instant::now();
    match runner.run(job, limit, stop).await {
        // also when the keeper was told "lost" meanwhile: a job that has just ended is no lease any more
        SqlEnding::Succeeded => {
            stats::add(&shared.stats.succeeded, 1);
            tell_success(job.job_id, &job.job_kind, begun.elapsed());
            None
        }
        SqlEnding::LeaseLost => {
            tell_lost(shared, job);
            None
        }
        SqlEnding::Report(ending) => Some(ending),
    }
}

async fn rust(
    shared: &Shared,
    handler: &dyn Stored,
    job: &Job,
    limit: Duration,
    stop: &Stop,
) -> Option<Ending> {
    let deadline = Instant::now() + limit;
    let context = JobContext { stop: stop.clone(), deadline };
    // a panic is this run's failure, not the worker's
    let run = AssertUnwindSafe(async { handler.run(job, &context).await }).catch_unwind();
    tokio::pin!(run);
    // the first poll ends what never waits, and needs no timer
    let first = std::future::poll_fn(|cx| Poll::Ready(run.as_mut().poll(cx))).await;
    if let Poll::Ready(outcome) = first {
        return Some(ending(shared, outcome));
    }
    shared.board.pass_on();
    tokio::select! {
        biased;
        outcome = &mut run => return Some(ending(shared, outcome)),
        () = stop.asked() => {}
        () = tokio::time::sleep_until(deadline) => stop.ask(StopReason::TimeLimit),
    }
    // what ends well after all has ended well; it only must still be ours
    let outcome = timeout(GRACE, run).await.ok();
    match (stop.reason(), outcome) {
        (Some(StopReason::LeaseLost), _) => {
            tell_lost(shared, job);
            None
        }
        (_, Some(Ok(Outcome::Succeeded { result_ref }))) => Some(Ending::Succeeded { result_ref }),
        (Some(StopReason::TimeLimit), _) => Some(Ending::Transient(sql::over_limit(limit))),
        (Some(StopReason::Shutdown), _) => Some(Ending::Released),
        (Some(StopReason::CancelRequested), _) | (_, None) => Some(Ending::Cancelled),
        (_, Some(outcome)) => Some(ending(shared, outcome)),
    }
}

fn ending(shared: &Shared, outcome: Result<Outcome, Box<dyn Any + Send>>) -> Ending {
    match outcome {
        Ok(Outcome::Succeeded { result_ref }) => Ending::Succeeded { result_ref },
        Ok(Outcome::Transient(error)) => Ending::Transient(error),
        Ok(Outcome::Permanent(error)) => Ending::Permanent(error),
        Ok(Outcome::Snoozed(delay)) => Ending::Snoozed(delay),
        Ok(Outcome::Cancelled) => Ending::Cancelled,
        Err(panic) => {
            stats::add(&shared.stats.panics, 1);
            let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
            let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
            Ending::Transient(format!("the handler panicked: {}", words.unwrap_or_default()))
        }
    }
}

/// The line of a job that ended well.
pub(super) fn tell_success(id: uuid::Uuid, job_kind: &str, took: Duration) {
    tracing::info!(job.id = %id, "{job_kind} succeeded in {} ms", took.as_millis());
}
