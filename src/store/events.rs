//! `event_outbox`: facts. Adopted from the host, so columns are cast, and a whole row is read as JSON.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
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

/// A fact in one line.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct Fact {
    pub id: Uuid,
    pub event_domain: String,
    pub event_type: String,
    pub event_severity: Option<String>,
    pub event_subject_ref: Option<String>,
    pub actor_ref: Option<String>,
    pub created_at: Timestamp,
}

/// Where in the list a fact stands: when it was written, and its id.
pub type Place = (Timestamp, Uuid);

/// Most facts that one page looks at; where few fit, the page ends there, and the next goes on.
pub const WINDOW: i64 = 20_000;

/// The newest facts of a domain, or of all, at most `limit`, behind the moment and id of another when given; and behind which
/// one the next page begins, when there may be more.
pub async fn page(
    client: &impl GenericClient,
    event_domain: Option<&str>,
    before: Option<Place>,
    limit: i64,
) -> Result<(Vec<Fact>, Option<Place>)> {
    // the inner limit bounds the look also when nothing fits
    const SQL: &str = "
        select e.id, e.event_domain, e.event_type, e.event_severity, e.event_subject_ref, e.actor_ref, e.created_at
        from (
          select o.id, o.event_domain::text, o.event_type::text, o.event_severity::text, o.event_subject_ref::text,
                 o.actor_ref::text, o.created_at
          from event_outbox o
          where o.created_at <= coalesce($2, 'infinity'::timestamptz)
            and ($2::timestamptz is null or (o.created_at, o.id) < ($2, $3::uuid))
          order by o.created_at desc, o.id desc
          limit $4) e
        where $1::text is null or e.event_domain = $1
        order by e.created_at desc, e.id desc
        limit $5";
    let (at, id) = before.unzip();
    let fact = |row: &tokio_postgres::Row| {
        Ok(Fact {
            id: get(row, "id")?,
            event_domain: get(row, "event_domain")?,
            event_type: get(row, "event_type")?,
            event_severity: get(row, "event_severity")?,
            event_subject_ref: get(row, "event_subject_ref")?,
            actor_ref: get(row, "actor_ref")?,
            created_at: get(row, "created_at")?,
        })
    };
    let more = limit + 1;
    let found = rows(client, "listing events", SQL, &[&event_domain, &at, &id, &WINDOW, &more]).await?;
    let mut facts: Vec<Fact> = found.iter().map(fact).collect::<Result<_>>()?;
    if i64::try_from(facts.len()).unwrap_or(i64::MAX) == more {
        facts.pop();
        let next = facts.last().map(|fact| (fact.created_at, fact.id));
        return Ok((facts, next));
    }
    Ok((facts, window_end(client, before).await?))
}

/// The last of the [`WINDOW`] newest facts, behind another when given; none when there are fewer.
pub async fn window_end(client: &impl GenericClient, before: Option<Place>) -> Result<Option<Place>> {
    const SQL: &str = "
        select o.created_at, o.id
        from event_outbox o
        where o.created_at <= coalesce($1, 'infinity'::timestamptz)
          and ($1::timestamptz is null or (o.created_at, o.id) < ($1, $2::uuid))
        order by o.created_at desc, o.id desc
        offset $3::bigint - 1
        limit 1";
    let (at, id) = before.unzip();
    let found = rows(client, "looking for more events", SQL, &[&at, &id, &WINDOW]).await?;
    found.first().map(|row| Ok((get(row, "created_at")?, get(row, "id")?))).transpose()
}

/// What an id belongs to: `events`, `jobs`, `dead-letters` or `workflows`; none when nothing has it.
pub async fn whose(client: &impl GenericClient, id: Uuid) -> Result<Option<String>> {
    const SQL: &str = "
        select case
          when exists (select from job_queue q where q.job_id = $1) then 'jobs'
          when exists (select from event_outbox e where e.id = $1) then 'events'
          when exists (select from job_workflow w where w.workflow_id = $1) then 'workflows'
          when exists (select from job_dead_letter d where d.dead_letter_id = $1) then 'dead-letters'
          when exists (select from job_archive a where a.job_id = $1) then 'jobs'
        end as whose";
    get(&row(client, "looking for an id", SQL, &[&id]).await?, "whose")
}

/// Most jobs, of those made since a fact, among which its own are looked for.
pub const NEXT: i64 = 5000;

/// A fact and what became of it: `{"event": {…}, "jobs": […], "errors": […]}`; none when there is no such fact.
///
/// The jobs are those of `made`, which are the ones that its explanation names, those among the [`NEXT`] jobs that were made
/// since it was written, and those of the archive: no index of the queue leads from a fact to its jobs.
pub async fn show(client: &impl GenericClient, id: Uuid, made: &[Uuid]) -> Result<Option<Value>> {
    const EVENT: &str = "
        select to_jsonb(e) as event, fn_uuid_v7_floor(least(greatest(e.created_at, 'epoch'), clock_timestamp())) as since
        from event_outbox e
        where e.id = $1";
    // `since` is a parameter, so that the planner knows how little lies behind it
    const REST: &str = "
        select jsonb_build_object(
          'jobs', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'job_id', j.job_id, 'job_kind', j.job_kind, 'status', j.status, 'consumer_key', j.consumer_key,
                'attempts', j.attempts, 'last_error', j.last_error) order by j.job_id), '[]')
            from (
              select q.job_id, q.job_kind::text, q.status::text, q.consumer_key, q.attempts::int, q.last_error
              from job_queue q
              where q.job_id = any ($2) and q.causation_event_id = $1
              union
              select n.job_id, n.job_kind::text, n.status::text, n.consumer_key, n.attempts::int, n.last_error
              from (select q.* from job_queue q where q.job_id >= $3 order by q.job_id limit $4) n
              where n.causation_event_id = $1
              union all
              select a.job_id, a.job_kind, a.status, a.consumer_key, a.attempts, a.last_error
              from job_archive a
              where a.causation_event_id = $1) j),
          'errors', (
            select coalesce(jsonb_agg(to_jsonb(d) order by d.consumer_key), '[]')
            from dispatch_error d
            where d.event_id = $1)) as rest";
    const WHAT: &str = "reading an event";
    let found = rows(client, WHAT, EVENT, &[&id]).await?;
    let Some(found) = found.first() else { return Ok(None) };
    let (event, since): (Value, Uuid) = (get(found, "event")?, get(found, "since")?);
    let rest: Value = get(&row(client, WHAT, REST, &[&id, &made, &since, &NEXT]).await?, "rest")?;
    Ok(Some(json!({ "event": event, "jobs": rest["jobs"], "errors": rest["errors"] })))
}
