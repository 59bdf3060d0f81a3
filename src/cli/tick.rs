//! `reveille tick`: one bounded pass of everything, for cron.

use std::time::Duration;

use super::context::{Context, Outcome};
use super::output::pairs;
use crate::app::{self, Tick};
use crate::error::Result;
use crate::maintain::{Archived, Reaped};

/// Do one bounded pass of everything, then exit: dispatch, sweep, schedules, reap, archive, audit, prune
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  * * * * * DATABASE_URL=postgres://reveille@localhost/app reveille tick

What the time limit cuts short is named and left for the next tick; the exit code is 1 then.")]
pub(super) struct Args {
    /// Longest time for everything together, such as 50s
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    time_limit: Duration,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    let mut tick = app::tick(&context.settings, args.time_limit).await?;
    if let Some(refusal) = tick.refusal.take() {
        return Ok(Outcome::Refused(refusal));
    }
    context.out.answer(&tick, || as_text(&tick))?;
    match tick.failed {
        Some(error) => Err(error),
        None if tick.left.is_empty() => Ok(Outcome::Done),
        None => Ok(Outcome::Failed),
    }
}

fn as_text(tick: &Tick) -> String {
    let number = |count: u64| Some(count.to_string());
    let some = |count: u64| (count > 0).then(|| count.to_string());
    let leases = match tick.reaped {
        Reaped { found: found @ 1.., dry_run: true, .. } => {
            format!("{found}, left alone: the reaper is gated")
        }
        reaped => reaped.found.to_string(),
    };
    let finished = match tick.archived {
        Archived { found: 1.., dry_run: true, .. } => "none: the archiver is gated".to_owned(),
        archived => archived.archived.to_string(),
    };
    let unclaimed: Vec<String> = tick.unclaimed.iter().map(ToString::to_string).collect();
    pairs([
        ("events read", number(tick.pass.events)),
        ("jobs made", number(tick.pass.jobs)),
        ("jobs that existed", number(tick.pass.duplicates)),
        ("seen by dry runs", number(tick.pass.dry)),
        ("for nobody", (tick.pass.no_recipient > 0).then(|| tick.pass.no_recipient.to_string())),
        ("undigestible", number(tick.pass.errors)),
        ("repaired by the sweep", number(tick.swept)),
        ("made by schedules", number(tick.scheduled.jobs)),
        ("schedules held", some(tick.scheduled.held)),
        ("schedules in trouble", some(tick.scheduled.in_trouble)),
        ("scheduled, but missed", some(tick.scheduled.missed)),
        ("leases ended", Some(leases)),
        ("silent", (!tick.silences.silent.is_empty()).then(|| tick.silences.silent.join(", "))),
        ("archived", Some(finished)),
        ("months dropped", some(tick.archived.months_dropped)),
        ("workflows pruned", some(tick.archived.workflows_pruned)),
        ("failed workflows cancelled", some(tick.archived.workflows_cancelled)),
        ("missing jobs", some(tick.audited.missing)),
        ("missing jobs made", some(tick.audited.repaired)),
        ("unclaimed", (!unclaimed.is_empty()).then(|| unclaimed.join(", "))),
        ("paused", (!tick.paused.is_empty()).then(|| tick.paused.join(", "))),
        ("arrivals pruned", number(tick.pruned.arrivals)),
        ("passes pruned", number(tick.pruned.passes)),
        ("not done in time", (!tick.left.is_empty()).then(|| tick.left.join(", "))),
    ])
}
