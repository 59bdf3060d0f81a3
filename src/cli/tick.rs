//! `reveille tick`: one bounded pass of everything, for cron.

use super::context::{Context, Outcome};
use super::output::pairs;
use crate::app::{self, Tick};
use crate::error::Result;

/// Do one bounded pass of everything, then exit: sweep, dispatch, prune
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  * * * * * DATABASE_URL=postgres://reveille@localhost/app reveille tick")]
pub(super) struct Args {}

pub(super) async fn run(_: Args, context: &Context) -> Result<Outcome> {
    match app::tick(&context.settings).await? {
        Ok(tick) => context.out.answer(&tick, || as_text(&tick)).map(|()| Outcome::Done),
        Err(refusal) => Ok(Outcome::Refused(refusal)),
    }
}

fn as_text(tick: &Tick) -> String {
    let number = |count: u64| Some(count.to_string());
    pairs([
        ("events read", number(tick.pass.events)),
        ("jobs made", number(tick.pass.jobs)),
        ("jobs that existed", number(tick.pass.duplicates)),
        ("seen by dry runs", number(tick.pass.dry)),
        ("undigestible", number(tick.pass.errors)),
        ("repaired by the sweep", number(tick.swept)),
        ("arrivals pruned", number(tick.pruned.arrivals)),
        ("passes pruned", number(tick.pruned.passes)),
    ])
}
