//! `event_arrival`, `dispatch_cursor`, `dispatch_pass`: reading the outbox and moving positions.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use serde_json::Value;

use super::{get, row};
use crate::error::Result;
use crate::model::pass::{FoundBy, Pass};
use crate::model::refusal::Answer;

/// The domains with unread events; sends `canary` (channel, token) on the way.
pub async fn poll(
    client: &impl GenericClient,
    domains: Option<&[String]>,
    canary: Option<(&str, &str)>,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_dispatch_poll(p_event_domains => $1, p_canary => $2, p_canary_token => $3) as answer";
    let (channel, token) = canary.unzip();
    let answer = row(client, "polling for events", SQL, &[&domains, &channel, &token.unwrap_or("")]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// One pass of `domain`: at most `limit` events become jobs, in one transaction.
pub async fn pass(
    client: &impl GenericClient,
    domain: &str,
    limit: u32,
    found_by: FoundBy,
) -> Result<Result<Pass, crate::model::refusal::Refusal>> {
    const SQL: &str = "
        select fn_consumer_dispatch_batch(p_event_domain => $1, p_limit => $2, p_found_by => $3) as answer";
    let limit = i32::try_from(limit).unwrap_or(i32::MAX);
    let answer =
        row(client, &format!("dispatching {domain}"), SQL, &[&domain, &limit, &found_by.as_str()]).await?;
    Ok(match Answer::from_json(get(&answer, "answer")?) {
        Answer::Done(counts) => Ok(Pass::from_json(&counts)),
        Answer::Refused(refusal) => Err(refusal),
    })
}

/// Dispatches one event again, outside of every position.
pub async fn event(client: &impl GenericClient, id: uuid::Uuid) -> Result<Answer> {
    const SQL: &str = "select fn_consumer_dispatch(p_event_id => $1) as answer";
    let answer = row(client, "dispatching an event", SQL, &[&id]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Makes the positions valid in this cluster; true when a restored dump was found.
pub async fn attach(client: &impl GenericClient) -> Result<bool> {
    const SQL: &str = "select fn_dispatch_attach() as answer";
    let answer: Value = get(&row(client, "checking the positions", SQL, &[]).await?, "answer")?;
    Ok(answer.get("restored").and_then(Value::as_bool).unwrap_or(false))
}

/// The domains that are dispatched here.
pub async fn domains(client: &impl GenericClient) -> Result<Vec<String>> {
    const SQL: &str = "
        select coalesce(array_agg(c.event_domain order by c.event_domain), '{}') as domains
        from dispatch_cursor c";
    get(&row(client, "reading the domains", SQL, &[]).await?, "domains")
}

/// Appends arrivals for events that have none; the answer counts them.
pub async fn sweep(client: &impl GenericClient, margin: Duration) -> Result<Value> {
    const SQL: &str = "select fn_event_sweep(p_margin => make_interval(secs => $1)) as answer";
    get(&row(client, "sweeping the outbox", SQL, &[&margin.as_secs_f64()]).await?, "answer")
}

/// Removes read arrivals, old passes, and what counts towards no rate any more; the answer counts them.
pub async fn prune(client: &impl GenericClient, keep_passes_for: Duration) -> Result<Value> {
    const SQL: &str = "
        select fn_dispatch_prune(p_keep_passes => make_interval(secs => $1))
            || jsonb_build_object('rates', fn_job_rate_prune()) as answer";
    get(&row(client, "pruning arrivals", SQL, &[&keep_passes_for.as_secs_f64()]).await?, "answer")
}

/// Places jobs of ordering keys, which claims do where there are any.
pub async fn order_sweep(client: &impl GenericClient) -> Result<()> {
    row(client, "placing jobs of ordering keys", "select fn_job_order_sweep()", &[]).await.map(drop)
}

/// Looks after active workflows, and starts those that jobs ask for; the answer counts them.
pub async fn workflow_refresh(client: &impl GenericClient) -> Result<Value> {
    const SQL: &str = "select fn_job_workflow_refresh(p_limit => 100) as answer";
    get(&row(client, "looking after workflows", SQL, &[]).await?, "answer")
}

/// Keeps small what routes note.
pub async fn route_prune(client: &impl GenericClient) -> Result<()> {
    row(client, "pruning what routes note", "select fn_route_prune()", &[]).await.map(drop)
}

/// Whether the sweep's window can be read by an index, so that a sweep need not read the whole outbox.
pub async fn outbox_is_indexed_by_time(client: &impl GenericClient) -> Result<bool> {
    const SQL: &str = "
        select exists (
          select from pg_index i
          join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
          where i.indrelid = 'event_outbox'::regclass and i.indisvalid and i.indpred is null
            and a.attname = 'created_at') as indexed";
    get(&row(client, "looking at the outbox's indexes", SQL, &[]).await?, "indexed")
}
