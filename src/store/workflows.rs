//! `job_workflow` and `mot_template`: graphs of jobs, from the template to the last step.

use deadpool_postgres::GenericClient;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{get, row, rows};
use crate::error::Result;
use crate::model::refusal::Answer;
use crate::model::workflow::Step;

/// A workflow in one line, a row of `v_job_workflow_health`.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct Workflow {
    pub workflow_id: Uuid,
    pub template: String,
    pub status: String,
    pub correlation_id: String,
    pub actor: String,
    pub jobs: i32,
    pub succeeded: i32,
    pub failed: i32,
    pub skipped: i32,
    pub cancelled: i32,
    pub blocked: i32,
    pub ready: i32,
    pub running: i32,
    pub waiting_for: Vec<String>,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub cancel_reason: Option<String>,
}

/// A template in one line.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct Template {
    pub template_key: String,
    pub version: i32,
    pub description: String,
    pub nodes: i64,
    pub actor: String,
    pub created_at: Timestamp,
    pub used_at: Option<Timestamp>,
}

/// Which workflows; what is none does not narrow.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "the names are the columns")]
pub struct Filter<'a> {
    pub status: Option<&'a str>,
    pub template_key: Option<&'a str>,
    pub workflow_id: Option<Uuid>,
    /// Only those made before this one.
    pub before: Option<Uuid>,
}

/// Workflows, the newest first.
pub async fn list(client: &impl GenericClient, filter: &Filter<'_>, limit: i64) -> Result<Vec<Workflow>> {
    const SQL: &str = "
        select h.workflow_id, h.template, h.status, h.correlation_id, h.actor::text, h.jobs, h.succeeded, h.failed, h.skipped,
               h.cancelled, h.blocked, h.ready, h.running, h.waiting_for, h.created_at, h.finished_at, h.cancel_reason
        from v_job_workflow_health h
        where ($1::text is null or h.status = $1)
          and ($2::text is null or split_part(h.template, '@', 1) = $2)
          and ($3::uuid is null or h.workflow_id = $3)
          and ($5::uuid is null or h.workflow_id < $5)
        order by h.workflow_id desc
        limit $4";
    let workflow = |row: &Row| {
        Ok(Workflow {
            workflow_id: get(row, "workflow_id")?,
            template: get(row, "template")?,
            status: get(row, "status")?,
            correlation_id: get(row, "correlation_id")?,
            actor: get(row, "actor")?,
            jobs: get(row, "jobs")?,
            succeeded: get(row, "succeeded")?,
            failed: get(row, "failed")?,
            skipped: get(row, "skipped")?,
            cancelled: get(row, "cancelled")?,
            blocked: get(row, "blocked")?,
            ready: get(row, "ready")?,
            running: get(row, "running")?,
            waiting_for: get(row, "waiting_for")?,
            created_at: get(row, "created_at")?,
            finished_at: get(row, "finished_at")?,
            cancel_reason: get(row, "cancel_reason")?,
        })
    };
    let parameters: super::Parameters<'_> =
        &[&filter.status, &filter.template_key, &filter.workflow_id, &limit, &filter.before];
    rows(client, "listing workflows", SQL, parameters).await?.iter().map(workflow).collect()
}

/// The steps of a workflow, in the order of its template; none when there is no such workflow.
pub async fn steps(client: &impl GenericClient, workflow_id: Uuid) -> Result<Vec<Step>> {
    const SQL: &str = "
        select s.step, s.job_id, s.job_kind, s.executor, s.status, s.gate, s.blocked_by, s.needs, s.lease_owner, s.last_error,
               s.cancel_reason, s.result_ref
        from fn_job_workflow_steps(p_workflow_id => $1) s";
    let step = |row: &Row| {
        let needs: Value = get(row, "needs")?;
        Ok(Step {
            step: get(row, "step")?,
            job_id: get(row, "job_id")?,
            job_kind: get(row, "job_kind")?,
            executor: get(row, "executor")?,
            status: get(row, "status")?,
            gate: get(row, "gate")?,
            blocked_by: get(row, "blocked_by")?,
            needs: serde_json::from_value(needs).unwrap_or_default(),
            lease_owner: get(row, "lease_owner")?,
            last_error: get(row, "last_error")?,
            cancel_reason: get(row, "cancel_reason")?,
            result_ref: get(row, "result_ref")?,
        })
    };
    rows(client, "reading a workflow", SQL, &[&workflow_id]).await?.iter().map(step).collect()
}

/// Templates, the newest version of each first.
pub async fn templates(client: &impl GenericClient) -> Result<Vec<Template>> {
    const SQL: &str = "
        select t.template_key, t.version, t.description, jsonb_array_length(t.nodes)::bigint as nodes, t.actor, t.created_at, t.used_at
        from mot_template t
        order by t.template_key, t.version desc";
    let template = |row: &Row| {
        Ok(Template {
            template_key: get(row, "template_key")?,
            version: get(row, "version")?,
            description: get(row, "description")?,
            nodes: get(row, "nodes")?,
            actor: get(row, "actor")?,
            created_at: get(row, "created_at")?,
            used_at: get(row, "used_at")?,
        })
    };
    rows(client, "listing templates", SQL, &[]).await?.iter().map(template).collect()
}

/// Writes a template, or only checks it.
pub async fn put(
    client: &impl GenericClient,
    template: &Value,
    actor: Option<&str>,
    dry_run: bool,
) -> Result<Answer> {
    const SQL: &str = "select fn_mot_template_put(p_template => $1, p_actor => coalesce($2, session_user::text), p_dry_run => $3) as answer";
    let what = if dry_run { "checking a template" } else { "writing a template" };
    answer(client, what, SQL, &[template, &actor, &dry_run]).await
}

/// Makes a workflow from a template, or shows what it would be.
pub async fn emit(
    client: &impl GenericClient,
    template: &str,
    params: &Value,
    correlation_id: Option<&str>,
    actor: Option<&str>,
    dry_run: bool,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_mot_graph_emit(
          p_template_id => $1, p_template_params => $2, p_correlation_id => $3, p_actor => coalesce($4, session_user::text), p_dry_run => $5) as answer";
    answer(client, "emitting a workflow", SQL, &[&template, params, &correlation_id, &actor, &dry_run]).await
}

/// Cancels a workflow: what waits at once, what runs is asked.
pub async fn cancel(
    client: &impl GenericClient,
    id: Uuid,
    actor: Option<&str>,
    reason: &str,
) -> Result<Answer> {
    const SQL: &str = "select fn_job_workflow_cancel(p_workflow_id => $1, p_actor => coalesce($2, session_user::text), p_reason => $3) as answer";
    answer(client, "cancelling a workflow", SQL, &[&id, &actor, &reason]).await
}

/// Sets a failed workflow going again from the steps that failed.
pub async fn retry(
    client: &impl GenericClient,
    id: Uuid,
    actor: Option<&str>,
    reason: &str,
    dry_run: bool,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_job_workflow_retry(p_workflow_id => $1, p_actor => coalesce($2, session_user::text), p_reason => $3, p_dry_run => $4) as answer";
    answer(client, "retrying a workflow", SQL, &[&id, &actor, &reason, &dry_run]).await
}

/// What an approval of this step would be about.
pub async fn effect_hash(client: &impl GenericClient, job_id: Uuid) -> Result<String> {
    const SQL: &str = "select fn_job_effect_hash(p_job_id => $1) as hash";
    get(&row(client, "reading what is to be approved", SQL, &[&job_id]).await?, "hash")
}

/// Approves a gate, if what was seen is still what there is.
pub async fn approve(
    client: &impl GenericClient,
    job_id: Uuid,
    hash: &str,
    actor: Option<&str>,
) -> Result<Answer> {
    const SQL: &str = "select fn_job_approve(p_job_id => $1, p_effect_hash => $2, p_actor => coalesce($3, session_user::text)) as answer";
    answer(client, "approving a step", SQL, &[&job_id, &hash, &actor]).await
}

/// Rejects a gate.
pub async fn reject(
    client: &impl GenericClient,
    job_id: Uuid,
    actor: Option<&str>,
    reason: &str,
) -> Result<Answer> {
    const SQL: &str = "select fn_job_reject(p_job_id => $1, p_actor => coalesce($2, session_user::text), p_reason => $3) as answer";
    answer(client, "rejecting a step", SQL, &[&job_id, &actor, &reason]).await
}

async fn answer(
    client: &impl GenericClient,
    what: &'static str,
    sql: &str,
    parameters: super::Parameters<'_>,
) -> Result<Answer> {
    Ok(Answer::from_json(get(&row(client, what, sql, parameters).await?, "answer")?))
}
