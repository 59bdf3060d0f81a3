//! `reveille health`: is anything silent?

use std::fmt::Write as _;

use super::context::{Context, Outcome};
use super::output::{seconds, table};
use super::watch::{Watch, watch};
use crate::error::Result;
use crate::store::gates::{self, Gate};
use crate::store::health::Component;
use crate::store::standing::{self, complaint, found, is_watched, paused};

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
    let components = standing::read(&client).await?;
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
        let _ = writeln!(text, "{}", standing::gaps(gaps));
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
