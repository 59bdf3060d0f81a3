//! Jobs that are SQL functions: effect and completion in one transaction (`fn_job_run`).
//!
//! The server's `statement_timeout` ends a run at its time limit; should the server not do it, we cancel the
//! statement and, when even that is not answered, drop the connection. The lease token fences all of it: a run that
//! we gave up cannot complete.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::time::{Instant, timeout};

use super::board::Ending;
use super::stop::{Stop, StopReason};
use crate::backoff::Backoff;
use crate::error::{Error, Kind, Result};
use crate::model::job::Job;
use crate::model::refusal::Answer;
use crate::postgres::pool::hand_back;
use crate::postgres::{Server, Session};
use crate::store;

/// How much longer than the server's own limit we wait before we cancel.
const SLACK: Duration = Duration::from_millis(500);
/// How long a cancelled statement may take to answer.
const CANCELLED_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Runs SQL functions, each on a connection of its own.
#[derive(Debug)]
pub(super) struct SqlRunner {
    server: Server,
    pool: Pool,
    /// The time limit that the connections begin with.
    limit: Duration,
}

/// How a run of an SQL function ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SqlEnding {
    /// Effect and completion are committed.
    Succeeded,
    /// The lease was lost, and with it the effect.
    LeaseLost,
    /// To be reported.
    Report(Ending),
}

impl SqlRunner {
    pub(super) fn new(server: &Server, concurrency: usize, limit: Duration) -> Result<Self> {
        let session = Session { statement_timeout: limit, synchronous_commit: true };
        let pool = server.pool("worker-jobs", concurrency, &session)?;
        Ok(Self { server: server.clone(), pool, limit })
    }

    /// Runs one job within `limit`.
    pub(super) async fn run(&self, job: &Job, limit: Duration, stop: &Stop) -> SqlEnding {
        let begun = Instant::now();
        let mut lent = match self.connection(begun + limit, stop).await {
            Ok(client) => Lent(Some(client)),
            Err(ending) => return SqlEnding::Report(ending),
        };
        let outcome = self.statement(&mut lent, job, limit, stop).await;
        match lent.back(outcome) {
            Ok(Answer::Done(_)) => SqlEnding::Succeeded,
            Ok(Answer::Refused(_)) => SqlEnding::LeaseLost,
            Err(error) => ending(&error, limit, begun.elapsed() >= limit, stop.reason()),
        }
    }

    /// A connection; waits through an outage, so that the job does not fail for it.
    async fn connection(&self, deadline: Instant, stop: &Stop) -> Result<Object, Ending> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let error = match self.server.take(&self.pool).await {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            let pause = backoff.next_delay();
            if !error.is_retryable() || Instant::now() + pause >= deadline {
                return Err(Ending::Transient(format!("not run: {error}")));
            }
            tokio::select! {
                () = stop.asked() => return Err(Ending::Released),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Runs it. A connection that is not as it was afterwards does not go back to its pool: one with another time
    /// limit, and one for which a cancellation is under way, which might hit the next job's statement.
    async fn statement(&self, lent: &mut Lent, job: &Job, limit: Duration, stop: &Stop) -> Result<Answer> {
        let Some(client) = &lent.0 else { return Err(no_answer()) };
        let cancel = client.cancel_token();
        let run = async {
            if limit == self.limit {
                return (store::work::run(client, (job.job_id, job.lease_token)).await, true);
            }
            if let Err(error) = store::work::limit_statements(client, Some(limit)).await {
                return (Err(error), false);
            }
            let answer = store::work::run(client, (job.job_id, job.lease_token)).await;
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
                self.server.cancel(cancel).await;
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

fn no_answer() -> Error {
    Error::new(Kind::Unreachable, "the server does not answer")
}

/// What an error of a run means for its job: the SQLSTATE decides.
fn ending(error: &Error, limit: Duration, over: bool, asked: Option<StopReason>) -> SqlEnding {
    let state = error.sqlstate().unwrap_or_default();
    let cancelled = state == "57014";
    SqlEnding::Report(match asked {
        _ if state == "RV002" => return SqlEnding::LeaseLost,
        Some(StopReason::LeaseLost) => return SqlEnding::LeaseLost,
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

/// A connection that goes back to its pool only when its statement has ended: dropped in the middle of one, it
/// would make the next job wait for this one's statement.
struct Lent(Option<Object>);

impl Lent {
    /// The connection is closed; somebody else gets a new one.
    fn spoil(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }

    fn back<T>(mut self, outcome: Result<T>) -> Result<T> {
        match self.0.take() {
            Some(client) => hand_back(client, outcome),
            None => outcome,
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.spoil();
    }
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
