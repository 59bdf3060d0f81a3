//! `reveille gate`: what may happen at all.

use jiff::Timestamp;
use serde_json::json;

use super::context::{Context, Outcome, actor, or_did_you_mean};
use super::output::{moment, table};
use crate::error::{Error, Result};
use crate::store::gates::{self, Gate};

/// List, open or close gates; a closed gate stops new work and loses nothing
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the gates, who changed them last, and why
    #[command(after_help = "Example:\n  reveille gate list")]
    List,
    /// Open a gate
    #[command(after_help = "Example:\n  reveille gate open queue.worker.enabled --reason 'pilot begins'")]
    Open(Change),
    /// Close a gate: new work stops, running work ends normally, positions are kept
    #[command(
        after_help = "Example:\n  reveille gate close queue.job_substrate.enabled --reason 'load test on the host'"
    )]
    Close(Change),
}

#[derive(Debug, clap::Args)]
struct Change {
    /// The gate's key, as `gate list` shows it
    key: String,
    /// Who does it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT", default_value = "no reason given")]
    reason: String,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    match args.action {
        Action::List => list(context).await,
        Action::Open(change) => set(change, true, context).await,
        Action::Close(change) => set(change, false, context).await,
    }
}

async fn list(context: &Context) -> Result<Outcome> {
    let gates = gates::list(&context.client().await?).await?;
    let now = Timestamp::now();
    let row = |gate: &Gate| {
        [
            gate.key.clone(),
            state(gate.open).to_owned(),
            gate.updated_at.map_or_else(|| "not set".to_owned(), |at| moment(at, now)),
            gate.actor.clone().unwrap_or_default(),
            gate.reason.clone().unwrap_or_default(),
            gate.lets_through.clone().unwrap_or_default(),
        ]
    };
    context.out.answer(&gates, || {
        table(&["gate", "state", "changed", "by", "reason", "lets through"], gates.iter().map(row))
    })?;
    Ok(Outcome::Done)
}

fn state(open: bool) -> &'static str {
    if open { "open" } else { "closed" }
}

async fn set(change: Change, open: bool, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let stood_open = find(&change.key, &gates::list(&client).await?)?.open;
    let actor = actor(change.actor);
    let answer = gates::set(&client, &change.key, open, actor.as_deref(), &change.reason).await?;
    Outcome::of(answer, |result| {
        let was_open = result["old_value"].as_str().map_or(stood_open, |old| old == "true");
        let document = json!({ "key": change.key, "open": open, "was_open": was_open });
        context.out.answer(&document, || {
            let before = if was_open == open { "was so before" } else { state(was_open) };
            format!(
                "{}: {} ({}{before})",
                change.key,
                state(open),
                if was_open == open { "" } else { "was " }
            )
        })
    })
}

/// A misspelt key would be stored and obeyed by nobody.
fn find<'a>(key: &str, gates: &'a [Gate]) -> Result<&'a Gate> {
    let unknown = || {
        let error = Error::usage(format!("`{key}` is not a gate"));
        or_did_you_mean(
            error,
            key,
            gates.iter().map(|gate| gate.key.as_str()),
            "`reveille gate list` shows them all",
        )
    };
    gates.iter().find(|gate| gate.key == key).ok_or_else(unknown)
}
