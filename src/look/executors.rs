//! Who is registered, and what each may claim: what `reveille executors list` answers.

use std::fmt::Write as _;

use deadpool_postgres::GenericClient;
use serde::Serialize;
use serde_json::Value;

use crate::error::{Kind, Result};
use crate::store::health::{self, Component};
use crate::store::subscriptions::{self, Subscription};

/// An executor, and what it may claim.
#[derive(Debug, Serialize)]
pub struct Executor {
    /// How it is.
    #[serde(flatten)]
    pub component: Component,
    /// None where this login may not read them.
    pub subscriptions: Option<Vec<Subscription>>,
}

/// Who is registered.
#[derive(Debug)]
pub struct Found {
    /// All of them, with what each may claim.
    pub executors: Vec<Executor>,
    /// Names and patterns with subscriptions that nobody has.
    pub idle_patterns: Vec<String>,
}

impl Executor {
    /// A text of its row in the view.
    pub fn detail(&self, key: &str) -> String {
        let detail = self.component.detail.as_ref();
        detail.and_then(|detail| detail.get(key)).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// What it may claim, in one line.
    pub fn may_claim(&self) -> String {
        let role = self.component.detail.as_ref().map(|detail| &detail["metadata"]["role"]);
        match &self.subscriptions {
            _ if role.is_some_and(|role| role == "dispatcher") => "nothing: it dispatches".to_owned(),
            None => "not shown to this login".to_owned(),
            Some(rows) if rows.is_empty() => "all of its kind".to_owned(),
            Some(rows) => rows.iter().map(words).collect::<Vec<_>>().join("; "),
        }
    }
}

fn words(row: &Subscription) -> String {
    let mut words = if row.job_kind == "*" { "all".to_owned() } else { row.job_kind.clone() };
    if row.event_domain != "*" {
        let _ = write!(words, " of {}", row.event_domain);
    }
    if let Some(floor) = row.priority_floor {
        let _ = write!(words, " up to priority {floor}");
    }
    words
}

/// Everybody who is registered, with what each may claim.
pub async fn found(client: &impl GenericClient) -> Result<Found> {
    let mut components = health::list(client).await?;
    components.retain(|component| component.component == "executor");
    let names: Vec<&str> = components.iter().map(|component| component.name.as_str()).collect();
    let rows = match subscriptions::list(client, &names).await {
        Ok(rows) => Some(rows),
        Err(error) if error.kind() == Kind::Denied => None, // who beats is seen by more roles
        Err(error) => return Err(error),
    };
    let of = |name: &String| {
        rows.as_ref().map(|rows| rows.iter().filter(|row| row.applies_to.contains(name)).cloned().collect())
    };
    let executors =
        components.into_iter().map(|component| Executor { subscriptions: of(&component.name), component });
    let executors = executors.collect();
    let idle = rows.iter().flatten().filter(|row| row.applies_to.is_empty());
    let mut idle_patterns: Vec<String> = idle.map(|row| row.executor_name.clone()).collect();
    idle_patterns.dedup();
    Ok(Found { executors, idle_patterns })
}
