//! `reveille consumers backfill` and `replay`: jobs of past events, counted first and made on request.

use serde_json::Value;
use uuid::Uuid;

use super::runner;
use super::{text, unknown};
use crate::cli::context::{Context, Outcome, actor};
use crate::cli::output::{moment, table};
use crate::cli::payload;
use crate::error::{Error, Result};
use crate::store::backfills::{self, Mode, Request};
use crate::store::consumers::{self, Since};

pub(super) const BACKFILL_HELP: &str = "\
Makes the jobs of past events that the consumer wants and has none for, by the keys of live dispatch: what is
there is never made again. Without --apply it changes nothing, and shows the same numbers. Ctrl-C pauses it;
--resume goes on from the same event, also after a crash.

Examples:
  reveille consumers backfill mark_cut.cut --since 30days
  reveille consumers backfill mark_cut.cut --since 30days --rate 50/s --reason 'pilot begins' --apply
  reveille consumers backfill --list
  reveille consumers backfill --resume 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10";

pub(super) const REPLAY_HELP: &str = "\
Makes jobs of one consumer again, for events that have one: with a new generation of their key (KEY#g2, then
KEY#g3, ...), so one replay makes each once, however often it is resumed. Without --apply it changes nothing.

Examples:
  reveille consumers replay mark_cut.cut --since 2026-01-31T09:30:00Z --until 2026-01-31T11:00:00Z
  reveille consumers replay mark_cut.cut --event 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10 --reason 'ticket 4711' --apply";

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["key", "resume", "pause", "cancel", "list"])))]
pub(super) struct Backfill {
    #[command(flatten)]
    run: Run,
    /// Events from then on: a moment, or how long ago
    #[arg(long, value_name = "TIME|DURATION", value_parser = payload::since, required_unless_present_any = ["resume", "pause", "cancel", "list"])]
    since: Option<Since>,
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["key", "resume", "pause", "cancel", "list"])))]
pub(super) struct Replay {
    #[command(flatten)]
    run: Run,
    /// Events from then on: a moment, or how long ago
    #[arg(long, value_name = "TIME|DURATION", value_parser = payload::since, required_unless_present_any = ["event", "resume", "pause", "cancel", "list"])]
    since: Option<Since>,
    /// Only this event; can be said again
    #[arg(long, value_name = "ID")]
    event: Vec<Uuid>,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The consumer's key
    #[arg(value_name = "KEY")]
    key: Option<String>,
    /// Events before then: a moment, or how long ago; without it, before now
    #[arg(long, value_name = "TIME|DURATION", value_parser = payload::since)]
    until: Option<Since>,
    /// Most jobs to make
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    limit: Option<i32>,
    /// Most jobs in a second, a minute or an hour: 50/s, 100/m, 6/h
    #[arg(long, value_name = "N/s", value_parser = rate)]
    rate: Option<f64>,
    /// Of the jobs, 0 first; without it 200, or 100 behind the consumer's own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=32767))]
    priority: Option<i32>,
    /// Who does it; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Why; kept with the run and in the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do it; otherwise it is only counted
    #[arg(long, requires = "key")]
    apply: bool,
    #[command(flatten)]
    begun: Begun,
}

#[derive(Debug, clap::Args)]
struct Begun {
    /// Go on with a run that was paused, has failed or lost its command
    #[arg(long, value_name = "ID", help_heading = "Runs that were begun")]
    resume: Option<Uuid>,
    /// With --resume: go on although the consumer reads otherwise by now
    #[arg(long, requires = "resume", help_heading = "Runs that were begun")]
    accept_change: bool,
    /// Let a run stop behind its batch
    #[arg(long, value_name = "ID", help_heading = "Runs that were begun")]
    pause: Option<Uuid>,
    /// End a run for good; the jobs that it made stay
    #[arg(long, value_name = "ID", help_heading = "Runs that were begun")]
    cancel: Option<Uuid>,
    /// List runs that have not ended
    #[arg(long, help_heading = "Runs that were begun")]
    list: bool,
    /// With --list: also those that have ended
    #[arg(long, requires = "list", help_heading = "Runs that were begun")]
    all: bool,
}

/// Jobs a second, for clap.
fn rate(typed: &str) -> Result<f64, String> {
    let (number, seconds) = match typed.split_once('/') {
        None | Some((_, "s")) => (typed.trim_end_matches("/s"), 1.0),
        Some((number, "m")) => (number, 60.0),
        Some((number, "h")) => (number, 3600.0),
        Some(_) => return Err("write it as 50/s, 100/m or 6/h".to_owned()),
    };
    let number: f64 = number.trim().parse().map_err(|_| "write it as 50/s, 100/m or 6/h".to_owned())?;
    let a_second = number / seconds;
    if (0.001..=1_000_000.0).contains(&a_second) {
        Ok(a_second)
    } else {
        Err("from 4/h to 1000000/s".to_owned())
    }
}

pub(super) async fn backfill(args: Backfill, context: &Context) -> Result<Outcome> {
    run(Mode::Backfill, args.run, args.since, None, context).await
}

pub(super) async fn replay(args: Replay, context: &Context) -> Result<Outcome> {
    let events = (!args.event.is_empty()).then_some(args.event);
    if args.run.apply && args.run.reason.is_none() {
        return Err(Error::usage("a replay runs jobs again, and needs a reason")
            .hint("say why with --reason TEXT; it is kept with the run"));
    }
    run(Mode::Replay, args.run, args.since, events, context).await
}

async fn run(
    mode: Mode,
    args: Run,
    since: Option<Since>,
    event_ids: Option<Vec<Uuid>>,
    context: &Context,
) -> Result<Outcome> {
    let begun = args.begun;
    if begun.list {
        return list(mode, begun.all, context).await;
    }
    let who = actor(args.actor);
    let reason = args.reason.as_deref();
    if let Some(id) = begun.resume {
        return runner::resume(id, who.as_deref(), reason, begun.accept_change, context).await;
    }
    for (id, status) in [(begun.pause, "paused"), (begun.cancel, "cancelled")] {
        if let Some(id) = id {
            return set_status(id, status, who.as_deref(), reason, context).await;
        }
    }
    let consumer_key = args.key.unwrap_or_default();
    let client = context.client().await?;
    if consumers::show(&client, &consumer_key).await?.is_none() {
        return Err(unknown(&consumer_key, &consumers::list(&client).await?));
    }
    let request = Request {
        mode,
        consumer_key,
        since,
        until: args.until,
        limit: args.limit,
        event_ids,
        rate: args.rate,
        priority: args.priority,
        actor: who,
        reason: args.reason,
    };
    if args.apply {
        runner::apply(&client, &request, context).await
    } else {
        runner::count(&client, &request, context).await
    }
}

async fn set_status(
    id: Uuid,
    status: &str,
    who: Option<&str>,
    reason: Option<&str>,
    context: &Context,
) -> Result<Outcome> {
    let client = context.client().await?;
    let reason = reason.unwrap_or("no reason given");
    let answer = backfills::set_status(&client, id, status, who, reason, false).await?;
    Outcome::of(answer, |run| context.out.answer(run, || runner::ended(run)))
}

async fn list(mode: Mode, all: bool, context: &Context) -> Result<Outcome> {
    let runs = backfills::list(&context.client().await?, mode, None, all).await?;
    context.out.answer(&runs, || as_table(mode, &runs))?;
    Ok(Outcome::Done)
}

fn as_table(mode: Mode, runs: &[Value]) -> String {
    if runs.is_empty() {
        return format!("no {} is open; --all shows those that have ended", mode.as_str());
    }
    let now = jiff::Timestamp::now();
    let row = |run: &Value| {
        let columns = run.as_object().cloned().unwrap_or_default();
        let status = match text(&columns, "note") {
            "" => text(&columns, "status").to_owned(),
            note => format!("{} ({note})", text(&columns, "status")),
        };
        let quiet = run["updated_at"].as_str().and_then(|at| at.parse().ok());
        [
            text(&columns, "backfill_id").to_owned(),
            text(&columns, "consumer_key").to_owned(),
            status,
            format!("{:.0} %", run["share"].as_f64().unwrap_or(0.0) * 100.0),
            run["made"].to_string(),
            run["errors"].to_string(),
            quiet.map(|at| moment(at, now)).unwrap_or_default(),
            text(&columns, "actor").to_owned(),
        ]
    };
    table(
        &["id", "consumer", "status", "done", "made", "errors", "last batch", "actor"],
        runs.iter().map(row),
    )
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn a_rate_is_so_many_a_second_a_minute_or_an_hour() {
        for (typed, a_second) in
            [("50", 50.0), ("50/s", 50.0), ("90/m", 1.5), ("3600/h", 1.0), ("0.5/s", 0.5)]
        {
            assert_eq!(rate(typed), Ok(a_second), "{typed}");
        }
        for typed in ["", "/s", "0", "-1/s", "1/d", "fast", "1/h", "NaN", "inf/s", "1/s/s"] {
            assert!(rate(typed).is_err(), "{typed}");
        }
    }
}
