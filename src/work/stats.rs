//! What a worker counts: plain counters that a metrics face can read.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Counters of one worker since its start. All of them only grow, but for the two gauges.
#[derive(Debug, Default)]
pub struct WorkerStats {
    pub(super) claimed: AtomicU64,
    pub(super) claims: AtomicU64,
    pub(super) empty_claims: AtomicU64,
    pub(super) succeeded: AtomicU64,
    pub(super) failed_transient: AtomicU64,
    pub(super) failed_permanent: AtomicU64,
    pub(super) snoozed: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) released: AtomicU64,
    pub(super) lease_lost: AtomicU64,
    pub(super) time_limits: AtomicU64,
    pub(super) panics: AtomicU64,
    pub(super) notifications: AtomicU64,
    pub(super) outages: AtomicU64,
    pub(super) unreported: AtomicU64,
    pub(super) running: AtomicU64,
    pub(super) waiting: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WorkerCounts {
    /// Jobs leased.
    pub claimed: u64,
    /// Claims sent.
    pub claims: u64,
    /// Claims that found nothing to do.
    pub empty_claims: u64,
    /// Jobs that ended well.
    pub succeeded: u64,
    /// Failures that may pass.
    pub failed_transient: u64,
    /// Failures that will not pass.
    pub failed_permanent: u64,
    /// Jobs given back until later.
    pub snoozed: u64,
    /// Runs that ended because their job was cancelled.
    pub cancelled: u64,
    /// Jobs given back.
    pub released: u64,
    /// Runs whose lease was lost; their result was dropped.
    pub lease_lost: u64,
    /// Runs that were ended at their time limit.
    pub time_limits: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Notifications that came.
    pub notifications: u64,
    /// Times that the database could not be reached.
    pub outages: u64,
    /// Outcomes that could not be reported while their lease lived.
    pub unreported: u64,
    /// Jobs running now.
    pub running: u64,
    /// Jobs claimed and not started yet.
    pub waiting: u64,
}

impl WorkerStats {
    /// The counters now; each is read for itself.
    pub fn counts(&self) -> WorkerCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WorkerCounts {
            claimed: read(&self.claimed),
            claims: read(&self.claims),
            empty_claims: read(&self.empty_claims),
            succeeded: read(&self.succeeded),
            failed_transient: read(&self.failed_transient),
            failed_permanent: read(&self.failed_permanent),
            snoozed: read(&self.snoozed),
            cancelled: read(&self.cancelled),
            released: read(&self.released),
            lease_lost: read(&self.lease_lost),
            time_limits: read(&self.time_limits),
            panics: read(&self.panics),
            notifications: read(&self.notifications),
            outages: read(&self.outages),
            unreported: read(&self.unreported),
            running: read(&self.running),
            waiting: read(&self.waiting),
        }
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

/// Sets a gauge.
pub(super) fn set(gauge: &AtomicU64, count: usize) {
    gauge.store(count as u64, Ordering::Relaxed);
}
