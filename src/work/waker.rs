//! Folds notifications into three flags: look for jobs, look because nobody else will, and read anew what is said about
//! kinds and gates.

use tokio::sync::{Notify, watch};

use super::stats::{self, WorkerStats};
use crate::model::executor::ExecutorKind;
use crate::postgres::listener::{Standing, Wake};
use crate::store::wakes::REST;

/// Channel on which gates, handlers and pauses are announced.
const CONTROL: &str = "queue_control";

/// The flags; several notifications before a flag is taken are one.
#[derive(Debug, Default)]
pub(super) struct Waker {
    look: Notify,
    named: Notify,
    control: Notify,
    /// Whether the worker has nothing to do and room: then it may be named.
    rests: watch::Sender<bool>,
}

impl Waker {
    /// The channels to listen on.
    pub(super) fn channels(kind: ExecutorKind) -> Vec<String> {
        vec![kind.wake_channel(), CONTROL.to_owned()]
    }

    /// What the listener's session says of this worker.
    pub(super) fn standing(&self, name: &str) -> Standing {
        Standing { sql: REST, name: name.to_owned(), wanted: self.rests.subscribe() }
    }

    /// From now on the worker rests, or does no more; whether it did before.
    pub(super) fn rest(&self, rests: bool) -> bool {
        let mut did = rests;
        self.rests.send_if_modified(|now| {
            did = std::mem::replace(now, rests);
            did != rests
        });
        did
    }

    /// Called by the listener, in line.
    pub(super) fn wake(&self, wake: &Wake, own_name: &str, stats: &WorkerStats) {
        match wake {
            Wake::Channel(channel) | Wake::Named { channel, .. } if channel == CONTROL => {
                self.control.notify_one();
            }
            Wake::Channel(_) => stats::add(&stats.notifications, 1),
            Wake::Named { name, .. } if name == own_name => {
                stats::add(&stats.notifications, 1);
                self.named.notify_one();
                return;
            }
            Wake::Named { .. } => return, // somebody else's
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

    /// Ends when somebody has sent for this worker alone: it looks, or sees to it that another one does.
    pub(super) async fn named(&self) {
        self.named.notified().await;
    }

    /// Ends when what is said about kinds may have changed.
    pub(super) async fn control(&self) {
        self.control.notified().await;
    }
}
