//! The two signals that stop a long command.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Error, Result};
use crate::shutdown::Shutdown;
use crate::systemd;

/// SIGTERM and SIGINT, as the two steps of stopping.
#[derive(Debug)]
pub(super) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|error| Error::io("listening for signals", error));
        Ok(Self { term: listen(SignalKind::terminate())?, int: listen(SignalKind::interrupt())? })
    }

    /// Ends with the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }

    /// What `work` gives, which the first signal lets finish, and whether that came; none when the second came, too.
    pub(super) async fn let_finish<T>(&mut self, work: impl Future<Output = T>) -> Option<(T, bool)> {
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => return Some((done, false)),
            () = self.next() => {}
        }
        tokio::select! {
            done = &mut work => Some((done, true)),
            () = self.next() => None,
        }
    }

    /// Takes the first step at the first signal and ends with the second: at the next signal or at the deadline.
    pub(super) async fn two_steps(&mut self, shutdown: &Shutdown, deadline: Duration) {
        self.next().await;
        tracing::info!(
            "stopping: running work may finish within {}; once more to stop at once",
            humantime::format_duration(deadline)
        );
        systemd::stopping("running work may finish");
        shutdown.request();
        tokio::select! {
            () = self.next() => tracing::warn!("stopping at once"),
            () = tokio::time::sleep(deadline) => tracing::warn!("the deadline is over: stopping at once"),
        }
        shutdown.cut();
    }
}
