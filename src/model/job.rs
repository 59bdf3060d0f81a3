//! Jobs: their statuses, and one leased job as its handler sees it.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

/// The nine statuses, in the order of a job's life.
pub const STATUSES: [&str; 9] = [
    "queued",
    "leased",
    "in_progress",
    "succeeded",
    "failed",
    "retry_waiting",
    "dead_letter",
    "cancelled",
    "cleaned",
];

/// A leased job. Its payload is signal, not data: what the work is about is found behind the references.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are the columns of job_queue")]
pub struct Job {
    pub job_id: Uuid,
    pub job_kind: String,
    /// Fences every report on this run: a newer lease has another.
    pub lease_token: i64,
    /// When the lease ended at the claim; it is renewed while the job runs.
    pub lease_until: Timestamp,
    /// Failures so far.
    pub attempts: i32,
    pub max_attempts: i32,
    pub event_domain: Option<String>,
    pub source_ref: Option<String>,
    pub target_ref: Option<String>,
    pub payload_ref: Option<String>,
    pub safe_payload: Value,
    pub priority: i32,
    pub scheduled_at: Timestamp,
    pub idempotency_key: String,
    pub ordering_key: Option<String>,
    pub actor: String,
    pub run_id: Option<Uuid>,
    pub workflow_id: Option<Uuid>,
    pub causation_event_id: Option<Uuid>,
    pub consumer_key: Option<String>,
    pub correlation_id: Option<String>,
    pub traceparent: Option<String>,
    pub created_at: Timestamp,
}
