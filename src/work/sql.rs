//! Jobs that are SQL functions: effect and completion in one transaction (`fn_job_run`).
//!
//! The server's `statement_timeout` ends a run at its time limit; should the server not do it, we cancel the
//! statement and, when even that is not answered, drop the connection. The lease token fences all of it: a run that
//! we gave up cannot complete.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::board::Ending;
use super::guard::Ran;
use super::lent::{Lender, Lent};
use super::stop::{Stop, StopReason};
use crate::error::{Error, Kind, Result};
use crate::model::job::Job;
use crate::model::refusal::Answer;
use crate::store;

/// How much longer than the server's own limit we wait before we cancel.
const SLACK: Duration = Duration::from_millis(500);
/// How long a cancelled statement may take to answer.
const CANCELLED_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Runs SQL functions, each on a connection of its own.
#[derive(Debug)]
pub(super) struct SqlRunner {
    lender: Lender,
    /// The time limit that the connections begin with.
    limit: Duration,
}

impl SqlRunner {
    pub(super) fn new(lender: Lender, limit: Duration) -> Self {
        Self { lender, limit }
    }

    /// Runs one job within `limit`.
    pub(super) async fn run(&self, job: &Job, limit: Duration, stop: &Stop) -> Ran {
        let begun = Instant::now();
        let mut lent = match self.lender.lend(begun + limit, stop).await {
            Ok(lent) => lent,
            Err(ending) => return Ran::Report(ending),
        };
        let outcome = self.statement(&mut lent, job, limit, stop).await;
        match lent.back(outcome) {
            Ok(Answer::Done(_)) => Ran::Succeeded,
            Ok(Answer::Refused(_)) => Ran::LeaseLost,
            Err(error) => ending(&error, limit, begun.elapsed() >= limit, stop.reason()),
        }
    }

    /// Runs it. A connection that is not as it was afterwards does not go back to its pool: one with another time
    /// limit, and one for which a cancellation is under way, which might hit the next job's statement.
    async fn statement(&self, lent: &mut Lent, job: &Job, limit: Duration, stop: &Stop) -> Result<Answer> {
        let Some(client) = lent.client() else { return Err(no_answer()) };
        let cancel = client.cancel_token();
        let run = async {
            if limit == self.limit {
                return (
                    store::work::run(client, (job.job_id, job.lease_token), job.traceparent.as_deref()).await,
                    true,
                );
            }
            if let Err(error) = store::work::limit_statements(client, Some(limit)).await {
                return (Err(error), false);
            }
            let answer =
                store::work::run(client, (job.job_id, job.lease_token), job.traceparent.as_deref()).await;
            (answer, store::work::limit_statements(client, None).await.is_ok())
        };
        let (answer, is_as_it_was) = {
            tokio::pin!(run);
            let ended = tokio::select! {
                biased;
                ended = &mut run => Some(ended),
                () = stop.asked() => None,
                () = tokio::time::sleep(limit + SLACK) => {
                    stop.ask(StopReason::TimeLimit);
                    None
                }
            };
            if let Some(ended) = ended {
                ended
            } else {
                self.lender.server().cancel(cancel).await;
                match timeout(CANCELLED_ANSWERS_WITHIN, run).await {
                    Ok((answer, _)) => (answer, false),
                    Err(_) => (Err(no_answer()), false),
                }
            }
        };
        if !is_as_it_was {
            lent.spoil();
        }
        answer
    }
}

pub(super) fn no_answer() -> Error {
    Error::new(Kind::Unreachable, "the server does not answer")
}

/// What an error of a run means for its job: the SQLSTATE decides.
pub(super) fn ending(error: &Error, limit: Duration, over: bool, asked: Option<StopReason>) -> Ran {
    let state = error.sqlstate().unwrap_or_default();
    let cancelled = state == "57014";
    Ran::Report(match asked {
        _ if state == "RV002" => return Ran::LeaseLost,
        Some(StopReason::LeaseLost) => return Ran::LeaseLost,
        Some(StopReason::TimeLimit) => Ending::Transient(over_limit(limit)),
        _ if cancelled && over => Ending::Transient(over_limit(limit)),
        Some(StopReason::CancelRequested) if cancelled || state.is_empty() => Ending::Cancelled,
        Some(StopReason::Shutdown) if cancelled || state.is_empty() => Ending::Released,
        _ if is_permanent(state) => Ending::Permanent(words(error)),
        _ => Ending::Transient(words(error)),
    })
}

/// What the function raised, without what everybody knows.
fn words(error: &Error) -> String {
    let words = error.to_string();
    words
        .strip_prefix(store::work::RUNNING)
        .map_or(words.as_str(), |rest| rest.trim_start_matches(": "))
        .to_owned()
}

pub(super) fn over_limit(limit: Duration) -> String {
    format!("time limit of {} is over", humantime::format_duration(limit))
}

/// Whether trying again cannot help: the statement or its data are wrong, or the handler refused.
///
/// Everything else may pass: what a function raises by itself (P0001), conflicts (40), full disks and too many
/// connections (53), locks (55), cancellation and shutdown (57), lost connections (no SQLSTATE, 08).
fn is_permanent(state: &str) -> bool {
    const CLASSES: [&str; 7] = ["0A", "21", "22", "23", "2B", "42", "44"];
    // not yet granted, not yet there: what a deployment of the host brings in a moment
    const SOON: [&str; 3] = ["42501", "42883", "42P01"];
    state == "RV001"
        || (!SOON.contains(&state) && state.get(..2).is_some_and(|class| CLASSES.contains(&class)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstate_decides_whether_trying_again_can_help() {
        for state in ["0A000", "21000", "22012", "23505", "2BP01", "42601", "44000", "RV001"] {
            assert!(is_permanent(state), "{state}");
        }
        for state in
            ["", "08006", "P0001", "25006", "40001", "40P01", "53100", "55P03", "57014", "XX000", "RV002"]
        {
            assert!(!is_permanent(state), "{state}");
        }
    }
}
