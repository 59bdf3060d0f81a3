//! The statements of no domain: the timer's, with how long to wait for it, and the check of the positions.

use std::time::Duration;

use deadpool_postgres::Pool;

use crate::error::Result;
use crate::model::refusal::Answer;
use crate::postgres::Server;
use crate::postgres::listener::{Canary, ListenerStatus};
use crate::postgres::pool::hand_back;
use crate::store;

/// The poll interval, up to a quarter longer, so that sidecars do not poll in step (trap 20).
pub(super) fn pause(interval: Duration) -> Duration {
    let [first, ..] = *uuid::Uuid::new_v4().as_bytes();
    interval.mul_f64(1.0 + f64::from(first) / 1024.0)
}

/// The timer's one statement; sends the listener's canary when one is due.
pub(super) async fn poll(
    server: &Server,
    pool: &Pool,
    domains: &[String],
    listener: Option<&ListenerStatus>,
) -> Result<Answer> {
    let client = server.take(pool).await?;
    let canary = listener.and_then(ListenerStatus::canary_due);
    let token = canary.as_ref().map(Canary::token);
    let sent = canary.as_ref().zip(token.as_deref()).map(|(canary, token)| (canary.channel(), token));
    let outcome =
        server.in_time(1, "polling for events", store::dispatch::poll(&client, Some(domains), sent)).await;
    if let (Ok(_), Some(listener), Some(canary)) = (&outcome, listener, &canary) {
        listener.canary_sent(canary);
    }
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
