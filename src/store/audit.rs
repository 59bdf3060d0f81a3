//! `audit_domain`, `audit_consumer`, `dispatch_gap`: whether every event has its decisions.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::types::ToSql;

use super::consumers::Since;
use super::health::Component;
use super::{get, row, rows};
use crate::error::Result;
use crate::model::finding::Finding;
use crate::model::refusal::Answer;
use crate::model::sorts;

/// What to audit; what is `None` gets the default of `fn_dispatch_audit`.
#[derive(Debug, Clone)]
pub struct Window {
    /// The domain.
    pub domain: String,
    /// Events created from then on.
    pub since: Option<Since>,
    /// Events created before.
    pub until: Option<Timestamp>,
    /// Whether to make what is missing.
    pub repair: bool,
}

/// The timer's next pass over every domain.
pub async fn pass(client: &impl GenericClient, limit: i32) -> Result<Answer> {
    const SQL: &str = "select fn_dispatch_audit_pass(p_limit => $1) as answer";
    Ok(Answer::from_json(get(&row(client, "auditing dispatch", SQL, &[&limit]).await?, "answer")?))
}

/// The next part of a window, behind what an answer before this one named `next`.
pub async fn window(
    client: &impl GenericClient,
    window: &Window,
    limit: i32,
    after: Option<&Value>,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_dispatch_audit(
          p_event_domain => $1, p_since => coalesce($2, clock_timestamp() - make_interval(secs => $3)), p_until => $4,
          p_repair => $5, p_limit => $6, p_after => $7) as answer";
    let what = format!("auditing {}", window.domain);
    let Window { domain, since, until, repair } = window;
    let (at, ago) = match since {
        Some(Since::At(at)) => (Some(at), None),
        Some(Since::Ago(ago)) => (None, Some(ago.as_secs_f64())),
        None => (None, None),
    };
    let parameters: [&(dyn ToSql + Sync); 7] = [domain, &at, &ago, until, repair, &limit, &after];
    let answer = row(client, &what, SQL, &parameters).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Findings about the audit as components, each with its [`Finding`] as detail.
pub async fn check(client: &impl GenericClient) -> Result<Vec<Component>> {
    const SQL: &str = "
        select event_domain, finding, what, hint, age_seconds::float8 as age_seconds
        from fn_dispatch_audit_check()";
    let component = |row: &tokio_postgres::Row| {
        let (name, finding): (String, String) = (get(row, "event_domain")?, get(row, "finding")?);
        let finding = match finding.as_str() {
            "gap" => sorts::DECISIONS_MISSING.name,
            "gap_held" => sorts::DECISIONS_HELD.name,
            "behind" => sorts::AUDIT_BEHIND.name,
            other => other,
        };
        let finding = Finding::named(finding, format!("audit {name}"), get(row, "what")?, get(row, "hint")?);
        Ok(Component::with(&finding, "audit", get(row, "age_seconds")?))
    };
    rows(client, "looking at the audit", SQL, &[]).await?.iter().map(component).collect()
}

/// The audit of a domain in numbers.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are the columns of fn_dispatch_audit_counts")]
pub struct Counts {
    pub domain: String,
    pub expected: i64,
    pub found: i64,
    pub missing: i64,
    pub repaired: i64,
    pub unproven: i64,
    pub open_gaps: i64,
    /// In seconds of the epoch.
    pub complete_until: f64,
}

/// The audit in numbers, by domain.
pub async fn counts(client: &impl GenericClient) -> Result<Vec<Counts>> {
    const SQL: &str = "
        select event_domain, expected, found, missing, repaired, unproven, open_gaps,
               extract(epoch from complete_until)::float8 as complete_until
        from fn_dispatch_audit_counts()";
    let counts = |row: &tokio_postgres::Row| {
        Ok(Counts {
            domain: get(row, "event_domain")?,
            expected: get(row, "expected")?,
            found: get(row, "found")?,
            missing: get(row, "missing")?,
            repaired: get(row, "repaired")?,
            unproven: get(row, "unproven")?,
            open_gaps: get(row, "open_gaps")?,
            complete_until: get(row, "complete_until")?,
        })
    };
    rows(client, "counting what the audit found", SQL, &[]).await?.iter().map(counts).collect()
}
