//! `reveille executors`: who beats; names for programs of yours, and names that nobody beats under any more.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use super::context::{Context, Outcome};
use super::output::{seconds, table};
use crate::error::{Error, Kind, Result};
use crate::model::executor::ExecutorKind;
use crate::model::refusal::Answer;
use crate::store::health::{self, Component};
use crate::store::heartbeats;

/// List executors; register a name, beat under it, or forget it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List who beats, and who has fallen silent; sidecars are among them
    #[command(after_help = "Example:\n  reveille executors list")]
    List,
    /// Register a name for a program of yours, before its first claim; the login that registers it owns it
    #[command(
        after_help = "Example:\n  reveille executors register nightly-export --kind external_worker --cadence 1day --threshold 26h"
    )]
    Register(Register),
    /// Beat once under a name that this login owns, for programs that run from cron
    #[command(after_help = "Example:\n  0 3 * * * /opt/export && reveille executors beat nightly-export")]
    Beat {
        /// The registered name
        name: String,
        /// How it is
        #[arg(long, default_value = "ok", value_parser = PossibleValuesParser::new(["ok", "warn", "error"]))]
        status: String,
    },
    /// Forget a name whose program was killed and does not come back; one that lives registers anew
    #[command(after_help = "Example:\n  reveille executors forget db1-dispatcher-5e0c9a41")]
    Forget {
        /// The name, as `executors list` shows it
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct Register {
    /// The name
    name: String,
    /// Kind of executor
    #[arg(long, value_name = "KIND", default_value = "external_worker")]
    kind: ExecutorKind,
    /// Longest time between two beats
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    cadence: Duration,
    /// Silent after so long without a beat; without it, what `dot_config` says
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    threshold: Option<Duration>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    match args.action {
        Action::List => list(context).await,
        Action::Register(args) => register(&args, context).await,
        Action::Beat { name, status } => beat(&name, &status, context).await,
        Action::Forget { name } => forget(&name, context).await,
    }
}

async fn list(context: &Context) -> Result<Outcome> {
    let mut executors = health::list(&context.client().await?).await?;
    executors.retain(|component| component.component == "executor");
    context.out.answer(&executors, || as_table(&executors))?;
    Ok(Outcome::Done)
}

fn as_table(executors: &[Component]) -> String {
    let row = |executor: &Component| {
        let text = |key| {
            let value = executor.detail.as_ref().and_then(|detail| detail.get(key)).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        let age = executor.age_seconds.map_or_else(|| "never".to_owned(), seconds);
        [executor.status_hint.clone(), executor.name.clone(), text("executor_kind"), age, text("owner_role")]
    };
    table(&["status", "executor", "kind", "last beat", "owner"], executors.iter().map(row))
}

async fn register(args: &Register, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let answer = heartbeats::announce(&client, &args.name, args.kind, args.cadence, args.threshold).await?;
    Outcome::of(answer, |result| {
        context.out.answer(result, || format!("{} is registered as {}", args.name, args.kind))
    })
}

async fn beat(name: &str, status: &str, context: &Context) -> Result<Outcome> {
    let answer = heartbeats::beat(&context.client().await?, name, status).await?;
    Outcome::of(answer, |result| context.out.answer(result, || format!("{name} beats: {status}")))
}

async fn forget(name: &str, context: &Context) -> Result<Outcome> {
    let answer = heartbeats::unregister(&context.client().await?, name).await?;
    if let Answer::Refused(refusal) = answer {
        let hint = match refusal.reason.as_str() {
            "not_owner" => "only its owner may: use the login that the program had, or a superuser's",
            _ => "`reveille executors list` shows the names",
        };
        let what = format!("forgetting {name}: refused, {}", refusal.reason);
        return Err(Error::new(Kind::Refused, what).hint(hint));
    }
    context.out.answer(&json!({ "forgotten": name }), || format!("{name} is forgotten"))?;
    Ok(Outcome::Done)
}
