//! Awake marks: whether who listens on a channel needs a NOTIFY.

use std::time::Duration;

use deadpool_postgres::GenericClient;

use super::{get, row};
use crate::error::Result;

/// The moment at which a mark fell, as a transaction id: whoever read it before has a smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Armed(i64);

/// Says that the listener of `channel` looks by himself for so long.
pub async fn awake(client: &impl GenericClient, channel: &str, ahead: Duration) -> Result<()> {
    const SQL: &str = "select fn_wake_awake(p_channel => $1, p_milliseconds => $2)";
    let milliseconds = i32::try_from(ahead.as_millis()).unwrap_or(i32::MAX);
    row(client, "setting the awake mark", SQL, &[&channel, &milliseconds]).await?;
    Ok(())
}

/// Says that the listener of `channel` is about to sleep.
pub async fn arm(client: &impl GenericClient, channel: &str) -> Result<Armed> {
    const SQL: &str = "select fn_wake_arm(p_channel => $1)::text::bigint as armed";
    Ok(Armed(get(&row(client, "dropping the awake mark", SQL, &[&channel]).await?, "armed")?))
}

/// Whether a transaction is still open that may have read the mark before it fell.
///
/// Must be asked in a transaction after that of [`arm`]: only then does a snapshot reach beyond the arming.
pub async fn is_blind(client: &impl GenericClient, armed: Armed) -> Result<bool> {
    const SQL: &str = "
        select pg_snapshot_xmin(pg_current_snapshot()) < $1::bigint::text::xid8 as blind";
    get(&row(client, "looking at open transactions", SQL, &[&armed.0]).await?, "blind")
}
