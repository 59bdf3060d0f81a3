//! Reports how jobs ended. Successes and returns go in batches, one statement each; what cannot be reported is tried
//! again while its lease lives. A success is never assumed, and saying it twice changes nothing.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Object;
use futures::future::join_all;
use tokio::time::{Instant, timeout};

use super::board::{Ending, Report};
use super::runner::tell_success;
use super::shared::Shared;
use super::stats;
use crate::backoff::Backoff;
use crate::error::{Error, Kind, Result};
use crate::model::refusal::Answer;
use crate::postgres::pool::hand_back;
use crate::store;
use crate::store::work::{Leases, Unfinished};

/// How long a batch may be filled while more runs are about to end.
const LINGER: Duration = Duration::from_millis(2);

/// Reports until it is aborted. There are two: while one waits for the server, the other gathers the next batch, so that the
/// ends of workflows' steps, which cost more than claims, do not hold up a worker.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        linger(&shared).await;
        let reports = shared.board.reports().await;
        // a row that somebody holds on to must not fail its whole batch a second time, whoever of the two says it then
        let carefully = reports.iter().any(|report| report.again);
        let reported = report(&shared, reports, carefully).await;
        match reported {
            Ok(()) => {
                shared.outage.passed();
                backoff.reset();
            }
            Err(error) => {
                shared.outage.failed(&shared.stats, &error);
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// Waits a moment for a fuller batch, when there will be one.
async fn linger(shared: &Shared) {
    let filled = async {
        while shared.board.is_filling() {
            shared.board.reported_more().await;
        }
    };
    if shared.board.is_filling() {
        let _ = timeout(LINGER, filled).await;
    }
}

/// Reports a batch. What remains unsaid goes back to the board.
async fn report(shared: &Shared, mut reports: Vec<Report>, carefully: bool) -> Result<()> {
    give_up_late(shared, &mut reports);
    let (client, sorted) = match shared.server.take(&shared.reports).await {
        Ok(client) => (client, Sorted::of(reports)),
        Err(error) => {
            shared.board.put_back(reports);
            return Err(error);
        }
    };
    let Sorted { successes, returns, others } = sorted;
    let (one, two, three) = tokio::join!(
        successful(shared, &client, successes, carefully),
        given_back(shared, &client, returns),
        one_by_one(shared, &client, others),
    );
    hand_back(client, one.and(two).and(three))
}

/// The reports of a batch, each sort for its own statement, in the order of their ids (trap 17).
#[derive(Default)]
struct Sorted {
    successes: Vec<Report>,
    returns: Vec<Report>,
    /// Failures and what goes its own way: snoozed, cancelled.
    others: Vec<Report>,
}

impl Sorted {
    fn of(mut reports: Vec<Report>) -> Self {
        let mut sorted = Self::default();
        reports.sort_unstable_by_key(|report| report.id);
        for report in reports {
            match report.ending {
                Ending::Succeeded { .. } => sorted.successes.push(report),
                Ending::Released => sorted.returns.push(report),
                _ => sorted.others.push(report),
            }
        }
        sorted
    }
}

fn leases(reports: &[Report]) -> Leases {
    reports.iter().map(|report| (report.id, report.token)).collect()
}

/// After the end of its lease a report would only be refused: somebody else may have the job.
fn give_up_late(shared: &Shared, reports: &mut Vec<Report>) {
    let now = Instant::now();
    let late: Vec<Report> = reports.extract_if(.., |report| report.until <= now).collect();
    for report in &late {
        stats::add(&shared.stats.unreported, 1);
        tracing::warn!(job.id = %report.id, event.id = report.origin.event_id.map(tracing::field::display), trace_id = report.origin.trace_id.as_deref(), "{}: its lease ended before its outcome could be reported", report.job_kind);
    }
    shared.board.settled(late.iter().map(|report| report.id));
}

async fn successful(
    shared: &Shared,
    client: &Object,
    mut reports: Vec<Report>,
    carefully: bool,
) -> Result<()> {
    if reports.is_empty() {
        return Ok(());
    }
    let refs: Vec<Option<String>> = reports
        .iter()
        .map(|report| match &report.ending {
            Ending::Succeeded { result_ref } => result_ref.clone(),
            _ => None,
        })
        .collect();
    let leases = leases(&reports);
    let succeed = store::work::succeed(client, &leases, &refs, carefully);
    let Unfinished { lost, busy } = match shared.server.in_time(1, "finishing jobs", succeed).await {
        Ok(unfinished) => unfinished,
        Err(error) => return unsaid(shared, reports, error),
    };
    let busy = reports.extract_if(.., |report| busy.contains(&report.id)).collect();
    stats::add(&shared.stats.succeeded, reports.len() - lost.len());
    for report in &reports {
        if lost.contains(&report.id) {
            tell_lost(shared, report);
        } else {
            tell_success(report.id, &report.job_kind, &report.origin, report.took);
        }
    }
    shared.board.settled(reports.iter().map(|report| report.id));
    still_busy(shared, busy)
}

async fn given_back(shared: &Shared, client: &Object, mut reports: Vec<Report>) -> Result<()> {
    if reports.is_empty() {
        return Ok(());
    }
    let leases = leases(&reports);
    let release = store::work::release(client, &leases);
    let answers = match shared.server.in_time(1, "giving jobs back", release).await {
        Ok(answers) => answers,
        Err(error) => return unsaid(shared, reports, error),
    };
    let done = answers.iter().filter(|(_, answer)| matches!(answer, Some(Answer::Done(_)))).count();
    let is_busy =
        |report: &mut Report| answers.iter().any(|(id, answer)| *id == report.id && answer.is_none());
    let busy = reports.extract_if(.., is_busy).collect();
    stats::add(&shared.stats.released, done);
    tracing::info!("gave {done} of {} jobs back", reports.len());
    shared.board.settled(reports.iter().map(|report| report.id));
    still_busy(shared, busy)
}

/// The others go one by one, but all at once over the line: an error of one is not an error of the others.
async fn one_by_one(shared: &Shared, client: &Object, reports: Vec<Report>) -> Result<()> {
    let said = join_all(reports.into_iter().map(|report| one(shared, client, report))).await;
    said.into_iter().find(Result::is_err).unwrap_or(Ok(()))
}

async fn one(shared: &Shared, client: &Object, report: Report) -> Result<()> {
    let lease = (report.id, report.token);
    let say = async {
        match &report.ending {
            Ending::Permanent(words) => store::work::fail(client, lease, true, words).await,
            Ending::Transient(words) => store::work::fail(client, lease, false, words).await,
            Ending::Snoozed(delay) => store::work::snooze(client, lease, *delay).await,
            Ending::Cancelled | Ending::Succeeded { .. } | Ending::Released => {
                store::work::cancelled(client, lease).await
            }
        }
    };
    match shared.server.in_time(1, "reporting an outcome", say).await {
        Ok(Answer::Done(answer)) => tell_other(shared, &report, &answer),
        Ok(Answer::Refused(refusal)) if refusal.reason == "illegal_transition" => {
            let ending = Ending::Transient("ended as cancelled, but nobody had cancelled it".to_owned());
            shared.board.put_back(vec![Report { ending, ..report }]);
            return Ok(());
        }
        Ok(Answer::Refused(_)) => tell_lost(shared, &report),
        Err(error) => return unsaid(shared, vec![report], error),
    }
    shared.board.settled([report.id]);
    Ok(())
}

fn tell_other(shared: &Shared, report: &Report, answer: &serde_json::Value) {
    let status = answer.get("status").and_then(|status| status.as_str()).unwrap_or_default();
    let (kind, took) = (&report.job_kind, report.took.as_millis());
    let (counter, words) = match &report.ending {
        Ending::Permanent(words) => (&shared.stats.failed_permanent, words),
        Ending::Transient(words) => (&shared.stats.failed_transient, words),
        Ending::Snoozed(delay) => {
            stats::add(&shared.stats.snoozed, 1);
            tracing::info!(job.id = %report.id, event.id = report.origin.event_id.map(tracing::field::display), trace_id = report.origin.trace_id.as_deref(), job.status = status, "{kind} is due again in {delay:?}");
            return;
        }
        Ending::Cancelled | Ending::Succeeded { .. } | Ending::Released => {
            stats::add(&shared.stats.cancelled, 1);
            tracing::info!(job.id = %report.id, event.id = report.origin.event_id.map(tracing::field::display), trace_id = report.origin.trace_id.as_deref(), job.status = status, "{kind} ended after {took} ms: it was cancelled");
            return;
        }
    };
    stats::add(counter, 1);
    tracing::warn!(job.id = %report.id, event.id = report.origin.event_id.map(tracing::field::display), trace_id = report.origin.trace_id.as_deref(), job.status = status, "{kind} failed after {took} ms: {words}");
}

fn tell_lost(shared: &Shared, report: &Report) {
    stats::add(&shared.stats.lease_lost, 1);
    tracing::warn!(job.id = %report.id, event.id = report.origin.event_id.map(tracing::field::display), trace_id = report.origin.trace_id.as_deref(), "{}: the lease was lost; its outcome is dropped", report.job_kind);
}

/// Reports on jobs whose rows somebody else has locked are tried again.
fn still_busy(shared: &Shared, reports: Vec<Report>) -> Result<()> {
    if reports.is_empty() {
        return Ok(());
    }
    let jobs = reports.len();
    let error =
        Error::new(Kind::Transient, format!("reporting jobs: another session has locked the rows of {jobs}"))
            .hint("pg_stat_activity shows who waits for whom");
    unsaid(shared, reports, error)
}

fn unsaid(shared: &Shared, mut reports: Vec<Report>, error: Error) -> Result<()> {
    for report in &mut reports {
        report.again = true;
    }
    shared.board.put_back(reports);
    Err(error)
}
