//! `event_subscription`: whom events are for. The host's table; read through the functions that understand it.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{get, row, rows};
use crate::error::Result;

/// One recipient of an event, by one of its subscriptions.
#[derive(Debug, Clone, Serialize)]
pub struct Recipient {
    /// `user:…`, `agency:…`, `role:…` or `agent:…`.
    pub recipient_ref: String,
    /// The row that wants the event, without what is null.
    pub subscription: Value,
    /// The mute row that wins over it.
    pub muted_by: Option<Value>,
}

/// Whom an event is for; none also when there is no such event.
pub async fn of_event(client: &impl GenericClient, id: Uuid) -> Result<Vec<Recipient>> {
    const SQL: &str = "select * from fn_event_recipients(p_event_id => $1)";
    let recipient = |row: &Row| {
        Ok(Recipient {
            recipient_ref: get(row, "recipient_ref")?,
            subscription: get(row, "subscription")?,
            muted_by: get(row, "muted_by")?,
        })
    };
    rows(client, "reading the recipients of an event", SQL, &[&id]).await?.iter().map(recipient).collect()
}

/// One row of `event_subscription`, and what is wrong with it.
#[derive(Debug, Clone, Serialize)]
pub struct Subscription {
    /// The row without what is null.
    pub subscription: Value,
    /// None: it is understood.
    pub problem: Option<String>,
    /// Whether it stands for all events.
    pub is_broadcast: bool,
}

/// All of them, the malformed ones first.
pub async fn list(client: &impl GenericClient) -> Result<Vec<Subscription>> {
    const SQL: &str = "
        select s.subscription, s.problem, s.is_broadcast
        from fn_event_subscriptions() s
        order by s.problem is null, s.recipient_ref, s.event_domain nulls first, s.event_type nulls first, s.subscription";
    let subscription = |row: &Row| {
        Ok(Subscription {
            subscription: get(row, "subscription")?,
            problem: get(row, "problem")?,
            is_broadcast: get(row, "is_broadcast")?,
        })
    };
    rows(client, "listing event subscriptions", SQL, &[]).await?.iter().map(subscription).collect()
}

/// A pair of domain and stream whose active event types resolve to nobody, or not wholly.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are the columns of v_subscription_gaps")]
pub struct Gap {
    pub event_domain: String,
    pub event_stream: String,
    /// nobody, broadcast or scope.
    pub caught_by: String,
    pub event_types: Vec<String>,
    pub recent_events: i64,
    pub last_event_at: Option<Timestamp>,
    pub hint: String,
}

/// All gaps, those that resolve to nobody first.
pub async fn gaps(client: &impl GenericClient) -> Result<Vec<Gap>> {
    const SQL: &str = "
        select g.event_domain, g.event_stream, g.caught_by, g.event_types, g.recent_events, g.last_event_at, g.hint
        from v_subscription_gaps g";
    let gap = |row: &Row| {
        Ok(Gap {
            event_domain: get(row, "event_domain")?,
            event_stream: get(row, "event_stream")?,
            caught_by: get(row, "caught_by")?,
            event_types: get(row, "event_types")?,
            recent_events: get(row, "recent_events")?,
            last_event_at: get(row, "last_event_at")?,
            hint: get(row, "hint")?,
        })
    };
    rows(client, "reading v_subscription_gaps", SQL, &[]).await?.iter().map(gap).collect()
}

/// How recipients stand, in counts.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Standing {
    /// Pairs of domain and stream that resolve to nobody.
    pub nobody: i32,
    /// Pairs told of only within a scope or by broadcast.
    pub others: i32,
    /// Rows that are not understood.
    pub malformed: i32,
}

/// How recipients stand; none where nobody uses them.
pub async fn standing(client: &impl GenericClient) -> Result<Option<Standing>> {
    const SQL: &str = "select s.in_use, s.nobody, s.others, s.malformed from fn_subscription_standing() s";
    let found = row(client, "reading how recipients stand", SQL, &[]).await?;
    let standing = Standing {
        nobody: get(&found, "nobody")?,
        others: get(&found, "others")?,
        malformed: get(&found, "malformed")?,
    };
    Ok(get::<bool>(&found, "in_use")?.then_some(standing))
}
