//! `reveille consumers`: who wants which facts.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::context::{Context, Outcome, actor, or_did_you_mean, warning};
use super::output::{fields, table};
use super::payload;
use crate::error::{Error, Kind, Result};
use crate::store::consumers::{self, Columns, Since};

mod backfill;
mod diff;
mod pilot;
mod preview;
mod runner;
mod sync;

/// List, show, switch, preview and backfill consumers, and make rows of their files
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List all consumers
    #[command(after_help = "Example:\n  reveille consumers list")]
    List,
    /// Show one consumer with all its columns
    #[command(after_help = "Example:\n  reveille consumers show mark_cut.cut")]
    Show {
        /// Its key
        key: String,
    },
    /// Make rows of consumer files; shows what would change, and changes nothing without a yes
    #[command(
        after_help = "Rows that others wrote are never touched. Whether a row is enabled is yours to decide: a file's\n\
                      `enabled` counts when its row is first written.\n\n\
                      Examples:\n  reveille consumers sync\n  reveille consumers sync --dir consumers --apply"
    )]
    Sync(Sync),
    /// Let a consumer make jobs, from now on
    #[command(
        after_help = "Says first which of the newest events it would make jobs of; those are past, and `backfill` makes them.\n\n\
                      Examples:\n  reveille consumers enable mark_cut.cut --dry-run\n  \
                      reveille consumers enable mark_cut.cut --reason 'pilot begins'"
    )]
    Enable(Switch),
    /// Let a consumer make no more jobs; facts that come meanwhile pass it by
    #[command(after_help = "Example:\n  reveille consumers disable mark_cut.cut --reason 'host is moved'")]
    Disable(Switch),
    /// Show what a consumer would do with the newest events of its domain; changes nothing
    #[command(after_help = "Examples:\n  reveille consumers preview mark_cut.cut --since 1h\n  \
                      reveille consumers preview consumers/mark_cut.cut.toml")]
    Preview(Preview),
    /// Make jobs of past events that a consumer has none for; counts them, and makes none without --apply
    #[command(after_help = backfill::BACKFILL_HELP)]
    Backfill(Box<backfill::Backfill>),
    /// Make jobs of a consumer again for events that have one; counts them, and makes none without --apply
    #[command(after_help = backfill::REPLAY_HELP)]
    Replay(Box<backfill::Replay>),
    /// Rank collections by how well they suit a pilot; changes nothing
    #[command(after_help = pilot::HELP)]
    Pilot(pilot::Args),
}

#[derive(Debug, clap::Args)]
struct Sync {
    /// The folder of consumer files
    #[arg(long, value_name = "FOLDER", default_value = "consumers")]
    dir: PathBuf,
    /// Apply without asking; without it a terminal is asked, and anything else only shown
    #[arg(long)]
    apply: bool,
    /// Remove rows whose files are gone
    #[arg(long)]
    prune: bool,
    /// Also enable or disable existing rows as their files say
    #[arg(long)]
    enabled_too: bool,
    /// Of so many of the newest events it is shown which would get another job, or none; 0 shows none
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(i32).range(0..=100_000))]
    last: i32,
    /// Who does it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Switch {
    /// Its key
    key: String,
    /// Who does it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT", default_value = "no reason given")]
    reason: String,
    /// Only show which of the newest events would get a job, or none
    #[arg(long)]
    dry_run: bool,
    /// How many of the newest events are looked at; 0 shows none
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(i32).range(0..=100_000))]
    last: i32,
}

#[derive(Debug, clap::Args)]
struct Preview {
    /// A consumer's key, or a file that need not be synchronised yet
    #[arg(value_name = "KEY|FILE")]
    subject: String,
    /// Only events since this moment, or since that long ago
    #[arg(long, value_name = "TIME|DURATION", value_parser = payload::since)]
    since: Option<Since>,
    /// Most events to look at
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(i32).range(1..=1_000_000))]
    limit: i32,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    match args.action {
        Action::List => list(context).await,
        Action::Show { key } => show(&key, context).await,
        Action::Sync(args) => sync::run(args, context).await,
        Action::Enable(args) => switch(args, true, context).await,
        Action::Disable(args) => switch(args, false, context).await,
        Action::Preview(args) => preview::run(args, context).await,
        Action::Backfill(args) => backfill::backfill(*args, context).await,
        Action::Replay(args) => backfill::replay(*args, context).await,
        Action::Pilot(args) => pilot::run(args, context).await,
    }
}

async fn list(context: &Context) -> Result<Outcome> {
    let all = consumers::list(&context.client().await?).await?;
    let row = |consumer: &Columns| {
        [
            text(consumer, "consumer_key").to_owned(),
            format!("{}.{}", text(consumer, "event_domain"), text(consumer, "event_type")),
            makes(consumer),
            text(consumer, "executor").to_owned(),
            state(consumer).to_owned(),
            text(consumer, "source").to_owned(),
            text(consumer, "description").to_owned(),
        ]
    };
    let headings = ["consumer", "wants", "makes", "executor", "state", "from", "description"];
    context.out.answer(&all, || {
        if all.is_empty() {
            return "no consumers; `reveille consumers sync` makes them of files".to_owned();
        }
        table(&headings, all.iter().map(row))
    })?;
    Ok(Outcome::Done)
}

fn text<'a>(consumer: &'a Columns, column: &str) -> &'a str {
    consumer.get(column).and_then(Value::as_str).unwrap_or_default()
}

fn makes(consumer: &Columns) -> String {
    match (text(consumer, "job_kind"), text(consumer, "fan_out")) {
        ("", _) => "(terminal)".to_owned(),
        (kind, "") => kind.to_owned(),
        (kind, _) => format!("{kind}, one a recipient"),
    }
}

fn state(consumer: &Columns) -> &'static str {
    let is = |column: &str| consumer.get(column) == Some(&Value::Bool(true));
    match (is("enabled"), is("dry_run")) {
        (false, _) => "disabled",
        (true, true) => "dry run",
        (true, false) => "enabled",
    }
}

const FIELDS: [&str; 25] = [
    "consumer_key",
    "description",
    "event_domain",
    "event_type",
    "event_stream",
    "filter",
    "job_kind",
    "executor",
    "priority",
    "max_attempts",
    "delay",
    "source_ref",
    "target_ref",
    "payload_ref",
    "ordering_key",
    "idempotency_key",
    "fan_out",
    "enabled",
    "switched",
    "dry_run",
    "starts_at",
    "source",
    "actor",
    "updated_at",
    "errors",
];

async fn show(key: &str, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let Some(consumer) = consumers::show(&client, key).await? else {
        return Err(unknown(key, &consumers::list(&client).await?));
    };
    context.out.answer(&consumer, || fields(&Value::Object(consumer.clone()), &FIELDS))?;
    Ok(Outcome::Done)
}

fn unknown(key: &str, all: &[Columns]) -> Error {
    let error = Error::new(Kind::Database, format!("there is no consumer `{key}`"));
    or_did_you_mean(
        error,
        key,
        all.iter().map(|consumer| text(consumer, "consumer_key")),
        "`reveille consumers list` shows them all",
    )
}

/// What it would do could not be shown, so nothing is switched on.
fn unseen(error: Error) -> Error {
    let kind = error.kind();
    Error::new(kind, "what the consumer would do could not be shown, and it was not enabled")
        .hint("`--last 100` looks at fewer events, `--last 0` enables it without a look")
        .because(error)
}

async fn switch(args: Switch, enabled: bool, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let Some(mut columns) = consumers::show(&client, &args.key).await? else {
        return Err(unknown(&args.key, &consumers::list(&client).await?));
    };
    let was = columns.insert("enabled".to_owned(), json!(enabled)) == Some(json!(true));
    // to disable must not wait for anything
    let looks = args.dry_run || (enabled && !was && args.last > 0);
    let shown = if looks { Some(diff::diff(&client, &columns, args.last.max(1)).await) } else { None };
    if args.dry_run {
        let shown = shown.transpose()?.unwrap_or_default();
        let document = json!({ "consumer_key": args.key, "enabled": was, "dry_run": true, "diff": shown });
        context.out.answer(&document, || {
            format!("{}: nothing was changed\n{}", args.key, diff::as_text(&shown, diff::SHOWN))
        })?;
        return Ok(Outcome::Done);
    }
    let shown = shown.transpose().map_err(unseen)?;
    if let Some(shown) = shown.as_ref().filter(|shown| diff::says_anything(shown)) {
        context.out.line(&diff::as_text(shown, diff::SHOWN))?;
    }
    let who = actor(args.actor);
    let answer = consumers::set_enabled(&client, &args.key, enabled, who.as_deref(), &args.reason).await?;
    Outcome::of(answer, |result| {
        let was = result["was_enabled"] == true;
        let mut document = json!({ "consumer_key": args.key, "enabled": enabled, "was_enabled": was });
        if let Some(shown) = &shown {
            document["diff"] = shown.clone();
        }
        if let Some(warning) = result.get("warning") {
            document["warning"] = warning.clone();
        }
        let word = |enabled| if enabled { "enabled" } else { "disabled" };
        context.out.answer(&document, || {
            let before = if was == enabled { "so before" } else { word(was) };
            format!("{}: {} (was {before}){}", args.key, word(enabled), warning(result))
        })
    })
}
