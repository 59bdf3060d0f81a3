//! Lets a handler run until it ends, or must end; a panic is its run's failure, not the worker's.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::timeout;

use super::board::Ending;
use super::handler::{JobContext, Outcome};
use super::shared::Shared;
use super::sql;
use super::stats;
use super::stop::StopReason;

/// How long a run may go on after it was asked to end, before it is dropped.
pub(super) const GRACE: Duration = Duration::from_secs(1);

type Panic = Box<dyn Any + Send>;

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ran {
    /// Its effect and its completion are committed, in one transaction.
    Succeeded,
    /// The lease was lost: nothing may be said of it.
    LeaseLost,
    /// To be reported.
    Report(Ending),
}

/// How a handler ended.
pub(super) struct Ended<T> {
    /// None: it did not, and was dropped.
    pub(super) outcome: Option<Result<T, Panic>>,
    /// Why it had been asked to end.
    pub(super) asked: Option<StopReason>,
}

/// Lets `run` go on until it ends or must.
pub(super) async fn guard<T>(
    shared: &Shared,
    context: &JobContext,
    run: impl Future<Output = T>,
) -> Ended<T> {
    let run = AssertUnwindSafe(run).catch_unwind();
    tokio::pin!(run);
    // the first poll ends what never waits, and needs no timer
    let first = std::future::poll_fn(|cx| Poll::Ready(run.as_mut().poll(cx))).await;
    if let Poll::Ready(outcome) = first {
        return Ended { outcome: Some(outcome), asked: None };
    }
    shared.board.pass_on();
    tokio::select! {
        biased;
        outcome = &mut run => return Ended { outcome: Some(outcome), asked: None },
        () = context.stop.asked() => {}
        () = tokio::time::sleep_until(context.deadline) => context.stop.ask(StopReason::TimeLimit),
    }
    // what ends well after all has ended well; it only must still be ours
    let outcome = timeout(GRACE, run).await.ok();
    Ended { outcome, asked: context.stop.reason() }
}

impl Ended<Outcome> {
    /// What is to be reported of it; nothing when the lease was lost.
    pub(super) fn ran(self, shared: &Shared, limit: Duration) -> Ran {
        Ran::Report(match (self.asked, self.outcome) {
            (Some(StopReason::LeaseLost), _) => return Ran::LeaseLost,
            (_, Some(Ok(Outcome::Succeeded { result_ref }))) => Ending::Succeeded { result_ref },
            (Some(StopReason::TimeLimit), _) => Ending::Transient(sql::over_limit(limit)),
            (Some(StopReason::Shutdown), _) => Ending::Released,
            (Some(StopReason::CancelRequested), _) | (_, None) => Ending::Cancelled,
            (None, Some(outcome)) => ending(shared, outcome),
        })
    }
}

fn ending(shared: &Shared, outcome: Result<Outcome, Panic>) -> Ending {
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
