//! Awake marks: whether who listens on a channel needs a NOTIFY.

use std::time::Duration;

use deadpool_postgres::GenericClient;

use super::{get, row};
use crate::error::Result;

/// Says that the listener of `channel` looks by himself for so long.
pub async fn awake(client: &impl GenericClient, channel: &str, ahead: Duration) -> Result<()> {
    const SQL: &str = "select fn_wake_awake(p_channel => $1, p_milliseconds => $2)";
    let milliseconds = i32::try_from(ahead.as_millis()).unwrap_or(i32::MAX);
    row(client, "setting the awake mark", SQL, &[&channel, &milliseconds]).await?;
    Ok(())
}

/// Says that the listener of `channel` is about to sleep. Answers the transactions that may have read the mark
/// before it fell and are still open, as the text of a snapshot; none when there are none.
pub async fn arm(client: &impl GenericClient, channel: &str) -> Result<Option<String>> {
    const SQL: &str = "
        select case when pg_snapshot_xmin(s.s) < pg_snapshot_xmax(s.s) then s.s::text end as blind
        from fn_wake_arm(p_channel => $1) as s (s)";
    get(&row(client, "dropping the awake mark", SQL, &[&channel]).await?, "blind")
}

/// Whether one of those transactions is still open.
pub async fn is_blind(client: &impl GenericClient, snapshot: &str) -> Result<bool> {
    const SQL: &str = "
        select exists (
          select from pg_snapshot_xip($1::text::pg_snapshot) as x (x)
          where not pg_visible_in_snapshot(x.x, pg_current_snapshot())) as blind";
    get(&row(client, "looking at open transactions", SQL, &[&snapshot]).await?, "blind")
}
