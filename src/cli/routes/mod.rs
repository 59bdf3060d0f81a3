//! `reveille routes`: which writes to which tables become events.

use std::path::PathBuf;

use serde_json::Value;

use answers::{agreed, understood};

use super::context::{Context, Outcome, actor, or_did_you_mean};
use super::output::{fields, table};
use crate::error::{Error, Kind, Result};
use crate::store::routes::{self, Route};

mod answers;
mod preview;
mod put;
mod remove;

/// List, write, preview, switch and remove routes: an insert, update or delete on a table becomes an event
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List all routes, those of the host too
    #[command(after_help = "Example:\n  reveille routes list")]
    List,
    /// Show one route with all it says, its trigger and its faults of the last day
    #[command(after_help = "Example:\n  reveille routes show species.born")]
    Show {
        /// Its code
        code: String,
    },
    /// Write a route from a file of TOML or JSON; a new one is disabled, and in its dry run
    #[command(after_help = "Example:\n  reveille routes put species.born.toml")]
    Put {
        /// The file; docs/trigger-in.md says what stands in it
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Who does it; without it, `user:` and the name of this login
        #[arg(long, value_name = "NAME")]
        actor: Option<String>,
    },
    /// Make the trigger of a route; it goes on counting in its dry run until you say --live
    #[command(
        after_help = "Only the owner of the table may, and so agrees to what the route says now; a write waits for the \
                      trigger no longer than three seconds.\n\n\
                      Examples:\n  reveille routes enable species.born --reason 'a week of dry run'\n  \
                      reveille routes enable species.born --live --reason 'the counts are right'"
    )]
    Enable {
        #[command(flatten)]
        switch: Switch,
        /// Emit events from now on; refused before its dry run has seen what the route says now
        #[arg(long, conflicts_with = "dry_run")]
        live: bool,
        /// With --live: though it has not run dry
        #[arg(long, requires = "live")]
        without_dry_run: bool,
        /// Count, keep samples and emit nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Stop a route and remove its trigger
    #[command(
        after_help = "Example:\n  reveille routes disable species.born --reason 'the table is reloaded'"
    )]
    Disable(Switch),
    /// Remove a disabled route with its samples and what it has told; a dry run unless --apply is given
    #[command(
        after_help = "Its faults stay. A route of the same code would tell of every row again, also with the policy per_row.\n\n\
                      Example:\n  reveille routes remove species.born --reason 'the table goes' --apply"
    )]
    Remove {
        #[command(flatten)]
        switch: Switch,
        /// Do it; otherwise it is only told what would go
        #[arg(long)]
        apply: bool,
    },
    /// Show what the last rows of the table would have made, and what the dry run has counted; changes nothing
    #[command(after_help = "Example:\n  reveille routes preview species.born --limit 5")]
    Preview {
        /// Its code
        code: String,
        /// Most rows to look at, from the end of the primary key
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=10_000))]
        limit: i32,
    },
}

#[derive(Debug, clap::Args)]
struct Switch {
    /// Its code
    code: String,
    /// Who does it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    match args.action {
        Action::List => list(context).await,
        Action::Show { code } => show(&code, context).await,
        Action::Put { file, actor } => put::run(&file, actor, context).await,
        Action::Enable { switch, live, without_dry_run, dry_run } => {
            enable(switch, (live || dry_run).then_some(dry_run), without_dry_run, context).await
        }
        Action::Disable(switch) => disable(switch, context).await,
        Action::Remove { switch, apply } => remove::run(switch, apply, context).await,
        Action::Preview { code, limit } => preview::run(&code, limit, context).await,
    }
}

async fn list(context: &Context) -> Result<Outcome> {
    let all = routes::list(&context.client().await?).await?;
    let row = |route: &Route| {
        [
            text(route, "route_code").to_owned(),
            format!(
                "{} on {}.{}",
                text(route, "sql_event"),
                text(route, "source_schema"),
                text(route, "source_table")
            ),
            format!("{}.{}", text(route, "target_event_domain"), text(route, "target_event_type")),
            text(route, "idempotency_policy").to_owned(),
            if is(route, "fail_closed") { "closed" } else { "open" }.to_owned(),
            state(route).to_owned(),
            text(route, "trigger").to_owned(),
        ]
    };
    let headings = ["route", "from", "event", "once", "fails", "state", "trigger"];
    context.out.answer(&all, || {
        if all.is_empty() {
            return "no routes; `reveille routes put FILE` writes one".to_owned();
        }
        let text = table(&headings, all.iter().map(row));
        if all.iter().any(is_held) { format!("{text}\n{CLOSED}\n") } else { text }
    })?;
    Ok(Outcome::Done)
}

fn text<'a>(route: &'a Route, column: &str) -> &'a str {
    route.get(column).and_then(Value::as_str).unwrap_or_default()
}

fn is(route: &Route, column: &str) -> bool {
    route.get(column) == Some(&Value::Bool(true))
}

/// What a closed gate means, and what opens it.
const CLOSED: &str =
    "the gate for all routes is closed, and they do nothing: `reveille gate open queue.route.enabled`";

/// Whether it would do something if the gate for all routes were open.
fn is_held(route: &Route) -> bool {
    is(route, "is_ours") && is(route, "enabled") && !is(route, "gate_open")
}

fn state(route: &Route) -> &'static str {
    match (is(route, "is_ours"), is(route, "enabled"), is(route, "dry_run")) {
        (false, ..) => "the host's own",
        (true, false, _) => "disabled",
        (true, true, true) => "dry run",
        (true, true, false) => "live",
    }
}

const FIELDS: [&str; 19] = [
    "route_code",
    "source_schema",
    "source_table",
    "sql_event",
    "target_event_domain",
    "target_event_type",
    "target_event_stream",
    "idempotency_policy",
    "fail_closed",
    "payload_contract",
    "enabled",
    "dry_run",
    "gate_open",
    "trigger",
    "owner",
    "consent",
    "beyond",
    "faults",
    "last_fault",
];

async fn show(code: &str, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let Some(route) = routes::show(&client, code).await? else {
        return Err(unknown(code, &routes::list(&client).await?));
    };
    context.out.answer(&route, || fields(&Value::Object(route.clone()), &FIELDS))?;
    Ok(Outcome::Done)
}

fn unknown(code: &str, all: &[Route]) -> Error {
    let error = Error::new(Kind::Database, format!("there is no route `{code}`"));
    or_did_you_mean(
        error,
        code,
        all.iter().map(|route| text(route, "route_code")),
        "`reveille routes list` shows them all",
    )
}

async fn enable(
    args: Switch,
    dry_run: Option<bool>,
    without_dry_run: bool,
    context: &Context,
) -> Result<Outcome> {
    let client = context.client().await?;
    if routes::show(&client, &args.code).await?.is_none() {
        return Err(unknown(&args.code, &routes::list(&client).await?));
    }
    let who = actor(args.actor);
    let (who, reason) = (who.as_deref(), &args.reason);
    let answer = routes::enable(&client, &args.code, who, reason, dry_run, without_dry_run).await?;
    let answer = understood(answer, context)?;
    Outcome::of(answer, |result| {
        context.out.answer(result, || {
            let (state, was) = (result["state"].as_str().unwrap_or_default(), result["was"].as_str());
            let before = was.filter(|was| *was != state).unwrap_or("so before");
            let next = if state == "dry run" { "; it counts and emits nothing until --live" } else { "" };
            let held = if result["gate_open"] == false { format!("\n{CLOSED}") } else { String::new() };
            let agreed = agreed(&result["consent"]);
            format!("{}: {state} (was {before}){next}\nthe table's owner agrees to {agreed}{held}", args.code)
        })
    })
}

async fn disable(args: Switch, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    if routes::show(&client, &args.code).await?.is_none() {
        return Err(unknown(&args.code, &routes::list(&client).await?));
    }
    let who = actor(args.actor);
    let answer = routes::disable(&client, &args.code, who.as_deref(), &args.reason).await?;
    let answer = understood(answer, context)?;
    Outcome::of(answer, |result| {
        context.out.answer(result, || {
            let was = result["was"].as_str().filter(|was| *was != "disabled").unwrap_or("so before");
            let left = match result["trigger_left"].as_str() {
                None => "its trigger is gone",
                Some("table_busy") => "its trigger stands and does nothing: the table was busy, try again",
                Some(_) => "its trigger stands and does nothing: only the table's owner can remove it",
            };
            format!("{}: disabled (was {before}); {left}", args.code, before = was)
        })
    })
}
