//! Tells what happens in the tables, moment by moment.

use std::collections::HashSet;
use std::time::Duration;

use deadpool_postgres::Object;
use jiff::Timestamp;
use uuid::Uuid;

use super::Tell;
use crate::error::{Error, Kind, Result};
use crate::store::timeline::{self, EventLine, JobLine};

/// Between two looks.
pub(super) const LOOK: Duration = Duration::from_millis(10);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// When, by the database's clock; none for what happened outside of it.
    pub at: Option<Timestamp>,
    /// One word.
    pub what: &'static str,
    /// To what.
    pub text: String,
    /// How long it took, and since what.
    pub latency: Option<(Duration, &'static str)>,
}

impl Step {
    pub(super) fn note(what: &'static str, text: impl Into<String>) -> Self {
        Self { at: None, what, text: text.into(), latency: None }
    }

    pub(super) fn timed(what: &'static str, text: impl Into<String>, took: Duration) -> Self {
        Self { latency: Some((took, "took")), ..Self::note(what, text) }
    }

    fn moment(
        at: Timestamp,
        what: &'static str,
        text: impl Into<String>,
        since: Option<(Timestamp, &'static str)>,
    ) -> Self {
        let latency = since.map(|(then, words)| (at.duration_since(then).unsigned_abs(), words));
        Self { at: Some(at), latency, ..Self::note(what, text) }
    }
}

/// Tells every step until the fact that ends the story has been seen by its consumer and no job is left.
pub(super) async fn until_done(client: &Object, record: Uuid, tell: Tell<'_>) -> Result<()> {
    let mut told = HashSet::new();
    loop {
        // in this order: what is dispatched has its jobs in the next look
        let dispatched = timeline::is_read_to_the_end(client, "staging").await?;
        let events = timeline::events(client, "staging").await?;
        let jobs = timeline::jobs(client).await?;
        let mut steps = steps(&events, &jobs);
        steps.sort_by_key(|step| step.at);
        for step in steps {
            if told.insert((step.what, step.at, step.text.clone())) {
                tell(step)?;
            }
        }
        if let Some(job) = jobs.iter().find(|job| matches!(job.status.as_str(), "dead_letter" | "failed")) {
            let reason = job.last_error.as_deref().unwrap_or("no reason given");
            return Err(Error::new(
                Kind::Database,
                format!("job {} of record {record} failed: {reason}", job.job_kind),
            ));
        }
        let idle = jobs.iter().all(|job| job.finished_at.is_some());
        if dispatched && idle && events.iter().any(|event| event.terminal) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn steps(events: &[EventLine], jobs: &[JobLine]) -> Vec<Step> {
    let mut steps = Vec::new();
    for event in events {
        steps.push(Step::moment(event.occurred_at, "event", &event.name, None));
    }
    for job in jobs {
        let cause = events.iter().find(|event| Some(event.event_id) == job.causation_event_id);
        let since = cause.map(|event| (event.occurred_at, "after its event"));
        steps.push(Step::moment(job.created_at, "job", &job.job_kind, since));
        if let Some(picked) = job.picked_at {
            let text = format!("{} by {}", job.job_kind, job.lease_owner.as_deref().unwrap_or("nobody"));
            steps.push(Step::moment(picked, "claimed", text, Some((job.created_at, "after it was made"))));
            if let Some(finished) = job.finished_at {
                let word = if job.status == "succeeded" { "succeeded" } else { "failed" };
                steps.push(Step::moment(
                    finished,
                    word,
                    &job.job_kind,
                    Some((picked, "after it was claimed")),
                ));
            }
        }
        if job.status == "retry_waiting" {
            let reason = job.last_error.clone().unwrap_or_default();
            steps.push(Step::note("retry", format!("{}: {reason}", job.job_kind)));
        }
    }
    steps
}
