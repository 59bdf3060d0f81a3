//! The trigger of ours on `event_outbox`, which records arrivals and wakes the dispatcher.

use deadpool_postgres::GenericClient;

use super::{get, row};
use crate::error::Result;
use crate::model::finding::Finding;
use crate::model::sorts;

/// Whether the trigger stands there and is enabled.
pub async fn check(client: &impl GenericClient) -> Result<Vec<Finding>> {
    const SQL: &str = "
        select (
          select t.tgenabled::text
          from pg_trigger t
          join pg_class c on c.oid = t.tgrelid and c.relname = 'event_outbox'
            and c.relnamespace = quote_ident(current_schema())::regnamespace
          join pg_proc p on p.oid = t.tgfoid and p.proname = 'fn_event_arrival_record'
            and p.pronamespace = c.relnamespace
          where not t.tgisinternal
          order by t.tgenabled in ('O', 'A') desc
          limit 1) as enabled";
    let found = row(client, "looking for the trigger on event_outbox", SQL, &[]).await?;
    let (sort, what, mend) = match get::<Option<String>>(&found, "enabled")?.as_deref() {
        Some("O" | "A") => return Ok(Vec::new()),
        None => (
            sorts::TRIGGER_MISSING,
            "it is not there",
            "as the owner of the table: create trigger reveille_event_arrival after insert on event_outbox \
             referencing new table as inserted for each statement execute function fn_event_arrival_record()",
        ),
        Some(_) => (
            sorts::TRIGGER_DISABLED,
            "it is disabled",
            "as the owner of the table: alter table event_outbox enable trigger reveille_event_arrival",
        ),
    };
    Ok(vec![sort.found("trigger reveille_event_arrival on event_outbox", what, mend)])
}
