//! `v_queue_health`: everything that can fall silent, and what is paused, one row each.

use deadpool_postgres::GenericClient;
use serde::Serialize;
use serde_json::Value;

use super::{get, row, rows};
use crate::error::Result;
use crate::model::finding::Finding;

/// One component and how it is.
#[derive(Debug, Clone, Serialize)]
pub struct Component {
    /// What sort of component: executor, cursor, backlog, pause, …
    pub component: String,
    /// Which one.
    pub name: String,
    /// fresh, warning, stale or never.
    pub status_hint: String,
    /// Seconds since it last moved or since its oldest work waits, when that is known.
    pub age_seconds: Option<f64>,
    /// A count whose meaning depends on the component.
    pub value: Option<f64>,
    /// More about it.
    pub detail: Option<Value>,
}

impl Component {
    /// Whether somebody must look at it.
    pub fn is_ill(&self) -> bool {
        matches!(self.status_hint.as_str(), "stale" | "never")
    }

    /// One of which there is something to tell: ill when it does not work.
    pub(super) fn with(finding: &Finding, of: &str, age_seconds: Option<f64>) -> Self {
        Self {
            component: of.to_owned(),
            name: finding.subject.strip_prefix(of).unwrap_or(&finding.subject).trim_start().to_owned(),
            status_hint: if finding.severity == "error" { "stale" } else { "warning" }.to_owned(),
            age_seconds,
            value: None,
            detail: serde_json::to_value(finding).ok(),
        }
    }
}

/// All components, the worst first.
pub async fn list(client: &impl GenericClient) -> Result<Vec<Component>> {
    const SQL: &str = "
        select h.component, h.name, h.status_hint, h.age_seconds::float8 as age_seconds, h.value::float8 as value,
               h.detail
        from v_queue_health h
        order by array_position(array['stale', 'never', 'warning', 'fresh'], h.status_hint), h.component, h.name";
    let found = rows(client, "reading v_queue_health", SQL, &[]).await?;
    let component = |row: &tokio_postgres::Row| {
        Ok(Component {
            component: get(row, "component")?,
            name: get(row, "name")?,
            status_hint: get(row, "status_hint")?,
            age_seconds: get(row, "age_seconds")?,
            value: get(row, "value")?,
            detail: get(row, "detail")?,
        })
    };
    found.iter().map(component).collect()
}

/// The part of the server's notification queue that is in use, 0 to 1; when it is full, commits that notify fail.
pub async fn notification_queue_usage(client: &impl GenericClient) -> Result<f64> {
    const SQL: &str = "select pg_notification_queue_usage() as usage";
    get(&row(client, "reading the use of the notification queue", SQL, &[]).await?, "usage")
}
