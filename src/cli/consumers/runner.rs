//! A backfill or replay from its first batch to its end, in one command: batches, waits, signals, and what was done.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use deadpool_postgres::GenericClient;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cli::context::{Context, Outcome};
use crate::cli::output::pairs;
use crate::cli::progress::Progress;
use crate::cli::signals::Signals;
use crate::cli::tries::tried;
use crate::error::Result;
use crate::model::refusal::{Answer, Refusal};
use crate::store::backfills::{self, Request};

/// Events of the outbox that one statement looks at.
const BATCH: i32 = 2000;

/// How long a run waits for events that may still be on their way, before it pauses: a sweep comes sooner.
const CLOSES_WITHIN: Duration = Duration::from_mins(5);

/// Between two looks at whether something has changed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is counted.
const COUNTS: [&str; 8] =
    ["looked", "events", "expected", "made", "present", "not_matching", "without_job", "errors"];

/// Counts what a run would do, page by page.
pub(super) async fn count(
    client: &impl GenericClient,
    request: &Request,
    context: &Context,
) -> Result<Outcome> {
    let mut signals = Signals::new()?;
    let mut progress = Progress::new(context.out, "events", 0);
    let mut sums = [0_u64; COUNTS.len()];
    let mut after = None;
    let mut document = loop {
        let page = tokio::select! {
            page = tried(async || backfills::ask(client, request, false, after.as_ref(), BATCH).await) => page?,
            () = signals.next() => {
                context.out.line("stopped before all was counted; nothing was changed")?;
                return Ok(Outcome::Failed);
            }
        };
        let page = match page {
            Answer::Refused(refusal) => return Ok(Outcome::Refused(refusal)),
            Answer::Done(page) => page,
        };
        for (sum, name) in sums.iter_mut().zip(COUNTS) {
            *sum += number(&page, name);
        }
        progress.at(sums[0], number(&page, "estimate"), "");
        after = page.get("next").filter(|next| !next.is_null()).cloned();
        if after.is_none() {
            break page;
        }
    };
    drop(progress);
    if let Some(object) = document.as_object_mut() {
        object.remove("next");
        object.extend(COUNTS.iter().zip(sums).map(|(name, sum)| ((*name).to_owned(), json!(sum))));
    }
    context.out.answer(&document, || counted(&document))?;
    Ok(Outcome::Done)
}

fn counted(document: &Value) -> String {
    let mut text = format!(
        "dry run: the {} of {} would make {} jobs\n\n{}",
        word(document, "mode"),
        word(document, "consumer_key"),
        document["made"],
        numbers(document)
    );
    match document["obstacle"]["reason"].as_str() {
        Some(reason) => {
            let _ = write!(text, "\n\nnow --apply would be refused: {reason}");
            let refusal = Refusal { reason: reason.to_owned(), answer: document["obstacle"].clone() };
            text.extend(refusal.hint().map(|hint| format!("\nhint: {hint}")));
        }
        None => text.push_str("\n\nnothing was changed; --apply does it"),
    }
    text
}

/// Begins a run, and goes on until it ends or is paused.
pub(super) async fn apply(
    client: &impl GenericClient,
    request: &Request,
    context: &Context,
) -> Result<Outcome> {
    match backfills::ask(client, request, true, None, BATCH).await? {
        Answer::Refused(refusal) => Ok(Outcome::Refused(refusal)),
        Answer::Done(first) => go_on(client, first, request.actor.as_deref(), context).await,
    }
}

/// Goes on with a run that was begun.
pub(super) async fn resume(
    id: Uuid,
    actor: Option<&str>,
    reason: Option<&str>,
    accept_change: bool,
    context: &Context,
) -> Result<Outcome> {
    let client = context.client().await?;
    let reason = reason.unwrap_or("resumed");
    match backfills::set_status(&client, id, "running", actor, reason, accept_change).await? {
        Answer::Refused(refusal) => Ok(Outcome::Refused(refusal)),
        Answer::Done(first) => go_on(&client, first, actor, context).await,
    }
}

async fn go_on(
    client: &impl GenericClient,
    first: Value,
    actor: Option<&str>,
    context: &Context,
) -> Result<Outcome> {
    let Some(id) = first["backfill_id"].as_str().and_then(|id| id.parse().ok()) else {
        return Ok(Outcome::Done); // never: each answer has it
    };
    let command = resume_command(word(&first, "mode"), id);
    let run = match until_it_ends(client, id, first, actor, context).await {
        Ok(Some(Answer::Done(run))) => run,
        Ok(Some(Answer::Refused(refusal))) => {
            context.out.line(&format!("paused; once that is over, `{command}` goes on"))?;
            return Ok(Outcome::Refused(refusal));
        }
        Ok(None) => {
            context.out.line(&format!("stopped at once; `{command}` goes on"))?;
            return Ok(Outcome::Failed);
        }
        Err(error) => {
            // if it is the connection that has failed, the run stays `running`; it can be resumed all the same
            let _ = backfills::set_status(client, id, "failed", actor, &error.to_string(), false).await;
            return Err(error.hint(format!("nothing is lost: `{command}` goes on")));
        }
    };
    context.out.answer(&run, || ended(&run))?;
    Ok(if run["status"] == "finished" { Outcome::Done } else { Outcome::Failed })
}

/// Steps until there are no more; none when it was told twice to stop.
async fn until_it_ends(
    client: &impl GenericClient,
    id: Uuid,
    first: Value,
    actor: Option<&str>,
    context: &Context,
) -> Result<Option<Answer>> {
    let mut signals = Signals::new()?;
    let mut progress = Progress::new(context.out, "events", number(&first, "estimate"));
    let mut run = first;
    let mut waits_since: Option<Instant> = None;
    loop {
        if run["busy"] != true {
            let words = format!("{} made, {} errors", run["made"], run["errors"]);
            progress.at(number(&run, "looked"), number(&run, "estimate"), &words);
            if run["status"] != "running" {
                return Ok(Some(Answer::Done(run)));
            }
        }
        waits_since = (run["waiting"] == "not_closed").then(|| waits_since.unwrap_or_else(Instant::now));
        if waits_since.is_some_and(|since| since.elapsed() > CLOSES_WITHIN) {
            let why = "not_closed: events up to its end may still be on their way";
            return backfills::set_status(client, id, "paused", actor, why, false).await.map(Some);
        }
        let pause = match run["wait_seconds"].as_f64() {
            Some(seconds) => Duration::from_secs_f64(seconds.clamp(0.0, 1.0)),
            None if run["busy"] == true || waits_since.is_some() => LOOK_EVERY,
            None => Duration::ZERO,
        };
        let next = async {
            tokio::time::sleep(pause).await;
            tried(async || backfills::step(client, id, BATCH).await).await
        };
        let Some((answer, stopped)) = signals.let_finish(next).await else { return Ok(None) };
        run = match answer? {
            Answer::Done(run) => run,
            refused @ Answer::Refused(_) => return Ok(Some(refused)),
        };
        if stopped && run["status"] == "running" {
            let why = "its command was stopped";
            return backfills::set_status(client, id, "paused", actor, why, false).await.map(Some);
        }
    }
}

/// What became of a run, and what can be done next.
pub(super) fn ended(run: &Value) -> String {
    let what = format!(
        "the {} of {} {}",
        word(run, "mode"),
        word(run, "consumer_key"),
        match word(run, "status") {
            "finished" if word(run, "note") == "limit" =>
                "has made as many jobs as it was asked for".to_owned(),
            "finished" => "is finished".to_owned(),
            "running" => "is running".to_owned(),
            status => format!("is {status} ({})", word(run, "note")),
        }
    );
    let mut text = format!("{what}\n\n{}", numbers(run));
    if matches!(word(run, "status"), "paused" | "failed") {
        let id = word(run, "backfill_id").parse().unwrap_or_default();
        let _ = write!(text, "\n\n`{}` goes on", resume_command(word(run, "mode"), id));
    }
    if number(run, "errors") > 0 {
        text.push_str("\n\nwhat could not be made of its event: `reveille events explain EVENT`, rows of dispatch_error");
    }
    text
}

fn resume_command(mode: &str, id: Uuid) -> String {
    format!("reveille consumers {mode} --resume {id}")
}

fn numbers(run: &Value) -> String {
    let shown = |name: &str| match &run[name] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let lines = [
        ("run", "backfill_id"),
        ("generation", "generation"),
        ("from", "since"),
        ("until", "until"),
        ("closed until", "closed_until"),
        ("priority", "priority"),
        ("jobs a second", "rate"),
        ("looked at", "looked"),
        ("of its domain", "events"),
        ("expected", "expected"),
        ("made", "made"),
        ("there before", "present"),
        ("not matching", "not_matching"),
        ("never had a job", "without_job"),
        ("errors", "errors"),
    ];
    let hidden = |name: &str| name == "without_job" && run["generation"].is_null();
    pairs(lines.iter().filter(|(_, name)| !hidden(name)).map(|(label, name)| (*label, shown(name))))
}

fn number(run: &Value, name: &str) -> u64 {
    run[name].as_u64().unwrap_or(0)
}

fn word<'a>(run: &'a Value, name: &str) -> &'a str {
    run[name].as_str().unwrap_or_default()
}
