//! `reveille workflows cancel`, `retry`, `approve` and `reject`: what somebody decides about a workflow.

use serde_json::json;
use uuid::Uuid;

use super::super::context::{Context, Outcome, actor};

use crate::error::{Error, Result};
use crate::look::workflow::find;
use crate::model::refusal::Refusal;
use crate::model::workflow::Step;
use crate::store::workflows;

#[derive(Debug, clap::Args)]
pub(super) struct Cancel {
    /// The workflow's id
    id: Uuid,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who cancels; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Retry {
    /// The workflow's id
    id: Uuid,
    /// Why it will go well now
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who retries; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Do it; otherwise it is only told what would be done
    #[arg(long)]
    apply: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Approve {
    /// The workflow's id
    id: Uuid,
    /// The step
    step: String,
    /// The hash of what was seen, as this command shows it without --effect
    #[arg(long, value_name = "HASH")]
    effect: Option<String>,
    /// Who approves; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Reject {
    /// The workflow's id
    id: Uuid,
    /// The step
    step: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who rejects; without it, `user:` and the name of this login
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

pub(super) async fn cancel(args: Cancel, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let answer = workflows::cancel(&client, args.id, actor(args.actor).as_deref(), &args.reason).await?;
    Outcome::of(answer, |result| {
        context.out.answer(result, || {
            format!(
                "{} waiting steps cancelled, {} running ones asked",
                result["cancelled"], result["requested"]
            )
        })
    })
}

pub(super) async fn retry(args: Retry, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let answer =
        workflows::retry(&client, args.id, actor(args.actor).as_deref(), &args.reason, !args.apply).await?;
    Outcome::of(answer, |result| {
        context.out.answer(result, || {
            let cancelled = result["were_cancelled"].as_i64().filter(|count| *count > 0);
            let cancelled = cancelled.map(|count| format!(" ({count} of them cancelled)"));
            let what = format!("{} failed steps{}", result["retried"], cancelled.unwrap_or_default());
            let anew = format!("{} steps made anew", result["made_anew"]);
            if args.apply {
                format!("{what} are tried again, {anew}")
            } else {
                format!("dry run: {what} would be tried again, {anew}; --apply does it")
            }
        })
    })
}

pub(super) async fn approve(args: Approve, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let (steps, gate) = gate(&client, args.id, &args.step).await?;
    if let Some(refusal) = undecidable(args.id, &gate) {
        return Ok(Outcome::Refused(refusal));
    }
    let Some(hash) = &args.effect else {
        let hash = workflows::effect_hash(&client, gate.job_id).await?;
        let needed: Vec<&Step> =
            steps.iter().filter(|step| gate.needs.iter().any(|need| need.job_id == step.job_id)).collect();
        context.out.answer(&json!({"step": gate.step, "effect_hash": hash, "after": needed}), || {
            let line = |step: &&Step| {
                format!(
                    "  {}: {} {}",
                    step.step,
                    step.standing(),
                    step.result_ref.as_deref().unwrap_or_default()
                )
            };
            let lines: Vec<String> = needed.iter().map(|step| line(step).trim_end().to_owned()).collect();
            format!(
                "{} {}, after\n{}\n\nto approve exactly this, say it again with --effect {hash}",
                gate.step,
                gate.standing(),
                lines.join("\n")
            )
        })?;
        return Ok(Outcome::Done);
    };
    let answer = workflows::approve(&client, gate.job_id, hash, actor(args.actor).as_deref()).await?;
    Outcome::of(answer, |result| context.out.answer(result, || format!("{} approved", gate.step)))
}

pub(super) async fn reject(args: Reject, context: &Context) -> Result<Outcome> {
    let client = context.client().await?;
    let (_, gate) = gate(&client, args.id, &args.step).await?;
    if let Some(refusal) = undecidable(args.id, &gate) {
        return Ok(Outcome::Refused(refusal));
    }
    let answer = workflows::reject(&client, gate.job_id, actor(args.actor).as_deref(), &args.reason).await?;
    Outcome::of(answer, |result| context.out.answer(result, || format!("{} rejected", gate.step)))
}

/// Why nobody can decide about a step now; none while it waits for approval.
fn undecidable(id: Uuid, gate: &Step) -> Option<Refusal> {
    let standing = match gate.gate.as_deref() {
        Some("approval") if gate.standing() == "waits for approval" => return None,
        Some("approval") => gate.standing().to_owned(),
        _ => format!("no approval but {} ({})", gate.job_kind, gate.standing()),
    };
    Some(Refusal {
        reason: "illegal_transition".to_owned(),
        answer: json!({"refused": true, "reason": "illegal_transition", "workflow_id": id, "step": gate.step,
            "job_id": gate.job_id, "status": gate.status, "standing": standing}),
    })
}

/// All steps, and the one of that name; a step that was made anew has its number behind it: `review~2`.
async fn gate(client: &deadpool_postgres::Object, id: Uuid, name: &str) -> Result<(Vec<Step>, Step)> {
    find(client, id).await?;
    let steps = workflows::steps(client, id).await?;
    let is_it = |step: &&Step| {
        step.step == name || step.step.rsplit_once('~').is_some_and(|(first, _)| first == name)
    };
    let Some(gate) = steps.iter().rev().find(is_it).cloned() else {
        return Err(Error::usage(format!("the workflow has no step {name}"))
            .hint(format!("`reveille workflows show {id}` lists them")));
    };
    Ok((steps, gate))
}
