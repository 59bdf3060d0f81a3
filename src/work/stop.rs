//! Why a run should end early, told once.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// Why a run should end early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopReason {
    /// It took too long: counts as a failure.
    TimeLimit,
    /// The worker stops: given back.
    Shutdown,
    /// Somebody else may run it by now: nothing is reported.
    LeaseLost,
    /// Its cancellation was asked for.
    CancelRequested,
}

/// The wish to end one run, and its reason. Clones share both.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl Stop {
    /// Asks the run to end; the first reason stays.
    pub(super) fn ask(&self, reason: StopReason) {
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    pub(super) fn reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }

    pub(super) async fn asked(&self) {
        self.token.cancelled().await;
    }
}
