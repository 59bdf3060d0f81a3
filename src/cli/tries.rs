//! Statements that were in another session's way are tried again.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::error::Result;

/// How often one is tried.
const TRIES: usize = 5;

/// What `ask` answers; asked again after a deadlock, a serialization failure or a lock that could not be had.
pub(super) async fn tried<T>(mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    for _ in 1..TRIES {
        match ask().await {
            Err(error) if matches!(error.sqlstate(), Some("40P01" | "40001" | "55P03")) => {
                tokio::time::sleep(backoff.next_delay()).await;
            }
            answer => return answer,
        }
    }
    ask().await
}
