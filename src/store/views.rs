//! The views of the contract as they are, for programs: `/api/v1`.

use deadpool_postgres::GenericClient;
use serde_json::Value;

use super::{get, rows};
use crate::error::Result;

/// The views that may be read, by the name that one asks for.
pub const VIEWS: [(&str, &str); 12] = [
    ("backfills", "v_consumer_backfill"),
    ("backlog", "v_job_queue_backlog"),
    ("consumer-lag", "v_consumer_lag"),
    ("dead-letters", "v_dead_letter_all"),
    ("dead-letters-open", "v_job_queue_dead_letter_open"),
    ("health", "v_queue_health"),
    ("in-progress", "v_job_queue_in_progress"),
    ("ordering-blocked", "v_ordering_blocked"),
    ("reasons", "v_reason_counts"),
    ("schedules", "v_job_schedule"),
    ("subscription-gaps", "v_subscription_gaps"),
    ("workflows", "v_job_workflow_health"),
];

/// Rows of one of [`VIEWS`], at most `limit`, each with all its columns.
pub async fn read(client: &impl GenericClient, view: &str, limit: i64) -> Result<Vec<Value>> {
    let sql = format!("select to_jsonb(v) as line from {view} v limit $1");
    let found = rows(client, "reading a view", &sql, &[&limit]).await?;
    found.iter().map(|row| get(row, "line")).collect()
}
