//! Jobs of Rust handlers whose effect and completion are one transaction.
//!
//! The worker opens the transaction, the handler does its work in it, and `fn_job_succeed` is its last statement: when the
//! lease was lost meanwhile it refuses, and all is rolled back. So is every run that ends otherwise, before that is
//! reported.

use std::time::Duration;

use deadpool_postgres::Object;
use tokio::time::Instant;

use super::guard::{Ended, Ran, guard};
use super::handler::{JobContext, Outcome, StoredInTransaction};
use super::shared::Shared;
use super::sql::{self, no_answer};
use super::stop::StopReason;
use crate::error::{Error, Result};
use crate::model::job::Job;
use crate::model::refusal::Answer;
use crate::store;

/// Runs one job within `limit`.
pub(super) async fn run(
    shared: &Shared,
    handler: &dyn StoredInTransaction,
    job: &Job,
    limit: Duration,
    context: &JobContext,
) -> Ran {
    let mut lent = match shared.lender.lend(context.deadline, &context.stop).await {
        Ok(lent) => lent,
        Err(ending) => return Ran::Report(ending),
    };
    let tried = match lent.client() {
        Some(client) => try_in(shared, client, handler, job, limit, context).await,
        None => Err(no_answer()),
    };
    if matches!(tried, Ok(Tried::Cut(_))) {
        lent.spoil();
    }
    match lent.back(tried) {
        Ok(Tried::Ended(ran) | Tried::Cut(ran)) => ran,
        Err(error) => {
            let over = Instant::now() >= context.deadline;
            sql::ending(&error, limit, over, context.stop.reason())
        }
    }
}

/// How it went, and what is left of the connection.
enum Tried {
    /// The transaction has ended, or will by a ROLLBACK that is on its way.
    Ended(Ran),
    /// The handler was dropped in the middle of something.
    Cut(Ran),
}

async fn try_in(
    shared: &Shared,
    client: &mut Object,
    handler: &dyn StoredInTransaction,
    job: &Job,
    limit: Duration,
    context: &JobContext,
) -> Result<Tried> {
    let cancel = client.cancel_token();
    let begin = async {
        let begun = client.transaction().await;
        let transaction = begun.map_err(|error| Error::postgres("beginning a transaction", error))?;
        store::work::limit_transaction(&transaction, limit, job.traceparent.as_deref()).await?;
        Ok(transaction)
    };
    let transaction = shared.server.in_time(2, "beginning a transaction", begin).await?;
    let run = async { handler.run(job, &transaction, context).await };
    let Ended { outcome, asked } = guard(shared, context, run).await;
    let ran = |outcome| Ended { outcome, asked }.ran(shared, limit);
    match outcome {
        // dropped, the transaction is rolled back before anything else is done on its connection
        Some(Ok(Err(error))) => Err(Error::postgres(store::work::RUNNING, error)),
        Some(Ok(Ok(Outcome::Succeeded { result_ref }))) if asked != Some(StopReason::LeaseLost) => {
            let succeed = async {
                let lease = (job.job_id, job.lease_token);
                let answer = store::work::succeed_one(&transaction, lease, result_ref.as_deref()).await?;
                let Answer::Done(_) = answer else { return Ok(Ran::LeaseLost) };
                let committed = transaction.commit().await;
                committed.map(|()| Ran::Succeeded).map_err(|error| Error::postgres("committing", error))
            };
            shared.server.in_time(2, "completing a job", succeed).await.map(Tried::Ended)
        }
        Some(Ok(Ok(outcome))) => Ok(Tried::Ended(ran(Some(Ok(outcome))))),
        // its last statement may go on for long
        Some(Err(panic)) => {
            shared.server.cancel(cancel).await;
            Ok(Tried::Cut(ran(Some(Err(panic)))))
        }
        None => {
            shared.server.cancel(cancel).await;
            Ok(Tried::Cut(ran(None)))
        }
    }
}
