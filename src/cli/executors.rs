//! `reveille executors`: who beats, and what each may claim; names for programs of yours, and names that nobody beats
//! under any more.

mod subscriptions;

use std::fmt::Write as _;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use serde_json::json;

use super::context::{Context, Outcome};
use super::output::{printable, seconds, table};
use crate::error::{Error, Kind, Result};
use crate::look::executors::{self, Executor, Found};
use crate::model::executor::ExecutorKind;
use crate::model::refusal::Answer;
use crate::store::heartbeats;

/// List executors; register a name, beat under it, or forget it; say what it may claim
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List who beats, who has fallen silent, and what each may claim; sidecars are among them
    #[command(after_help = "Example:\n  reveille executors list")]
    List,
    /// Show one executor and its subscriptions
    #[command(after_help = "Example:\n  reveille executors show nightly-export")]
    Show {
        /// Its name, or a pattern that has subscriptions
        name: String,
    },
    /// Let an executor claim these jobs; from its first subscription on it claims nothing beside them
    #[command(after_help = "The same executor, kind and domain again changes that subscription.\n\n\
                      Examples:\n  reveille executors subscribe resizer-1 --kind 'image.*' --domain staging\n  \
                      reveille executors subscribe 'resizer-*' --kind image.resize --priority-floor 50 --share 2")]
    Subscribe(Subscribe),
    /// Take subscriptions away; without the last one it may claim everything of its kind again
    #[command(after_help = "Example:\n  reveille executors unsubscribe resizer-1 --kind 'image.*'")]
    Unsubscribe(Unsubscribe),
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

#[derive(Debug, clap::Args)]
struct Subscribe {
    /// Its name; `*` stands for any characters
    name: String,
    /// Kinds of job; `*` stands for any characters
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    kind: String,
    /// Jobs of this domain's events; `*` is every domain, and jobs without one
    #[arg(long, default_value = "*")]
    domain: String,
    /// The last priority that it may claim; 0 is the first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=32767))]
    priority_floor: Option<i32>,
    /// Its weight among jobs that are equally urgent
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    share: f32,
    /// What it is good for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Who does it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Unsubscribe {
    /// The name or pattern, as it was subscribed
    name: String,
    /// Only those of this pattern of kinds
    #[arg(long, value_name = "PATTERN")]
    kind: Option<String>,
    /// Only those of this domain
    #[arg(long)]
    domain: Option<String>,
    /// Who does it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    match args.action {
        Action::List => list(context).await,
        Action::Show { name } => subscriptions::show(&name, context).await,
        Action::Subscribe(args) => subscriptions::subscribe(args, context).await,
        Action::Unsubscribe(args) => subscriptions::unsubscribe(args, context).await,
        Action::Register(args) => register(&args, context).await,
        Action::Beat { name, status } => beat(&name, &status, context).await,
        Action::Forget { name } => forget(&name, context).await,
    }
}

async fn list(context: &Context) -> Result<Outcome> {
    let found = executors::found(&context.client().await?).await?;
    context.out.answer(&found.executors, || as_table(&found))?;
    Ok(Outcome::Done)
}

fn as_table(found: &Found) -> String {
    let row = |executor: &Executor| {
        let component = &executor.component;
        let age = component.age_seconds.map_or_else(|| "never".to_owned(), seconds);
        [
            component.status_hint.clone(),
            component.name.clone(),
            executor.detail("executor_kind"),
            age,
            executor.detail("owner_role"),
            executor.may_claim(),
        ]
    };
    let headings = ["status", "executor", "kind", "last beat", "owner", "may claim"];
    let mut text = table(&headings, found.executors.iter().map(row));
    for name in &found.idle_patterns {
        let _ = write!(text, "\nsubscriptions of {} apply to nobody who is registered", printable(name));
    }
    text
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
