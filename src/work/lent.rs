//! Connections for runs whose effect and completion are one transaction: each run has one of its own.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::time::Instant;

use super::board::Ending;
use super::stop::Stop;
use crate::backoff::Backoff;
use crate::error::Result;
use crate::postgres::pool::hand_back;
use crate::postgres::{Server, Session};

/// Lends connections, one for each run at most.
#[derive(Debug, Clone)]
pub(super) struct Lender {
    server: Server,
    pool: Pool,
}

impl Lender {
    /// For so many runs; `limit` is the time limit that the connections begin with.
    pub(super) fn new(server: &Server, concurrency: usize, limit: Duration) -> Result<Self> {
        let session = Session { statement_timeout: limit, synchronous_commit: true };
        Ok(Self { server: server.clone(), pool: server.pool("worker-jobs", concurrency, &session)? })
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// A connection; waits through an outage, so that the job does not fail for it.
    pub(super) async fn lend(&self, deadline: Instant, stop: &Stop) -> Result<Lent, Ending> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let error = match self.server.take(&self.pool).await {
                Ok(client) => return Ok(Lent(Some(client))),
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
}

/// A connection that goes back to its pool only when its statement has ended: dropped in the middle of one, it
/// would make the next job wait for this one's statement.
pub(super) struct Lent(Option<Object>);

impl Lent {
    pub(super) fn client(&mut self) -> Option<&mut Object> {
        self.0.as_mut()
    }

    /// The connection is closed; somebody else gets a new one.
    pub(super) fn spoil(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }

    pub(super) fn back<T>(mut self, outcome: Result<T>) -> Result<T> {
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
