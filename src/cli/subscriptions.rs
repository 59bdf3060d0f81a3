//! `reveille subscriptions`: who is told of which facts. (What executors may claim is `reveille executors subscribe`.)

use serde_json::Value;

use super::context::{Context, Outcome};
use super::output::table;
use crate::error::Result;
use crate::store::recipients::{self, Gap, Recipient, Subscription};

/// Show who is told of which facts, and which facts are for nobody
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Subscriptions are rows of event_subscription, which is yours: add and change them with SQL.\n\
                  What an executor may claim is something else: `reveille executors subscribe`."
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Copy, clap::Subcommand)]
enum Action {
    /// List all subscriptions, each with what is wrong with it
    #[command(after_help = "Example:\n  reveille subscriptions list")]
    List,
    /// Show pairs of domain and stream that are for nobody, or only in part or by broadcast
    #[command(
        after_help = "A warning, nothing is stopped. Looks at the active types of event_type_registry; `recent` is\n\
                      how many of the newest 10000 facts are of them.\n\n\
                      Example:\n  reveille subscriptions gaps"
    )]
    Gaps,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    match args.action {
        Action::List => {
            let all = recipients::list(&client).await?;
            context.out.answer(&all, || subscriptions(&all))?;
        }
        Action::Gaps => {
            let all = recipients::gaps(&client).await?;
            context.out.answer(&all, || gaps(&all))?;
        }
    }
    Ok(Outcome::Done)
}

fn word(row: &Value, name: &str) -> String {
    match &row[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What a row wants, in one line.
fn wants(row: &Value) -> String {
    let any = |name: &str| if row[name].is_null() { "*".to_owned() } else { word(row, name) };
    let mut text = format!("{}.{}", any("event_domain"), any("event_type"));
    for (name, before) in
        [("event_stream", " of stream "), ("scope_subject_table", " about "), ("scope_filter", " where ")]
    {
        if !row[name].is_null() {
            text.push_str(before);
            text.push_str(&word(row, name));
        }
    }
    text
}

fn subscriptions(all: &[Subscription]) -> String {
    if all.is_empty() {
        return "no subscriptions; add rows to event_subscription".to_owned();
    }
    let row = |one: &Subscription| {
        let muted = if one.subscription["mute"] == true { "mute" } else { "" };
        let remark = match &one.problem {
            Some(problem) => format!("no effect: {problem}"),
            None if one.is_broadcast && muted.is_empty() => "broadcast: all events".to_owned(),
            None => muted.to_owned(),
        };
        [word(&one.subscription, "recipient_ref"), wants(&one.subscription), remark]
    };
    table(&["recipient", "wants", "remark"], all.iter().map(row))
}

fn gaps(all: &[Gap]) -> String {
    if all.is_empty() {
        return "every active event type is for somebody".to_owned();
    }
    let row = |gap: &Gap| {
        [
            gap.event_domain.clone(),
            gap.event_stream.clone(),
            gap.event_types.join(", "),
            gap.recent_events.to_string(),
            gap.hint.clone(),
        ]
    };
    table(&["domain", "stream", "types", "recent", "what it means"], all.iter().map(row))
}

/// The recipients of one event, for people.
pub(super) fn recipients(all: &[Recipient]) -> String {
    if all.is_empty() {
        return "it is for nobody; `reveille subscriptions list` shows who is told of what".to_owned();
    }
    let row = |one: &Recipient| {
        let muted = one.muted_by.as_ref().map(|row| format!("muted: {}", wants(row))).unwrap_or_default();
        [one.recipient_ref.clone(), wants(&one.subscription), muted]
    };
    table(&["recipient", "because it wants", "remark"], all.iter().map(row))
}
