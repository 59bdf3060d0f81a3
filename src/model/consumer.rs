//! A consumer: which facts it wants, and which job each becomes. One row of `consumer_registry`, one TOML file.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::executor::ExecutorKind;

/// The streams that an event can belong to.
pub const STREAMS: [&str; 7] = ["comment", "review", "update", "birth", "task", "alert", "health"];

/// The key that a consumer's jobs get when it names none.
pub const DEFAULT_IDEMPOTENCY_KEY: &str = "{consumer_key}:{event_id}";

/// The same for a consumer that fans out.
pub const FAN_OUT_IDEMPOTENCY_KEY: &str = "{consumer_key}:{event_id}:{recipient}";

/// What `fan_out` can say: one job for each recipient of the event.
pub const RECIPIENTS: &str = "recipients";

/// The source that a consumer's jobs get when it names none.
pub const DEFAULT_SOURCE_REF: &str = "{event_subject_ref}";

/// A consumer as its author wrote it, with the defaults of `consumer_registry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Its name: the name of its file.
    pub key: String,
    /// The domain whose events it reads.
    pub event_domain: String,
    /// The type of those it wants, exact or with `*`.
    pub event_type: String,
    /// The stream of those it wants; none for any.
    pub event_stream: Option<String>,
    /// A jsonpath predicate over `{"event": …, "payload": …}`.
    pub filter: Option<String>,
    /// The kind of the jobs it makes; none for a terminal consumer, which sees the fact and makes no job.
    pub job_kind: Option<String>,
    /// Who runs them.
    pub executor: ExecutorKind,
    /// 0 first.
    pub priority: u16,
    /// Failures before a job is dead; none leaves it to the database's settings.
    pub max_attempts: Option<u32>,
    /// How long a job waits before it can be claimed.
    pub delay: Duration,
    /// Template of the jobs' source.
    pub source_ref: Option<String>,
    /// Template of the jobs' target.
    pub target_ref: Option<String>,
    /// Template of where the jobs' data lies.
    pub payload_ref: Option<String>,
    /// Template of the key whose jobs run one after another.
    pub ordering_key: Option<String>,
    /// Template of the key that makes a job once only.
    pub idempotency_key: String,
    /// Whether it begins enabled; afterwards the operator decides.
    pub enabled: bool,
    /// Match and count, make nothing.
    pub dry_run: bool,
    /// [`RECIPIENTS`]: one job for each recipient of the event; none for one job.
    pub fan_out: Option<String>,
    /// Events created before do not flow; none begins when the row is first written.
    pub starts_at: Option<Timestamp>,
    /// What it is for.
    pub description: Option<String>,
}

impl Consumer {
    /// A terminal consumer of a whole domain, with every default.
    pub fn new(key: impl Into<String>, event_domain: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            event_domain: event_domain.into(),
            event_type: "*".to_owned(),
            event_stream: None,
            filter: None,
            job_kind: None,
            executor: ExecutorKind::PgWorker,
            priority: 100,
            max_attempts: None,
            delay: Duration::ZERO,
            source_ref: Some(DEFAULT_SOURCE_REF.to_owned()),
            target_ref: None,
            payload_ref: None,
            ordering_key: None,
            idempotency_key: DEFAULT_IDEMPOTENCY_KEY.to_owned(),
            enabled: false,
            dry_run: false,
            fan_out: None,
            starts_at: None,
            description: None,
        }
    }

    /// Its columns, as `jsonb_populate_record` reads them; `starts_at` only when it was given.
    pub fn columns(&self) -> Map<String, Value> {
        let pairs = [
            ("consumer_key", json!(self.key)),
            ("event_domain", json!(self.event_domain)),
            ("event_type", json!(self.event_type)),
            ("event_stream", json!(self.event_stream)),
            ("filter", json!(self.filter)),
            ("job_kind", json!(self.job_kind)),
            ("executor", json!(self.executor.as_str())),
            ("priority", json!(self.priority)),
            ("max_attempts", json!(self.max_attempts)),
            ("delay", json!(format!("{} milliseconds", self.delay.as_millis()))),
            ("source_ref", json!(self.source_ref)),
            ("target_ref", json!(self.target_ref)),
            ("payload_ref", json!(self.payload_ref)),
            ("ordering_key", json!(self.ordering_key)),
            ("idempotency_key", json!(self.idempotency_key)),
            ("enabled", json!(self.enabled)),
            ("dry_run", json!(self.dry_run)),
            ("fan_out", json!(self.fan_out)),
            ("description", json!(self.description)),
        ];
        let mut columns: Map<String, Value> =
            pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        if let Some(at) = self.starts_at {
            columns.insert("starts_at".to_owned(), json!(at.to_string()));
        }
        columns
    }
}
