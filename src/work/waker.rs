//! Folds notifications into two flags: look for jobs, and read anew what is said about kinds and gates.

use tokio::sync::Notify;

use super::stats::{self, WorkerStats};
use crate::model::executor::ExecutorKind;
use crate::postgres::listener::Wake;

/// Channel on which gates, handlers and pauses are announced.
const CONTROL: &str = "queue_control";

/// The flags; several notifications before a flag is taken are one.
#[derive(Debug, Default)]
pub(super) struct Waker {
    look: Notify,
    control: Notify,
}

impl Waker {
    /// The channels to listen on.
    pub(super) fn channels(kind: ExecutorKind) -> Vec<String> {
        vec![kind.wake_channel(), CONTROL.to_owned()]
    }

    /// Called by the listener, in line.
    pub(super) fn wake(&self, wake: &Wake, stats: &WorkerStats) {
        match wake {
            Wake::Channel(name) if name == CONTROL => self.control.notify_one(),
            Wake::Channel(_) => stats::add(&stats.notifications, 1),
            Wake::Resync => self.control.notify_one(),
        }
        self.look();
    }

    /// Somebody should look for jobs.
    pub(super) fn look(&self) {
        self.look.notify_one();
    }

    /// Ends when somebody should look for jobs.
    pub(super) async fn woken(&self) {
        self.look.notified().await;
    }

    /// Ends when what is said about kinds may have changed.
    pub(super) async fn control(&self) {
        self.control.notified().await;
    }
}
