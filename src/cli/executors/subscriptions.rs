//! `reveille executors show`, `subscribe` and `unsubscribe`: what an executor may claim.

use serde_json::{Value, json};

use super::{Subscribe, Unsubscribe};
use crate::cli::context::{Context, Outcome, actor, or_did_you_mean};
use crate::cli::output::{fields, table};
use crate::error::{Error, Kind, Result};
use crate::look::executors::found;
use crate::model::refusal::Answer;
use crate::store::subscriptions::{self, NewSubscription, Subscription};

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
