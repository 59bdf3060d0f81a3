//! Jobs: their statuses, and one leased job as its handler sees it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};

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
    /// What it has of its own instead of its kind's: `backoff_*`, `max_lease_losses`, `time_limit_seconds`.
    pub policy: Option<Value>,
}

/// Where a job comes from, as the log names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The event that it was made of.
    pub event_id: Option<Uuid>,
    /// The trace that it belongs to.
    pub trace_id: Option<String>,
}

impl Job {
    /// The event and the trace that it belongs to.
    #[must_use]
    pub fn origin(&self) -> Origin {
        let trace_id = self.traceparent.as_deref().and_then(|parent| parent.split('-').nth(1));
        Origin { event_id: self.causation_event_id, trace_id: trace_id.map(str::to_owned) }
    }

    /// The payload as a type of the handler's.
    ///
    /// # Errors
    /// What of it does not fit; the same will not fit later either.
    pub fn payload<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        T::deserialize(&self.safe_payload).map_err(|error| {
            let what = format!("safe_payload of {} is not what its handler expects: {error}", self.job_kind);
            Error::new(Kind::Usage, what).because(error)
        })
    }

    /// How long it may run, if it says so itself.
    #[must_use]
    pub fn time_limit(&self) -> Option<Duration> {
        let seconds = self.policy.as_ref()?.get("time_limit_seconds")?.as_f64()?;
        Duration::try_from_secs_f64(seconds).ok().filter(|limit| !limit.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Amount {
        cents: i64,
    }

    fn job(payload: Value) -> Job {
        let now = Timestamp::UNIX_EPOCH;
        Job {
            job_id: Uuid::nil(),
            job_kind: "account.credit".into(),
            lease_token: 1,
            lease_until: now,
            attempts: 0,
            max_attempts: 5,
            event_domain: None,
            source_ref: None,
            target_ref: None,
            payload_ref: None,
            safe_payload: payload,
            priority: 100,
            scheduled_at: now,
            idempotency_key: "1".into(),
            ordering_key: None,
            actor: "test".into(),
            run_id: None,
            workflow_id: None,
            causation_event_id: None,
            consumer_key: None,
            correlation_id: None,
            traceparent: None,
            created_at: now,
            policy: None,
        }
    }

    #[test]
    fn a_payload_is_read_as_the_handlers_type_or_says_what_of_it_does_not_fit() {
        assert_eq!(job(serde_json::json!({"cents": 5, "more": 1})).payload::<Amount>().unwrap().cents, 5);
        let error = job(serde_json::json!({"cents": "five"})).payload::<Amount>().unwrap_err().to_string();
        assert!(error.contains("account.credit") && error.contains("expected i64"), "{error}");
    }
}
