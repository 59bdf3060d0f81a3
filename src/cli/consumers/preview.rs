//! `reveille consumers preview`: what a consumer would have done.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;

use super::{Preview, unknown};
use crate::cli::context::{Context, Outcome, warning};
use crate::cli::output::table;
use crate::error::Result;
use crate::maintain::consumer_sync as sync;
use crate::store::consumers::{self, Decision, Subject};
use crate::store::kinds;

/// Most rows of a preview that people are shown.
const SHOWN: usize = 20;

pub(super) async fn run(args: Preview, context: &Context) -> Result<Outcome> {
    let path = Path::new(&args.subject);
    let subject = if path.extension().is_some_and(|extension| extension == "toml") {
        Subject::Given(sync::read_file(path)?.consumer.columns())
    } else {
        Subject::Stored(args.subject.clone())
    };
    let client = context.client().await?;
    let decisions = consumers::preview(&client, &subject, args.since, args.limit).await;
    let decisions = match (decisions, &subject) {
        (Err(error), Subject::Stored(key)) if error.sqlstate() == Some("22023") => {
            return Err(unknown(key, &consumers::list(&client).await?));
        }
        (decisions, _) => decisions?,
    };
    let columns = match &subject {
        Subject::Given(columns) => Some(columns.clone()),
        Subject::Stored(key) => consumers::show(&client, key).await?,
    };
    let stands_against = kinds::warning_of_consumer(&client, &columns.unwrap_or_default()).await?;
    let reasons = count(&decisions);
    let jobs = decisions.iter().filter(|decision| decision.would_enqueue).count();
    let document = json!({
        "consumer_key": subject.to_string(),
        "events": events(&decisions),
        "would_enqueue": jobs,
        "reasons": reasons.iter().cloned().collect::<BTreeMap<_, _>>(),
        "decisions": decisions,
        "warning": stands_against,
    });
    context.out.answer(&document, || as_text(&subject, &decisions, &reasons, jobs) + &warning(&document))?;
    Ok(Outcome::Done)
}

/// Events that were looked at: a consumer that fans out has several decisions about one.
fn events(decisions: &[Decision]) -> usize {
    decisions.iter().map(|decision| decision.event_id).collect::<BTreeSet<_>>().len()
}

/// How often each reason was given, the most frequent first.
fn count(decisions: &[Decision]) -> Vec<(String, usize)> {
    let mut reasons: Vec<(String, usize)> = Vec::new();
    for decision in decisions {
        match reasons.iter_mut().find(|(reason, _)| *reason == decision.reason) {
            Some((_, count)) => *count += 1,
            None => reasons.push((decision.reason.clone(), 1)),
        }
    }
    reasons.sort_by_key(|(_, count)| Reverse(*count));
    reasons
}

fn as_text(subject: &Subject, decisions: &[Decision], reasons: &[(String, usize)], jobs: usize) -> String {
    let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let summary = format!("{subject}: {} events, {jobs} jobs ({})", events(decisions), reasons.join(", "));
    // those that matter: the newest that it wants or cannot digest
    let mut wanted: Vec<&Decision> = decisions
        .iter()
        .rev()
        .filter(|one| matches!(one.reason.as_str(), "match" | "terminal" | "undigestible" | "no_recipient"))
        .collect();
    wanted.truncate(SHOWN);
    if wanted.is_empty() {
        return summary.trim_end_matches(" ()").to_owned();
    }
    let row = |one: &&Decision| {
        [
            one.event_id.to_string(),
            one.event_type.clone(),
            one.reason.clone(),
            one.job_kind.clone().unwrap_or_default(),
            one.source_ref.clone().unwrap_or_default(),
            one.idempotency_key.clone().unwrap_or_default(),
        ]
    };
    let headings = ["event", "type", "verdict", "job", "source", "idempotency key"];
    format!("{summary}\n\n{}", table(&headings, wanted.iter().map(row)))
}
