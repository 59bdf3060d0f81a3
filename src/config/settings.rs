//! What the settings mean: plain values, checked once. `config.toml` explains each key to operators; a
//! test keeps it equal to the defaults here.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::model::executor::ExecutorKind;

use super::redact::redact;

/// All settings of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// How to reach the database.
    pub database: Database,
    /// How events become jobs.
    pub dispatch: Dispatch,
    /// The connection that hears wake-ups.
    pub listener: Listener,
    /// The reconciliation sweep.
    pub sweep: Sweep,
    /// Running jobs.
    pub worker: Worker,
    /// Recurring chores.
    pub maintenance: Maintenance,
    /// The HTTP face.
    pub http: Http,
    /// Stopping.
    pub shutdown: Shutdown,
    /// The log on standard error.
    pub log: Log,
}

/// `[database]`: how to reach the database. `Debug` hides passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct Database {
    /// Address as `postgres://user:password@host:port/name`, or empty when none was given.
    pub url: String,
    /// Direct address for LISTEN when `url` goes through a pooler; empty means `url`.
    pub listen_url: String,
    /// The one schema that holds every table and function.
    pub schema: String,
    /// Most connections of the pool.
    pub pool_size: usize,
    /// Longest wait for a new connection, from the first packet to the first answer.
    pub connect_timeout: Duration,
    /// Longest run of one statement.
    pub statement_timeout: Duration,
    /// How long sent data may stay unacknowledged; zero leaves it to the system.
    pub tcp_user_timeout: Duration,
    /// Silence on a connection before the first keepalive probe.
    pub keepalive_idle: Duration,
    /// A PEM file of root certificates; empty means those of the system.
    pub tls_root_cert: String,
}

impl Database {
    /// The address on which to LISTEN.
    pub fn listen_address(&self) -> &str {
        if self.listen_url.is_empty() { &self.url } else { &self.listen_url }
    }
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: String::new(),
            listen_url: String::new(),
            schema: "public".to_owned(),
            pool_size: 4,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            tcp_user_timeout: Duration::from_secs(10),
            keepalive_idle: Duration::from_secs(10),
            tls_root_cert: String::new(),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("url", &redact(&self.url))
            .field("listen_url", &redact(&self.listen_url))
            .field("schema", &self.schema)
            .field("pool_size", &self.pool_size)
            .field("connect_timeout", &self.connect_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("tcp_user_timeout", &self.tcp_user_timeout)
            .field("keepalive_idle", &self.keepalive_idle)
            .field("tls_root_cert", &self.tls_root_cert)
            .finish()
    }
}

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
    /// The registered name to claim under; empty when none was given.
    pub executor_name: String,
    /// The kind of executor that it is.
    pub kind: ExecutorKind,
    /// Jobs run at the same time.
    pub concurrency: usize,
    /// Jobs held ready beyond those running; zero means as many as `concurrency`.
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
    /// Jobs held ready beyond those running.
    pub fn prefetch_limit(&self) -> usize {
        if self.prefetch == 0 { self.concurrency } else { self.prefetch }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            executor_name: String::new(),
            kind: ExecutorKind::PgWorker,
            concurrency: 4,
            prefetch: 0,
            batch_size: 100,
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
    /// How long finished dispatch passes are kept.
    pub keep_passes_for: Duration,
    /// Time between two heartbeats of this process.
    pub heartbeat_interval: Duration,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            interval: Duration::from_mins(1),
            keep_passes_for: Duration::from_hours(24),
            heartbeat_interval: Duration::from_mins(1),
        }
    }
}

/// `[http]`: liveness, readiness, metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Whether to serve at all.
    pub enabled: bool,
    /// The address to serve on.
    pub listen: SocketAddr,
}

impl Default for Http {
    fn default() -> Self {
        Self { enabled: true, listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7045)) }
    }
}

/// `[shutdown]`: stopping in two steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// How long running work may take to finish after the first signal.
    pub deadline: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(25) }
    }
}

/// `[log]`: the log on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// The least severe line shown; `REVEILLE_LOG` and `RUST_LOG` can say more, per module.
    pub level: LogLevel,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One readable line.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}
