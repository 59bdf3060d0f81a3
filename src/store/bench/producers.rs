//! One event a transaction, and what the outbox does on insert.

use deadpool_postgres::GenericClient;

use super::script;
use super::stage::row_count;
use crate::error::Result;

/// What happens when an event is inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Nothing.
    None,
    /// A NOTIFY at every insert: what most queues do.
    Notify,
    /// Ours: an arrival, and a NOTIFY when the dispatcher sleeps.
    Arrival,
}

/// Exchanges the triggers of `event_outbox`. Nobody may be inserting.
pub async fn set_trigger(client: &impl GenericClient, trigger: Trigger) -> Result<()> {
    const PLAIN: &str = "
        alter table event_outbox disable trigger reveille_event_arrival;
        drop trigger if exists bench_notify on event_outbox;";
    const NOTIFY: &str = "
        create or replace function bench_notify() returns trigger language plpgsql as
        'begin perform pg_notify(''bench_event'', ''''); return null; end';
        create trigger bench_notify after insert on event_outbox
        for each statement execute function bench_notify();";
    const ARRIVAL: &str = "alter table event_outbox enable trigger reveille_event_arrival;";
    let then = match trigger {
        Trigger::None => "",
        Trigger::Notify => NOTIFY,
        Trigger::Arrival => ARRIVAL,
    };
    script(client, "exchanging triggers", &format!("{PLAIN}{then}")).await
}

/// Inserts one event; a transaction of its own unless one is open.
pub async fn insert_event(client: &impl GenericClient, event_type: &str, subject: &str) -> Result<()> {
    const SQL: &str = "
        insert into event_outbox (
          event_domain, event_type, event_stream, delivery_lane, event_subject_table, event_subject_ref, actor_ref,
          source_system, safe_payload)
        values ($1, $2, 'update', 'delayed', 'bench_subject', $3, 'bench', 'bench', '{\"n\": 1}')";
    row_count(client, "inserting an event", SQL, &[&super::DOMAIN, &event_type, &subject]).await?;
    Ok(())
}
