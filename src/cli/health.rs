//! `reveille health`: is anything silent?

use std::fmt::Write as _;

use super::context::{Context, Outcome};
use super::output::{printable, seconds, table};
use super::pause::subject;
use super::watch::{Watch, watch};
use crate::error::Result;
use crate::look::health;
use crate::store::gates::{self, Gate};
use crate::store::health::Component;

/// Show what is silent, late, closed or paused; exit code 1 if somebody must look
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  reveille health || page-somebody\n  reveille health --watch 5s")]
pub(super) struct Args {
    #[command(flatten)]
    watch: Watch,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    watch(args.watch, context, look).await
}

async fn look(context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let components = health::components(&client).await?;
    let gates = gates::list(&client).await?;
    context.out.answer(&components, || as_text(&components, &gates))?;
    let ill = components.iter().any(Component::is_ill);
    Ok(if ill { Outcome::Failed } else { Outcome::Done })
}

fn as_text(components: &[Component], gates: &[Gate]) -> String {
    let mut text = String::new();
    for ill in components.iter().filter(|component| component.is_ill()) {
        let _ = writeln!(text, "{}", complaint(ill));
    }
    if text.is_empty() {
        let _ = writeln!(text, "nothing is silent");
    }
    for gate in gates.iter().filter(|gate| gate.lets_through.is_some() && !gate.open) {
        let _ = writeln!(text, "gate closed: {}", gate.key);
    }
    for finding in components.iter().filter(|one| is_watched(one) && !one.is_ill()) {
        let _ = writeln!(text, "{}", found(finding));
    }
    for pause in components.iter().filter(|component| component.component == "pause") {
        let _ = writeln!(text, "{}", paused(pause));
    }
    for gaps in components.iter().filter(|component| component.component == "subscription") {
        let count = |name: &str| gaps.detail.as_ref().map_or(0, |detail| detail[name].as_i64().unwrap_or(0));
        let _ = writeln!(
            text,
            "recipients: {} pairs of domain and stream are for nobody, {} only in part or by broadcast; {} malformed rows: \
             `reveille subscriptions gaps`",
            count("nobody"),
            count("others"),
            count("malformed")
        );
    }
    let row = |component: &Component| {
        [
            component.status_hint.clone(),
            component.component.clone(),
            component.name.clone(),
            component.age_seconds.filter(|age| *age > 0.0).map(seconds).unwrap_or_default(),
            component.value.map(|value| value.to_string()).unwrap_or_default(),
        ]
    };
    text.push('\n');
    text.push_str(&table(&["status", "component", "name", "age", "value"], components.iter().map(row)));
    text
}

/// What is paused, since when, by whom and why.
fn paused(pause: &Component) -> String {
    let field =
        |name: &str| pause.detail.as_ref().and_then(|detail| detail[name].as_str()).unwrap_or_default();
    let (what, age) =
        (subject(field("scope"), field("name")), seconds(pause.age_seconds.unwrap_or_default()));
    let line = format!("paused: {what}, for {age}, by {}: {}", field("actor"), field("reason"));
    printable(&line).replace('\n', " ")
}

/// One sentence about a component that somebody must look at.
fn complaint(ill: &Component) -> String {
    let Component { component, name, .. } = ill;
    let age = ill.age_seconds.map_or_else(|| "an unknown time".to_owned(), seconds);
    match (component.as_str(), ill.status_hint.as_str()) {
        ("executor", "never") => format!("executor {name} is registered and has never beaten"),
        ("executor", _) => format!("executor {name} has been silent for {age}"),
        ("cursor", "never") => {
            format!(
                "domain {name} was never dispatched, and an event has waited for {age}: is `reveille run` up?"
            )
        }
        ("cursor", _) => format!("domain {name} is behind: its oldest unread event has waited for {age}"),
        ("backlog", _) => {
            format!("jobs for {name} have waited for {age}, and no executor of that kind is alive")
        }
        ("unclaimed", _) => format!(
            "{} have waited for {age}, and no live executor is subscribed to them: `reveille executors list`",
            printable(name)
        ),
        _ if is_watched(ill) => found(ill),
        (_, hint) => format!("{component} {name} is {hint} since {age}"),
    }
}

/// Whether what is wrong with it is told as a finding.
fn is_watched(one: &Component) -> bool {
    ["workflow", "route", "schedule", "audit"].contains(&one.component.as_str())
}

/// What is wrong, since when, why it matters, and what to do; in one line.
fn found(one: &Component) -> String {
    let told = |key: &str| one.detail.as_ref().and_then(|detail| detail[key].as_str()).unwrap_or_default();
    let age = one.age_seconds.map(|age| format!(", for {}", seconds(age))).unwrap_or_default();
    let Component { component, name, .. } = one;
    let line = format!("{component} {name}: {}{age}; {}: {}", told("what"), told("why"), told("mend"));
    printable(&line).replace('\n', " ")
}
