//! `iu_sql_event_route`: which insert, update or delete of which table becomes which event.

use deadpool_postgres::GenericClient;
use serde_json::{Map, Value};
use tokio_postgres::Row;

use super::{get, row, rows};
use crate::error::{Error, Result};
use crate::model::finding::Finding;
use crate::model::refusal::Answer;

/// A route as a JSON object: its columns, `is_ours`, `trigger`, `faults`.
pub type Route = Map<String, Value>;

/// All routes by their code, those of the host too.
pub async fn list(client: &impl GenericClient) -> Result<Vec<Route>> {
    const SQL: &str = "select fn_route_list() as route";
    rows(client, "listing routes", SQL, &[]).await?.iter().map(route).collect()
}

/// One route, none when there is no such code.
pub async fn show(client: &impl GenericClient, code: &str) -> Result<Option<Route>> {
    const SQL: &str = "select fn_route_list(p_route_code => $1) as route";
    rows(client, "reading a route", SQL, &[&code]).await?.first().map(route).transpose()
}

fn route(row: &Row) -> Result<Route> {
    match get::<Value>(row, "route")? {
        Value::Object(route) => Ok(route),
        other => Err(Error::new(crate::error::Kind::Database, format!("a route came as {other}"))),
    }
}

/// Writes a route; the answer says whether it was `created` or `changed`.
///
/// # Errors
/// SQLSTATE 22023 with what is wrong with it.
pub async fn put(client: &impl GenericClient, route: &Value, actor: Option<&str>) -> Result<Answer> {
    const SQL: &str =
        "select fn_route_put(p_route => $1, p_actor => coalesce($2, session_user::text)) as answer";
    answer(&row(client, "writing a route", SQL, &[route, &actor]).await?)
}

/// Makes its trigger and lets it work; `dry_run` none leaves that as it is. It goes live only after a dry run, or
/// `without_dry_run`. The answer holds `state`, what it `was`, and the `consent` of the table's owner.
pub async fn enable(
    client: &impl GenericClient,
    code: &str,
    actor: Option<&str>,
    reason: &str,
    dry_run: Option<bool>,
    without_dry_run: bool,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_route_enable(
          p_route_code => $1, p_actor => coalesce($2, session_user::text), p_reason => $3,
          p_dry_run => $4, p_without_dry_run => $5) as answer";
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&code, &actor, &reason, &dry_run, &without_dry_run];
    answer(&row(client, "enabling a route", SQL, &parameters).await?)
}

/// Stops it and removes its trigger; `trigger_left` says why that could not go, null when it has gone.
pub async fn disable(
    client: &impl GenericClient,
    code: &str,
    actor: Option<&str>,
    reason: &str,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_route_disable(
          p_route_code => $1, p_actor => coalesce($2, session_user::text), p_reason => $3) as answer";
    answer(&row(client, "disabling a route", SQL, &[&code, &actor, &reason]).await?)
}

/// Forgets a disabled route with its samples and keys, or counts them in a dry run; its faults stay.
pub async fn remove(
    client: &impl GenericClient,
    code: &str,
    actor: Option<&str>,
    reason: &str,
    dry_run: bool,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_route_remove(
          p_route_code => $1, p_actor => coalesce($2, session_user::text), p_reason => $3, p_dry_run => $4) as answer";
    answer(&row(client, "removing a route", SQL, &[&code, &actor, &reason, &dry_run]).await?)
}

/// What the last `limit` rows of its table would have made, and what its dry run has counted. Reads only.
pub async fn preview(client: &impl GenericClient, code: &str, limit: i32) -> Result<Answer> {
    const SQL: &str = "select fn_route_preview(p_route_code => $1, p_limit => $2) as answer";
    answer(&row(client, "previewing a route", SQL, &[&code, &limit]).await?)
}

/// What is wrong with routes.
pub async fn check(client: &impl GenericClient) -> Result<Vec<Finding>> {
    const SQL: &str = "select route_code, severity, finding, what, hint from fn_route_check()";
    let finding = |row: &Row| {
        let finding: String = get(row, "finding")?;
        let subject = format!("route {}", get::<String>(row, "route_code")?);
        let named = Finding::named(&finding, subject, get(row, "what")?, get(row, "hint")?);
        Ok(Finding { severity: get(row, "severity")?, ..named })
    };
    rows(client, "checking routes", SQL, &[]).await?.iter().map(finding).collect()
}

fn answer(row: &Row) -> Result<Answer> {
    Ok(Answer::from_json(get(row, "answer")?))
}
