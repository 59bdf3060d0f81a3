//! `reveille consumers pilot`: which collection to begin with.

use crate::cli::context::{Context, Outcome};
use crate::cli::output::table;
use crate::cli::payload;
use crate::error::Result;
use crate::store::consumers::Since;
use crate::store::pilot::{self, Candidate};

pub(super) const HELP: &str = "\
How the rank is made: a collection has three places, and the smallest sum is the best.
  volume      fewest events first
  failures    fewest first, for each event: failed runs, dead letters, and events that a
              consumer could not digest
  reversible  the greatest share that can be undone first. What follows an event is the job
              kinds of the consumers that want it, enabled or not. A fact after which nothing
              is done can be undone, and so can a kind of which somebody said so
              (`job.KIND.reversible` = true); all else cannot.
Fewer than 5 events teach nothing, and come last.

The collection of an event is what its payload names under --collection-key, else the first
part of its canonical address, else the table of its subject, else its domain.

Examples:
  reveille consumers pilot
  reveille consumers pilot --since 90days --collection-key source_collection";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Events since this moment, or since that long ago; without it, 30 days
    #[arg(long, value_name = "TIME|DURATION", value_parser = payload::since)]
    since: Option<Since>,
    /// Most collections to show
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    limit: i32,
    /// The payload's key that names the collection; without it, `queue.pilot.collection_key`, else `collection`
    #[arg(long, value_name = "KEY")]
    collection_key: Option<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let all = pilot::rank(&client, args.since, args.limit, args.collection_key.as_deref()).await?;
    context.out.answer(&all, || as_text(&all))?;
    Ok(Outcome::Done)
}

fn as_text(all: &[Candidate]) -> String {
    if all.is_empty() {
        return "no events since then; --since looks further back".to_owned();
    }
    let row = |one: &Candidate| {
        let failures = one.failed_attempts + one.dead_letters + one.dispatch_errors;
        [
            one.place.to_string(),
            one.collection.clone(),
            format!("{} ({})", one.events, one.volume_place),
            format!("{failures} ({})", one.failure_place),
            format!("{} ({})", share(one.reversible), one.reversible_place),
            remark(one),
        ]
    };
    table(&["place", "collection", "events", "failures", "reversible", "remark"], all.iter().map(row))
}

fn share(reversible: Option<f64>) -> String {
    reversible.map_or_else(|| "nothing follows".to_owned(), |share| format!("{:.0} %", share * 100.0))
}

fn remark(one: &Candidate) -> String {
    let few = (!one.enough).then(|| "too few events to learn from".to_owned());
    let kinds = (!one.irreversible_kinds.is_empty())
        .then(|| format!("not reversible: {}", one.irreversible_kinds.join(", ")));
    few.into_iter().chain(kinds).collect::<Vec<_>>().join("; ")
}
