//! Tools that work: the SQL functions that every executor calls.

use std::time::Duration;

use deadpool_postgres::Object;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::answer::Told;
use super::executor::Executor;
use super::fields::Given;
use crate::error::{Error, Kind, Result};
use crate::model::job::Job;
use crate::model::refusal::{Answer, Refusal};
use crate::store;
use crate::store::claims::{Claim, Claimed};
use crate::store::work::{Answers, Leases};

/// What of a job is the database's own word; the rest was written by others.
const OWN: [&str; 9] = [
    "job_id",
    "job_kind",
    "attempts",
    "max_attempts",
    "priority",
    "scheduled_at",
    "created_at",
    "workflow_id",
    "causation_event_id",
];

/// Runs one tool under the executor's name. Nobody reads the answer of a call that is cancelled, so a claim then keeps
/// nothing. Claims take turns; a report that waits for a locked row keeps nobody waiting.
pub(super) async fn run(
    executor: &Executor,
    tool: &str,
    given: &Given,
    is_cancelled: impl Fn() -> bool,
) -> Told {
    let _turn = match tool {
        "claim_job" => Some(executor.turn().await),
        _ => None,
    };
    if executor.has_left() {
        return Error::new(Kind::Unreachable, format!("{tool}: this server is stopping")).into();
    }
    let job = (given.id("job_id"), given.token("lease_token"));
    let told = match tool {
        "claim_job" if is_cancelled() => Err(cancelled()),
        "claim_job" => claim(executor, given, is_cancelled).await,
        "renew_job" => renew(executor, given, job).await,
        _ => end(executor, tool, given, job).await,
    };
    told.unwrap_or_else(Told::Failed)
}

fn lease(executor: &Executor, given: &Given) -> Option<Duration> {
    given.number("lease_seconds").map(Duration::from_secs).or(executor.lease)
}

fn cancelled() -> Error {
    Error::new(Kind::Transient, "claim_job: the call was cancelled; nothing is leased by it")
}

async fn claim(executor: &Executor, given: &Given, is_cancelled: impl Fn() -> bool) -> Result<Told> {
    executor.settle().await?;
    let kinds = given.texts("job_kinds");
    let mut claimed = once(executor, given, kinds.as_deref()).await?;
    // what the server itself can mend: it was away for long, or its name was forgotten
    if matches!(claimed.refused.as_deref(), Some("executor_silent" | "executor_not_registered")) {
        if let Answer::Refused(refusal) = executor.beat().await? {
            return Ok(Told::Refused(refusal));
        }
        claimed = once(executor, given, kinds.as_deref()).await?;
    }
    if let Some(reason) = claimed.refused {
        let answer = json!({ "refused": true, "reason": reason, "executor_name": executor.name() });
        return Ok(Told::Refused(Refusal { reason, answer }));
    }
    for lost in &claimed.unreadable {
        let (job, error) = ((lost.job_id, lost.lease_token), lost.error.to_string());
        let fail = async |client: &Object| store::work::fail(client, job, true, &error).await;
        match executor.ask("failing a job", fail).await {
            Ok(_) => executor.lets_go(job),
            // its neighbours are the agent's all the same; it goes back at the end, or when its lease has ended
            Err(error) => tracing::warn!("job {}, which cannot be read, stays leased: {error}", job.0),
        }
    }
    let unwanted = start(executor, &claimed.jobs).await;
    if (is_cancelled() || executor.has_left()) && !claimed.jobs.is_empty() {
        executor.give_back(claimed.jobs.iter().map(|job| (job.job_id, job.lease_token))).await?;
        return Err(cancelled());
    }
    let seconds = claimed.lease.as_secs();
    let jobs: Vec<Value> =
        claimed.jobs.iter().map(|job| document(job, seconds, unwanted.contains(&job.job_id))).collect();
    let words = match jobs.as_slice() {
        [] => "nothing is due for this executor".to_owned(),
        jobs => format!("{} leased for {seconds} seconds; renew_job before that is over", jobs.len()),
    };
    Ok(Told::Done(words, json!({ "refused": false, "jobs": jobs, "others_wait": claimed.others_wait })))
}

async fn once(executor: &Executor, given: &Given, kinds: Option<&[String]>) -> Result<Claimed> {
    let claim = Claim {
        executor_name: executor.name(),
        instance: Some(&executor.beater().instance),
        limit: given.number("limit").unwrap_or(1),
        lease: lease(executor, given),
        job_kinds: kinds,
        canary: None,
    };
    executor.becomes_unsure();
    let claimed =
        executor.ask("claiming jobs", async |client| store::claims::claim(client, &claim).await).await?;
    let jobs = claimed.jobs.iter().map(|job| (job.job_id, job.lease_token));
    let unreadable = claimed.unreadable.iter().map(|lost| (lost.job_id, lost.lease_token));
    executor.has_claimed(jobs.chain(unreadable), claimed.lease);
    Ok(claimed)
}

/// Says that they are in progress; answers which of them are cancelled. That it could not be said costs nothing else.
async fn start(executor: &Executor, jobs: &[Job]) -> Vec<Uuid> {
    if jobs.is_empty() {
        return Vec::new();
    }
    let leases: Leases = jobs.iter().map(|job| (job.job_id, job.lease_token)).collect();
    let started =
        executor.ask("starting jobs", async |client| store::work::start(client, &leases).await).await;
    let answers = started.unwrap_or_else(|error| {
        tracing::debug!("the jobs stay leased: {error}");
        Answers::new()
    });
    let asked = |answer: &Option<Answer>| matches!(answer, Some(Answer::Done(answer)) if answer["cancel_requested"] == true);
    answers.iter().filter(|(_, answer)| asked(answer)).map(|(id, _)| *id).collect()
}

fn document(job: &Job, lease_seconds: u64, cancel_requested: bool) -> Value {
    let all = serde_json::to_value(job).unwrap_or_default();
    let all = all.as_object().cloned().unwrap_or_default();
    let (own, others): (Map<String, Value>, Map<String, Value>) =
        all.into_iter().partition(|(name, _)| OWN.contains(&name.as_str()) || name.starts_with("lease_"));
    let mut document = own;
    document.insert("lease_token".into(), job.lease_token.to_string().into());
    document.insert("lease_seconds".into(), lease_seconds.into());
    document.insert("cancel_requested".into(), cancel_requested.into());
    document.insert("untrusted_data".into(), others.into());
    document.into()
}

async fn renew(executor: &Executor, given: &Given, job: (Uuid, i64)) -> Result<Told> {
    let leases = Leases::from_iter([job]);
    let length = lease(executor, given);
    let (answers, lasts) = executor
        .ask("renewing a lease", async |client| store::work::renew(client, &leases, length).await)
        .await?;
    let mut told = answer(executor, job, answers)?;
    if let Told::Done(words, document) = &mut told {
        executor.holds([job], lasts);
        let asked = document["cancel_requested"] == true;
        let asked = if asked { "; somebody has cancelled it: end the work, then release_job" } else { "" };
        *words = format!("yours for {} seconds{asked}", lasts.as_secs());
        document["lease_seconds"] = lasts.as_secs().into();
    }
    Ok(told)
}

async fn end(executor: &Executor, tool: &str, given: &Given, job: (Uuid, i64)) -> Result<Told> {
    let ended = executor
        .ask(tool, async |client| match tool {
            "succeed_job" => store::work::succeed_one(client, job, given.text("result_ref")).await.map(Some),
            "fail_job" => {
                let error = given.text("error").unwrap_or_default();
                store::work::fail(client, job, given.flag("permanent"), error).await.map(Some)
            }
            "snooze_job" => {
                let delay = Duration::from_secs(given.number("seconds").unwrap_or(1));
                store::work::snooze(client, job, delay).await.map(Some)
            }
            _ => {
                let released = store::work::release(client, &Leases::from_iter([job])).await?;
                Ok(released.into_iter().find_map(|(_, answer)| answer))
            }
        })
        .await?;
    let told = answer(executor, job, vec![(job.0, ended)])?;
    if matches!(told, Told::Done(..)) {
        executor.lets_go(job);
    }
    Ok(told)
}

/// What the one job was answered.
fn answer(executor: &Executor, job: (Uuid, i64), answers: Answers) -> Result<Told> {
    match answers.into_iter().find_map(|(_, answer)| answer) {
        None => {
            Err(Error::new(Kind::Transient, format!("somebody else has locked the row of job {}", job.0))
                .hint("ask again in a moment"))
        }
        Some(Answer::Refused(refusal)) => {
            if refusal.reason == "lease_lost" {
                executor.lets_go(job);
            }
            Ok(Told::Refused(refusal))
        }
        Some(Answer::Done(answer)) => {
            let status = answer["status"].as_str().unwrap_or("done").to_owned();
            Ok(Told::Done(status, answer))
        }
    }
}
