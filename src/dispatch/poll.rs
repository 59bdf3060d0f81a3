//! The statements of no domain: the timer's, with how long to wait for it, and the check of the positions.

use std::time::Duration;

use deadpool_postgres::Pool;

use crate::error::Result;
use crate::model::refusal::Answer;
use crate::postgres::Server;
use crate::postgres::listener::ListenerStatus;
use crate::postgres::pool::hand_back;
use crate::store;

/// The poll interval, up to a quarter longer, so that sidecars do not poll in step (trap 20).
pub(super) fn pause(interval: Duration) -> Duration {
    let [first, ..] = *uuid::Uuid::new_v4().as_bytes();
    interval.mul_f64(1.0 + f64::from(first) / 1024.0)
}

/// SQLSTATE of a commit whose notifications the full queue does not take (trap 4).
const QUEUE_FULL: &str = "54000";

/// The timer's one statement; sends the listener's canary when one is due.
pub(super) async fn poll(
    server: &Server,
    pool: &Pool,
    domains: &[String],
    listener: Option<&ListenerStatus>,
) -> Result<Answer> {
    let client = server.take(pool).await?;
    let ask = async |sent: Option<(&str, &str)>| {
        server.in_time(1, "polling for events", store::dispatch::poll(&client, Some(domains), sent)).await
    };
    let outcome = match listener.and_then(|listener| Some((listener, listener.canary_due()?))) {
        None => ask(None).await,
        Some((listener, canary)) => match ask(Some((canary.channel(), &canary.token()))).await {
            Err(error) if error.sqlstate() == Some(QUEUE_FULL) => ask(None).await, // the canary stays at home
            outcome => {
                if outcome.is_ok() {
                    listener.canary_sent(&canary);
                }
                outcome
            }
        },
    };
    hand_back(client, outcome)
}

/// Makes sure that the positions speak of this cluster.
pub(super) async fn attach(server: &Server, pool: &Pool) -> Result<()> {
    let client = server.take(pool).await?;
    let outcome = server.in_time(1, "checking the positions", store::dispatch::attach(&client)).await;
    if hand_back(client, outcome)? {
        tracing::warn!(
            "a restored dump: kept arrivals are read again, the unique key of job_queue absorbs repeats"
        );
    }
    Ok(())
}
