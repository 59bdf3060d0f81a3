//! `job_subscription`: what an executor may claim. One without a row may claim everything of its kind.

use deadpool_postgres::GenericClient;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;

use super::{get, row, rows};
use crate::error::Result;
use crate::model::refusal::Answer;

/// One row, and whom it is about.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct Subscription {
    /// A name, or a pattern with `*`.
    pub executor_name: String,
    pub job_kind: String,
    pub event_domain: String,
    pub priority_floor: Option<i32>,
    pub share: f32,
    pub description: Option<String>,
    pub actor: String,
    /// Those of the names asked about that it applies to.
    #[serde(skip)]
    pub applies_to: Vec<String>,
}

/// All of them, each with those of `names` that it applies to.
pub async fn list(client: &impl GenericClient, names: &[&str]) -> Result<Vec<Subscription>> {
    const SQL: &str = "
        select s.executor_name, s.job_kind, s.event_domain, s.priority_floor, s.share, s.description, s.actor,
               array(select n from unnest($1::text[]) n where n like s.executor_name_like) as applies_to
        from job_subscription s
        order by s.executor_name, s.job_kind, s.event_domain";
    let subscription = |row: &Row| {
        Ok(Subscription {
            executor_name: get(row, "executor_name")?,
            job_kind: get(row, "job_kind")?,
            event_domain: get(row, "event_domain")?,
            priority_floor: get(row, "priority_floor")?,
            share: get(row, "share")?,
            description: get(row, "description")?,
            actor: get(row, "actor")?,
            applies_to: get(row, "applies_to")?,
        })
    };
    rows(client, "listing subscriptions", SQL, &[&names]).await?.iter().map(subscription).collect()
}

/// A row to be added or changed.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct NewSubscription<'a> {
    pub executor_name: &'a str,
    pub job_kind: &'a str,
    pub event_domain: &'a str,
    pub priority_floor: Option<i32>,
    pub share: f32,
    pub description: Option<&'a str>,
}

/// Adds a row, or changes the one of this executor, kind and domain.
pub async fn set(
    client: &impl GenericClient,
    subscription: NewSubscription<'_>,
    actor: Option<&str>,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_subscription_set(
          p_executor_name => $1, p_actor => coalesce($2, session_user::text), p_job_kind => $3,
          p_event_domain => $4, p_priority_floor => $5, p_share => $6, p_description => $7) as answer";
    let NewSubscription { executor_name, job_kind, event_domain, priority_floor, share, description } =
        subscription;
    let answer = row(
        client,
        &format!("subscribing {executor_name}"),
        SQL,
        &[&executor_name, &actor, &job_kind, &event_domain, &priority_floor, &share, &description],
    )
    .await?;
    Ok(Answer::from_json(get::<Value>(&answer, "answer")?))
}

/// Takes away the rows of an executor, or only those of one kind or domain; refused when there is none.
pub async fn remove(
    client: &impl GenericClient,
    executor_name: &str,
    job_kind: Option<&str>,
    event_domain: Option<&str>,
    actor: Option<&str>,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_subscription_remove(
          p_executor_name => $1, p_actor => coalesce($2, session_user::text), p_job_kind => $3,
          p_event_domain => $4) as answer";
    let what = format!("taking subscriptions of {executor_name} away");
    let answer = row(client, &what, SQL, &[&executor_name, &actor, &job_kind, &event_domain]).await?;
    Ok(Answer::from_json(get::<Value>(&answer, "answer")?))
}
