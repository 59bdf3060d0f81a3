//! `event_outbox`: facts. Adopted from the host, so columns are cast, and a whole row is read as JSON.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::{get, row, rows};
use crate::error::Result;

/// A fact to be emitted; what is `None` gets the default of `fn_event_emit`.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct NewEvent {
    pub domain: String,
    pub event_type: String,
    pub subject_ref: String,
    pub payload: Option<Value>,
    pub subject_table: Option<String>,
    pub canonical_address: Option<String>,
    pub actor_ref: Option<String>,
    pub correlation_id: Option<String>,
    pub occurred_at: Option<Timestamp>,
}

/// Emits a fact and gives its id.
///
/// # Errors
/// SQLSTATE 22023 when the type is not registered and active.
pub async fn emit(client: &impl GenericClient, event: &NewEvent) -> Result<Uuid> {
    const SQL: &str = "
        select fn_event_emit(
          p_event_domain => $1, p_event_type => $2, p_event_subject_ref => $3,
          p_safe_payload => coalesce($4, '{}'::jsonb), p_event_subject_table => $5, p_canonical_address => $6,
          p_actor_ref => $7, p_correlation_id => $8, p_occurred_at => $9) as id";
    let what = format!("emitting {}.{}", event.domain, event.event_type);
    let emitted = row(
        client,
        &what,
        SQL,
        &[
            &event.domain,
            &event.event_type,
            &event.subject_ref,
            &event.payload,
            &event.subject_table,
            &event.canonical_address,
            &event.actor_ref,
            &event.correlation_id,
            &event.occurred_at,
        ],
    )
    .await?;
    get(&emitted, "id")
}

/// The types that may be emitted, as `domain.type`.
pub async fn active_types(client: &impl GenericClient) -> Result<Vec<String>> {
    const SQL: &str = "
        select r.event_domain || '.' || r.event_type as name
        from event_type_registry r
        where r.active
        order by 1";
    let found = rows(client, "listing event types", SQL, &[]).await?;
    found.iter().map(|row| get(row, "name")).collect()
}

/// A fact and what became of it: `{"event": {…}, "jobs": […], "errors": […]}`; none when there is no such fact.
pub async fn show(client: &impl GenericClient, id: Uuid) -> Result<Option<Value>> {
    const SQL: &str = "
        select jsonb_build_object(
          'event', to_jsonb(e),
          'jobs', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'job_id', j.job_id, 'job_kind', j.job_kind, 'status', j.status, 'consumer_key', j.consumer_key,
                'attempts', j.attempts, 'last_error', j.last_error) order by j.job_id), '[]')
            from (
              select q.job_id, q.job_kind::text, q.status::text, q.consumer_key, q.attempts::int, q.last_error
              from job_queue q
              where q.causation_event_id = $1
              union all
              select a.job_id, a.job_kind, a.status, a.consumer_key, a.attempts, a.last_error
              from job_archive a
              where a.causation_event_id = $1) j),
          'errors', (
            select coalesce(jsonb_agg(to_jsonb(d) order by d.consumer_key), '[]')
            from dispatch_error d
            where d.event_id = $1)) as document
        from event_outbox e
        where e.id = $1";
    let found = rows(client, "reading an event", SQL, &[&id]).await?;
    found.first().map(|row| get(row, "document")).transpose()
}
