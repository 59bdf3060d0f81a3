//! Stopping in two steps: first take no more work, then, at the deadline or on the second signal, cut.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Handed to every loop. Cloning is cheap; all clones share the two steps.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
}

impl Shutdown {
    /// Nothing requested yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// First step: finish what runs, take nothing new.
    pub fn request(&self) {
        self.soft.cancel();
    }

    /// Second step: stop at once.
    pub fn cut(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }

    /// Whether the first step has been taken.
    pub fn is_requested(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Whether the second step has been taken.
    pub fn is_cut(&self) -> bool {
        self.hard.is_cancelled()
    }

    /// Ends when the first step is taken.
    pub async fn requested(&self) {
        self.soft.cancelled().await;
    }

    /// Ends when the second step is taken.
    pub async fn was_cut(&self) {
        self.hard.cancelled().await;
    }

    /// Waits for `pause`; false when the first step came first.
    pub async fn pause(&self, pause: Duration) -> bool {
        tokio::select! {
            () = self.soft.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }
}
