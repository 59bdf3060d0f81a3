//! `reveille executors show`, `subscribe` and `unsubscribe`: what an executor may claim.

use std::fmt::Write as _;

use deadpool_postgres::GenericClient;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Subscribe, Unsubscribe};
use crate::cli::context::{Context, Outcome, actor, or_did_you_mean};
use crate::cli::output::{fields, table};
use crate::error::{Error, Kind, Result};
use crate::model::refusal::Answer;
use crate::store::health::{self, Component};
use crate::store::subscriptions::{self, NewSubscription, Subscription};

/// An executor, and what it may claim.
#[derive(Debug, Serialize)]
pub(super) struct Executor {
    #[serde(flatten)]
    pub(super) component: Component,
    /// None where this login may not read them.
    subscriptions: Option<Vec<Subscription>>,
}

/// Who is registered.
pub(super) struct Found {
    pub(super) executors: Vec<Executor>,
    /// Names and patterns with subscriptions that nobody has.
    pub(super) idle_patterns: Vec<String>,
}

impl Executor {
    /// A text of its row in the view.
    pub(super) fn detail(&self, key: &str) -> String {
        let detail = self.component.detail.as_ref();
        detail.and_then(|detail| detail.get(key)).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// What it may claim, in one line.
    pub(super) fn may_claim(&self) -> String {
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
pub(super) async fn found(client: &impl GenericClient) -> Result<Found> {
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

pub(super) async fn show(name: &str, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let found = found(&client).await?;
    if let Some(executor) = found.executors.iter().find(|one| one.component.name == name) {
        let rows = executor.subscriptions.as_deref().unwrap_or_default();
        context.out.answer(executor, || {
            let component = serde_json::to_value(&executor.component).unwrap_or_default();
            let about = fields(&component, &["name", "status_hint", "age_seconds"]);
            let may_claim = if rows.is_empty() { executor.may_claim() } else { as_table(rows) };
            format!("{about}\n\nmay claim:\n{may_claim}")
        })?;
        return Ok(Outcome::Done);
    }
    let mut rows = subscriptions::list(&client, &[]).await?;
    rows.retain(|row| row.executor_name == name);
    if !rows.is_empty() {
        let document = json!({ "name": name, "status_hint": Value::Null, "subscriptions": rows });
        context.out.answer(&document, || {
            format!("nobody is registered under just this name\n\nmay claim:\n{}", as_table(&rows))
        })?;
        return Ok(Outcome::Done);
    }
    let error = Error::new(Kind::Database, format!("there is no executor `{name}`"));
    let names = found.executors.iter().map(|one| one.component.name.as_str());
    Err(or_did_you_mean(error, name, names, "`reveille executors list` shows the names"))
}

fn as_table(rows: &[Subscription]) -> String {
    let row = |row: &Subscription| {
        [
            row.executor_name.clone(),
            row.job_kind.clone(),
            row.event_domain.clone(),
            row.priority_floor.map_or_else(|| "any".to_owned(), |floor| floor.to_string()),
            row.share.to_string(),
            row.actor.clone(),
            row.description.clone().unwrap_or_default(),
        ]
    };
    table(&["as", "kind", "domain", "up to priority", "share", "by", "description"], rows.iter().map(row))
}

pub(super) async fn subscribe(args: Subscribe, context: &Context) -> Result<Outcome> {
    if !(args.share > 0.0 && args.share <= 1_000_000.0) {
        return Err(Error::usage(format!("--share {}: a weight is above 0 and at most 1000000", args.share)));
    }
    let client = context.client().await?;
    let subscription = NewSubscription {
        executor_name: &args.name,
        job_kind: &args.kind,
        event_domain: &args.domain,
        priority_floor: args.priority_floor,
        share: args.share,
        description: args.description.as_deref(),
    };
    let answer = subscriptions::set(&client, subscription, actor(args.actor).as_deref()).await?;
    Outcome::of(answer, |result| {
        context.out.answer(result, || {
            let (name, kind, domain) = (&args.name, &args.kind, &args.domain);
            format!("{name} may claim jobs of kind {kind} and domain {domain}, and nothing beside its subscriptions")
        })
    })
}

pub(super) async fn unsubscribe(args: Unsubscribe, context: &Context) -> Result<Outcome> {
    let (name, kind, domain) = (&args.name, args.kind.as_deref(), args.domain.as_deref());
    let client = context.client().await?;
    let answer = subscriptions::remove(&client, name, kind, domain, actor(args.actor).as_deref()).await?;
    if let Answer::Refused(refusal) = &answer
        && refusal.reason == "not_found"
    {
        return Err(Error::new(Kind::Refused, format!("{name} has no such subscription"))
            .hint(format!("`reveille executors show {name}` shows those that it has")));
    }
    let left = subscriptions::list(&client, &[]).await?;
    let left = left.iter().filter(|row| row.executor_name == *name).count();
    Outcome::of(answer, |result| {
        context.out.answer(result, || match left {
            0 => format!("{name} has no subscription any more; it may claim everything of its kind"),
            left => format!("{} taken away; {left} left", result["removed"]),
        })
    })
}
