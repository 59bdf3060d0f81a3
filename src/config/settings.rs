//! What the settings mean: plain values, checked once. `config.toml` explains each key to operators; a
//! test keeps it equal to the defaults here.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::redact::redact;
use super::services::{Dispatch, Listener, Maintenance, Sweep, Worker};

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
    /// The export of spans.
    pub telemetry: Telemetry,
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
    /// Connections for passes and polls of the sidecar.
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

/// `[http]`: dashboard, liveness, readiness, metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Whether to serve at all.
    pub enabled: bool,
    /// The address to serve on.
    pub listen: SocketAddr,
    /// Names beside addresses and `localhost` under which the dashboard and `/api/v1` may be asked.
    pub hosts: Vec<String>,
    /// What signs in at the dashboard; where this is empty and there is no `token_file`, nothing can be written there.
    pub token: Secret,
    /// A file that holds it instead; [`Http::read_token`] reads it. Empty: none.
    pub token_file: PathBuf,
    /// Whether browsers come over TLS, through a proxy: the cookie of a session is sent over nothing else then.
    pub behind_tls: bool,
}

/// Text that is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(none)" } else { "***" })
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7045)),
            hosts: Vec::new(),
            token: Secret::default(),
            token_file: PathBuf::new(),
            behind_tls: false,
        }
    }
}

/// `[telemetry]`: spans of job runs and dispatch passes, for a collector. `Debug` hides the headers.
#[derive(Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// The collector's address for OTLP over HTTP; empty means that there is none, and no spans are made.
    pub endpoint: String,
    /// What each request says beside, as `name=value,name=value`, values percent-encoded.
    pub headers: String,
    /// The only protocol there is.
    pub protocol: Protocol,
    /// The name under which the spans are found.
    pub service_name: String,
    /// Longest time of one request.
    pub timeout: Duration,
    /// Whether the endpoint is that of the standard variables, which platforms set for everybody.
    pub is_of_platform: bool,
    /// What of the standard variables does not fit; it is left out, and must be said.
    pub unfit: Option<String>,
}

/// How spans travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// OTLP as protobuf over HTTP.
    #[default]
    HttpProtobuf,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            headers: String::new(),
            protocol: Protocol::default(),
            service_name: "reveille".to_owned(),
            timeout: Duration::from_secs(10),
            is_of_platform: false,
            unfit: None,
        }
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("endpoint", &redact(&self.endpoint))
            .field("service_name", &self.service_name)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
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
