//! Refusals are answers: a gated SQL function returns `{"refused": true, "reason": …}` instead of failing.

use serde_json::Value;

/// The reason of a refusal while somebody has paused what was asked for.
pub const PAUSED: &str = "paused";

/// Why a gated function said no: a stable reason of the contract, and the whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// One of the contract's reasons, for example `job_substrate_disabled` or `lease_lost`.
    pub reason: String,
    /// The function's whole answer.
    pub answer: Value,
}

/// What a gated function answered: its result, or a refusal.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// `"refused": false` with its result.
    Done(Value),
    /// `"refused": true` with its reason.
    Refused(Refusal),
}

impl Answer {
    /// Reads the `jsonb` that a gated function returned.
    pub fn from_json(answer: Value) -> Self {
        if answer.get("refused").and_then(Value::as_bool) == Some(true) {
            let reason = answer.get("reason").and_then(Value::as_str).unwrap_or("unknown").to_owned();
            Self::Refused(Refusal { reason, answer })
        } else {
            Self::Done(answer)
        }
    }

    /// The result as an error when it is a refusal; for callers that cannot go on without.
    pub fn done(self, what: &str) -> crate::error::Result<Value> {
        match self {
            Self::Done(value) => Ok(value),
            Self::Refused(refusal) => Err(refusal.into_error(what)),
        }
    }
}

impl Refusal {
    /// The refusal as an error of kind `Refused`, with what to do about the reason.
    pub fn into_error(self, what: &str) -> crate::error::Error {
        let error = crate::error::Error::new(
            crate::error::Kind::Refused,
            format!("{what}: refused, {}", self.reason),
        );
        match self.hint() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// What to do about it, by the reason and by what the answer is about: a workflow, a step, a dead letter or a job.
    pub fn hint(&self) -> Option<String> {
        let text = |key: &str| self.answer.get(key).and_then(Value::as_str);
        let (workflow, step) = (text("workflow_id"), text("step"));
        Some(match (self.reason.as_str(), workflow, step) {
            ("illegal_transition", ..) if text("backfill_id").is_some() => {
                format!("the run is {}, and stays so: `reveille consumers backfill --list --all`", text("status").unwrap_or("over"))
            }
            ("not_found", ..) if text("backfill_id").is_some() => {
                "there is no run with this id: `reveille consumers backfill --list --all`, or `replay --list --all`".to_owned()
            }
            ("illegal_transition", Some(id), Some(step)) => format!(
                "{step} does not wait for approval, it is {}: `reveille workflows show {id}`",
                text("standing").unwrap_or("something else")
            ),
            ("illegal_transition", Some(id), None) => format!(
                "the workflow is {}, which does not allow it: `reveille workflows show {id}`",
                text("status").unwrap_or("in another state")
            ),
            ("illegal_transition", ..) if text("triage_status").is_some() => {
                "its job is no dead letter any more: `reveille dlq show ID`".to_owned()
            }
            ("illegal_transition", ..) if self.answer.get("blocked_by").is_some() => {
                "the step does not wait for approval: `reveille workflows show WORKFLOW`".to_owned()
            }
            ("not_found", Some(_), _) => {
                "there is no workflow with this id: `reveille workflows list` shows them".to_owned()
            }
            ("keys_forgotten", ..) if text("forgotten_until").is_some() => {
                format!("{}; all are known from {} on", remedy("keys_forgotten")?, text("forgotten_until")?)
            }
            (reason, ..) => remedy(reason)?.to_owned(),
        })
    }
}

/// What an operator can do about a reason.
pub fn remedy(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "job_substrate_disabled" => {
            "open the gate: `reveille gate open queue.job_substrate.enabled --reason …`"
        }
        "worker_disabled" => "open the gate: `reveille gate open queue.worker.enabled --reason …`",
        "executor_not_registered" => {
            "register the name first: `reveille work` does it, or fn_queue_heartbeat_register"
        }
        "executor_alive" => {
            "another process beats under this name: choose another one, wait until it is stale, or say --takeover"
        }
        PAUSED => "`reveille pause` says by whom and why, `reveille resume` ends it",
        "not_subscribed" => {
            "`reveille executors show NAME` says what it may claim, `reveille executors subscribe` adds to it"
        }
        "executor_silent" => "the executor must beat again: fn_queue_heartbeat_tick",
        "lease_lost" => "the lease ran out or the job was taken over; drop the result",
        "archive_disabled" => "open the gate: `reveille gate open queue.archive.enabled --reason …`",
        "audit_disabled" => "`reveille gate open queue.audit.enabled --reason …`",
        "reaper_disabled" => {
            "open both gates: `reveille gate open queue.lease_reaper.enabled --reason …` and close queue.lease_reaper.dry_run_only"
        }
        "not_closed" => {
            "dispatch has not read that far: `reveille run`, or `reveille tick`, sees to it; docs/rehearse.md tells which events count"
        }
        "terminal" => "the consumer makes no jobs: it has no job_kind",
        "consumer_disabled" => "`reveille consumers enable KEY` first",
        "consumer_dry_run" => "its row says dry_run: it makes no jobs, now or of the past",
        "consumer_changed" => {
            "look at it with `reveille consumers show KEY`, then go on with --resume ID --accept-change, or end the run with --cancel ID"
        }
        "keys_forgotten" => {
            "which of these events have had a job is not known any more, as months of the archive went (queue.retention.archive_months):              name a later --since, or let a new consumer with a name of its own make all of them"
        }
        "consumer_gone" => "its row was removed: end the run with --cancel ID",
        "replay_disabled" => "open the gate: `reveille gate open queue.dlq.replay_enabled --reason …`",
        "not_triaged" => "decide first: `reveille dlq triage ID manual_replay --note …`",
        "not_authorized" => "your role has no row for this domain in dead_letter_authority",
        "illegal_transition" => "the job's status does not allow it: `reveille jobs show ID`",
        "not_found" => "there is none with this id",
        "unknown_template" => {
            "`reveille workflows templates` lists them, `reveille workflows put FILE` writes one"
        }
        "workflow_cancelled" => {
            "its workflow was cancelled, and nothing would come of the step: close the letter with `reveille dlq triage ID discarded`, \
             and emit a workflow with another correlation id if it is wanted again"
        }
        "workflow_not_allowed" => {
            "your role may not start workflows: ask an operator to, or for EXECUTE on fn_mot_graph_emit"
        }
        "approval_expired" => "nobody may approve it any more; retry the workflow to ask again",
        "effect_changed" => "look again at what there is to approve, and approve that",
        "not_owner" => "this executor name belongs to another database role; choose another name",
        _ => return None,
    })
}
