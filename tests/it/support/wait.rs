//! Waiting for a condition instead of sleeping.

use std::time::{Duration, Instant};

/// Long enough for anything that takes milliseconds on an idle machine, on a busy one.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Asks again and again until the answer is true; panics with `what` at the deadline.
pub(crate) async fn wait_until(what: &str, deadline: Duration, mut holds: impl AsyncFnMut() -> bool) {
    wait_for(what, deadline, async || holds().await.then_some(())).await;
}

/// Asks again and again until there is an answer; panics with `what` at the deadline.
pub(crate) async fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut answer: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(2);
    loop {
        let asked = tokio::time::timeout(deadline, answer()).await;
        match asked {
            Ok(Some(found)) => return found,
            Err(elapsed) => panic!("{what}: no answer within {deadline:?} ({elapsed})"),
            Ok(None) if Instant::now() >= end => panic!("{what}: not so within {deadline:?}"),
            Ok(None) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
