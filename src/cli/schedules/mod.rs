//! `reveille schedules`: jobs at times.

use clap::ArgGroup;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::context::{Context, Outcome, actor, or_did_you_mean, warning};
use super::output::{self, fields, moment, table};
use crate::error::{Error, Kind, Result};
use crate::store::schedules;

mod definition;
mod preview;

use definition::Definition;

/// List, show, write, switch and preview schedules: jobs by cron and time zone, at an interval, or once
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List all schedules: when, what they make, how the last job went, when the next one comes
    #[command(after_help = "Example:\n  reveille schedules list")]
    List,
    /// Show one schedule with all its columns, and its next five times
    #[command(after_help = "Example:\n  reveille schedules show report.nightly")]
    Show {
        /// Its key
        key: String,
    },
    /// Add a schedule, which makes nothing until it is enabled, or change all of one but that
    #[command(
        group(ArgGroup::new("when").required(true).args(["cron", "every", "at"])),
        after_help = "A new cron text, zone, interval or moment counts from now on. Missed are ticks that are more than a\n\
                      minute late, because no sidecar ran or somebody held them; `once` makes one job for all of them.\n\n\
                      Examples:\n  \
                      reveille schedules put report.nightly --cron '30 2 * * *' --time-zone Europe/Berlin --kind report.make\n  \
                      reveille schedules put page.refresh --every 15m --kind page.refresh --missed skip\n  \
                      reveille schedules put mail.campaign --at 2027-01-15T09:00:00+07:00 --kind mail.campaign"
    )]
    Put(Box<Put>),
    /// Show the next five times of a schedule, and the jobs that it would make; changes nothing
    #[command(
        group(ArgGroup::new("when").args(["cron", "every", "at"])),
        after_help = "With --cron, --every or --at it is about a schedule that is not stored yet.\n\n\
                      Examples:\n  reveille schedules preview report.nightly\n  \
                      reveille schedules preview report.weekly --cron '0 8 * * MON' --time-zone America/New_York"
    )]
    Preview(Box<Preview>),
    /// Let a schedule make jobs, from now on
    #[command(
        after_help = "Example:\n  reveille schedules enable report.nightly --reason 'the pilot begins'"
    )]
    Enable(Change),
    /// Let a schedule make no more jobs; what would have come meanwhile is not made up for
    #[command(
        after_help = "Example:\n  reveille schedules disable report.nightly --reason 'the host is moved'"
    )]
    Disable(Change),
    /// Take a schedule away; its jobs stay
    #[command(after_help = "Example:\n  reveille schedules remove report.nightly --reason 'nobody reads it'")]
    Remove(Change),
}

#[derive(Debug, clap::Args)]
struct Put {
    /// Its key: lower case, digits and `_ . -`
    key: String,
    /// Kind of the jobs
    #[arg(long)]
    kind: String,
    #[command(flatten)]
    definition: Definition,
    /// Who does it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Preview {
    /// Its key
    key: String,
    /// Kind of the jobs
    #[arg(long, requires = "when")]
    kind: Option<String>,
    #[command(flatten)]
    definition: Definition,
}

#[derive(Debug, clap::Args)]
struct Change {
    /// Its key
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
        Action::Show { key } => show(&key, context).await,
        Action::Put(args) => put(*args, context).await,
        Action::Preview(args) => preview::run(*args, context).await,
        Action::Enable(args) => switch(args, true, context).await,
        Action::Disable(args) => switch(args, false, context).await,
        Action::Remove(args) => remove(args, context).await,
    }
}

/// A column as text; empty when it has none.
fn text<'a>(schedule: &'a Value, column: &str) -> &'a str {
    schedule[column].as_str().unwrap_or_default()
}

async fn list(context: &Context) -> Result<Outcome> {
    let mut all = schedules::list(&context.client().await?, None).await?;
    for schedule in &mut all {
        // no sidecar has placed it yet: what would come is told all the same
        if schedule["next_tick_at"].is_null() && schedule["state"] != "ended" {
            schedule["first_tick_at"] =
                json!(preview::Times::of(schedule).ok().and_then(|times| times.first_at()));
        }
    }
    let row = |schedule: &Value| {
        let now: Timestamp = text(schedule, "now").parse().unwrap_or_else(|_| Timestamp::now());
        let at = |column| text(schedule, column).parse().map_or_else(|_| String::new(), |at| moment(at, now));
        [
            text(schedule, "schedule_key").to_owned(),
            when(schedule),
            text(schedule, "job_kind").to_owned(),
            text(schedule, "state").to_owned(),
            at("last_tick_at"),
            text(schedule, "last_job_status").to_owned(),
            match schedule["first_tick_at"].as_str() {
                Some(_) if schedule["enabled"] == false => format!("{} if enabled", at("first_tick_at")),
                Some(_) => at("first_tick_at"),
                None => at("next_tick_at"),
            },
            text(schedule, "trouble").to_owned(),
        ]
    };
    let headings = ["schedule", "when", "makes", "state", "last tick", "its job", "next tick", "trouble"];
    context.out.answer(&all, || {
        if all.is_empty() {
            return "no schedules; `reveille schedules put` writes one".to_owned();
        }
        table(&headings, all.iter().map(row))
    })?;
    Ok(Outcome::Done)
}

/// The times of a schedule as they were written.
fn when(schedule: &Value) -> String {
    if let Some(cron) = schedule["cron"].as_str() {
        return format!("cron {cron} {}", text(schedule, "time_zone"));
    }
    match schedule["every_seconds"].as_i64() {
        Some(seconds) => format!("every {}", output::duration(jiff::SignedDuration::from_secs(seconds))),
        None => format!("once at {}", text(schedule, "at")),
    }
}

const FIELDS: [&str; 12] = [
    "schedule_key",
    "description",
    "state",
    "trouble",
    "cron",
    "time_zone",
    "every_seconds",
    "at",
    "missed",
    "missed_window_seconds",
    "job_kind",
    "executor",
];

async fn show(key: &str, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let mut schedule = stored(&client, key).await?;
    let shown = preview::Times::of(&schedule);
    schedule["next_times"] = match &shown {
        Ok(times) => json!(times.next),
        Err(_) => json!([]),
    };
    context.out.answer(&schedule, || {
        let mut columns = schedule.clone();
        if let Some(columns) = columns.as_object_mut() {
            columns.remove("next_times");
        }
        let times = shown.map_or_else(|error| error.to_string(), |times| times.to_string());
        format!("{}\n\n{times}", fields(&columns, &FIELDS))
    })?;
    Ok(Outcome::Done)
}

/// The row of a schedule.
async fn stored(client: &impl deadpool_postgres::GenericClient, key: &str) -> Result<Value> {
    if let Some(found) = schedules::list(client, Some(key)).await?.pop() {
        return Ok(found);
    }
    let all = schedules::list(client, None).await?;
    let error = Error::new(Kind::Database, format!("there is no schedule `{key}`"));
    Err(or_did_you_mean(
        error,
        key,
        all.iter().map(|schedule| text(schedule, "schedule_key")),
        "`reveille schedules list` shows them all",
    ))
}

async fn put(args: Put, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let now = schedules::now(&client).await?;
    let mut new = args.definition.of(&args.key, &args.kind, actor(args.actor))?;
    // what an interval is counted from stays, unless it is said anew
    let before = schedules::list(&client, Some(&args.key)).await?.pop();
    let start = before.and_then(|before| text(&before, "starts_at").parse().ok());
    new.starts_at = new.starts_at.or(start);
    let first = definition::first_tick(&new, now)?;
    let answer = schedules::put(&client, &new).await.map_err(|error| match error.sqlstate() {
        Some("22023") => Error::usage(error.to_string()).because(error),
        _ => super::payload::explain(error),
    })?;
    Outcome::of(answer, |result| {
        let mut document = result.clone();
        document["first_tick_at"] = json!(first);
        context.out.answer(&document, || {
            let key = &args.key;
            let done = if result["created"] == true { "added" } else { "changed" };
            let line = if result["enabled"] == true {
                format!("{key}: {done}; it is enabled, and comes {}", moment(first, now))
            } else {
                format!("{key}: {done}, and disabled; enabled now it would come {}", moment(first, now))
            };
            line + &warning(result)
        })
    })
}

async fn switch(args: Change, enabled: bool, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let schedule = stored(&client, &args.key).await?;
    let who = actor(args.actor);
    let answer = schedules::enable(&client, &args.key, enabled, who.as_deref(), &args.reason).await?;
    Outcome::of(answer, |result| {
        context.out.answer(result, || {
            let was = result["was_enabled"] == true;
            let word = |enabled| if enabled { "enabled" } else { "disabled" };
            let before = if was == enabled { "so before" } else { word(was) };
            let line = format!("{}: {} (was {before})", args.key, word(enabled));
            let line = match preview::Times::of(&schedule) {
                Ok(times) if enabled => format!("{line}; {}", times.first()),
                _ => line,
            };
            line + &warning(result)
        })
    })
}

async fn remove(args: Change, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    stored(&client, &args.key).await?;
    let who = actor(args.actor);
    let answer = schedules::remove(&client, &args.key, who.as_deref(), &args.reason).await?;
    Outcome::of(answer, |result| {
        context.out.answer(result, || format!("{}: removed; its jobs stay", args.key))
    })
}
