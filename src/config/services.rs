//! Settings of the services: dispatch, listener, sweep, worker, maintenance.

use std::time::Duration;

use crate::model::executor::ExecutorKind;

/// `[dispatch]`: how events become jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// Domains to dispatch; empty means every domain.
    pub domains: Vec<String>,
    /// Whether to hear wake-ups; false means poll only.
    pub listen: bool,
    /// Pause between two looks while nothing wakes us.
    pub poll_interval: Duration,
    /// Most events in one pass, which is one transaction.
    pub batch_size: u32,
    /// Domains dispatched at the same time.
    pub concurrency: usize,
    /// Whether a pass waits for the server's disk; a lost pass is done again.
    pub synchronous_commit: bool,
    /// How long the awake mark spares producers their NOTIFY after the last event.
    pub awake_for: Duration,
    /// Pause between two looks while awake.
    pub look_interval: Duration,
    /// Looks in a row that may find nothing before sleep.
    pub empty_looks_before_sleep: u32,
    /// Gap between events below which they count as one stream.
    pub stream_gap: Duration,
}

impl Default for Dispatch {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            listen: true,
            poll_interval: Duration::from_secs(1),
            batch_size: 1000,
            concurrency: 2,
            synchronous_commit: false,
            awake_for: Duration::from_secs(1),
            look_interval: Duration::from_millis(3),
            empty_looks_before_sleep: 50,
            stream_gap: Duration::from_millis(10),
        }
    }
}

/// `[listener]`: the connection that hears wake-ups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Time between two canaries.
    pub canary_interval: Duration,
    /// Longest wait for a canary before the connection is rebuilt.
    pub canary_timeout: Duration,
    /// First pause before a new connection.
    pub backoff_first: Duration,
    /// Longest pause before a new connection.
    pub backoff_cap: Duration,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            canary_interval: Duration::from_secs(10),
            canary_timeout: Duration::from_secs(5),
            backoff_first: Duration::from_millis(100),
            backoff_cap: Duration::from_secs(5),
        }
    }
}

/// `[sweep]`: the reconciliation that needs no trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// Time between two sweeps.
    pub interval: Duration,
    /// How long a transaction may stay open after its event before the sweep leaves it to the next one.
    pub margin: Duration,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { interval: Duration::from_mins(1), margin: Duration::from_mins(1) }
    }
}

/// `[worker]`: running jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// The registered name to claim under; empty: one made up for each process.
    pub executor_name: String,
    /// The kind of executor that it is.
    pub kind: ExecutorKind,
    /// Jobs run at the same time.
    pub concurrency: usize,
    /// Jobs held ready beyond those running, as far as they will start soon; zero means two batches.
    pub prefetch: usize,
    /// Most jobs claimed or finished by one statement.
    pub batch_size: u32,
    /// Lease of a claim; zero means the gate key `queue.lease.duration_sec`.
    pub lease: Duration,
    /// Pause between two looks while nothing wakes us.
    pub poll_interval: Duration,
    /// Longest run of one job.
    pub time_limit: Duration,
    /// Kinds of job to claim; empty means every kind that has a handler.
    pub job_kinds: Vec<String>,
}

impl Worker {
    /// Most jobs claimed or finished by one statement.
    pub fn batch_limit(&self) -> usize {
        usize::try_from(self.batch_size).unwrap_or(usize::MAX).max(1)
    }

    /// Most jobs held ready beyond those running: one batch to run while the next one is claimed.
    pub fn prefetch_limit(&self) -> usize {
        if self.prefetch == 0 { self.batch_limit().saturating_mul(2) } else { self.prefetch }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            executor_name: String::new(),
            kind: ExecutorKind::PgWorker,
            concurrency: 4,
            prefetch: 0,
            batch_size: 1000,
            lease: Duration::ZERO,
            poll_interval: Duration::from_secs(1),
            time_limit: Duration::from_mins(5),
            job_kinds: Vec::new(),
        }
    }
}

/// `[maintenance]`: recurring chores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// Time between two rounds of chores.
    pub interval: Duration,
    /// Time between two looks for leases that ended unreported.
    pub reap_interval: Duration,
    /// Time between two rounds of the archiver.
    pub archive_interval: Duration,
    /// Time between two rounds of the audit.
    pub audit_interval: Duration,
    /// Longest time between two looks at the schedules.
    pub schedule_interval: Duration,
    /// How long finished dispatch passes are kept.
    pub keep_passes_for: Duration,
    /// Time between two heartbeats of the sidecar's parts.
    pub heartbeat_interval: Duration,
    /// The registered name that its dispatcher beats under; the others' are made from it. Empty: made up for each process.
    pub executor_name: String,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            interval: Duration::from_mins(1),
            reap_interval: Duration::from_secs(30),
            archive_interval: Duration::from_mins(5),
            audit_interval: Duration::from_mins(1),
            schedule_interval: Duration::from_mins(1),
            keep_passes_for: Duration::from_hours(24),
            heartbeat_interval: Duration::from_mins(1),
            executor_name: String::new(),
        }
    }
}
