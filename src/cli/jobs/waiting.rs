//! `reveille jobs backlog`, `jobs blocked` and `jobs explain`: what waits, for whom, and why.

use jiff::Timestamp;
use uuid::Uuid;

use crate::cli::context::{Context, Outcome};
use crate::cli::explain as explained;
use crate::cli::output::{moment, table};
use crate::error::Result;
use crate::store::backlog::{self, Blocked, Waiting};
use crate::store::explain;

/// Why one job does not run; without an id, how many wait for which reason.
pub(super) async fn explain(id: Option<Uuid>, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    match id {
        Some(id) => explained::answer(context, explain::job(&client, id).await?),
        None => explained::counts(context, &explain::counts(&client, "job").await?, "no job waits"),
    }
}

pub(super) async fn backlog(context: &Context) -> Result<Outcome> {
    let waiting = backlog::list(&context.client().await?).await?;
    context.out.answer(&waiting, || as_table(&waiting))?;
    Ok(Outcome::Done)
}

fn as_table(waiting: &[Waiting]) -> String {
    if waiting.is_empty() {
        return "nothing waits to be claimed".to_owned();
    }
    let now = Timestamp::now();
    let row = |lane: &Waiting| {
        [
            lane.executor.clone(),
            lane.job_kind.clone(),
            lane.event_domain.clone().unwrap_or_default(),
            lane.consumer_key.clone().unwrap_or_default(),
            lane.priority.to_string(),
            format!("{}{}", lane.due, if lane.more { "+" } else { "" }),
            lane.oldest_due_at.or(lane.next_due_at).map(|at| moment(at, now)).unwrap_or_default(),
            lane.reason.clone().unwrap_or_default(),
        ]
    };
    let headings = ["executor", "kind", "domain", "consumer", "priority", "due", "since", "waits because"];
    table(&headings, waiting.iter().map(row))
}

pub(super) async fn blocked(context: &Context) -> Result<Outcome> {
    let blocked = backlog::blocked(&context.client().await?).await?;
    context.out.answer(&blocked, || blocked_as_table(&blocked))?;
    Ok(Outcome::Done)
}

fn blocked_as_table(blocked: &[Blocked]) -> String {
    if blocked.is_empty() {
        return "no job waits behind another of its ordering key".to_owned();
    }
    let now = Timestamp::now();
    let row = |one: &Blocked| {
        [
            one.ordering_key.clone(),
            one.behind.to_string(),
            one.blocking_job_id.to_string(),
            one.blocking_job_kind.clone(),
            one.reason.clone(),
            one.until.map(|at| moment(at, now)).unwrap_or_default(),
            one.last_error.clone().unwrap_or_default(),
        ]
    };
    let headings = ["ordering key", "behind", "blocked by", "kind", "because", "until", "last error"];
    table(&headings, blocked.iter().map(row))
}
