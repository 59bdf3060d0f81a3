//! What wakes the scheduler before its time.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::postgres::listener::Wake;

/// Where schedules, gates and pauses are announced.
const CONTROL: &str = "queue_control";

/// Wakes the scheduler when something may have changed.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<Notify>);

impl Bell {
    /// Takes note of a wake-up that concerns schedules. Never blocks.
    pub fn hear(&self, wake: &Wake) {
        let concerns = match wake {
            Wake::Channel(channel) | Wake::Named { channel, .. } => channel == CONTROL,
            Wake::Resync => true,
        };
        if concerns {
            self.0.notify_one();
        }
    }

    /// Ends when it has rung since the last call.
    pub(super) async fn rings(&self) {
        self.0.notified().await;
    }
}
