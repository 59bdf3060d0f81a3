//! The workflows of a bench: a chain of steps, emitted many times.

use deadpool_postgres::GenericClient;
use serde_json::{Value, json};

use super::script;
use crate::error::{Error, Kind, Result};
use crate::store::{get, row};

/// The key of the template of a chain of so many steps.
fn chain(steps: u32) -> String {
    format!("bench_chain_{steps}")
}

/// Writes the template of a chain of so many steps.
pub async fn put_chain(client: &impl GenericClient, job_kind: &str, steps: u32) -> Result<()> {
    const SQL: &str = "select fn_mot_template_put(p_template => $1, p_actor => 'bench') as answer";
    let key = |n: u32| format!("step_{n}");
    let nodes: Vec<Value> = (1..=steps).map(|n| json!({"key": key(n), "job_kind": job_kind})).collect();
    let edges: Vec<Value> = (2..=steps).map(|n| json!({"from": key(n - 1), "to": key(n)})).collect();
    let template = json!({"template_key": chain(steps), "nodes": nodes, "edges": edges});
    let answer: Value = get(&row(client, "writing a template", SQL, &[&template]).await?, "answer")?;
    match answer.get("refused").and_then(Value::as_bool) {
        Some(false) => Ok(()),
        _ => Err(Error::new(Kind::Database, format!("the template of the bench was refused: {answer}"))),
    }
}

/// Emits so many workflows of the chain of so many steps, numbered on from `first`.
pub async fn emit_chains(client: &impl GenericClient, steps: u32, first: i64, count: i64) -> Result<()> {
    const SQL: &str = "
        select count(*) filter (where (e.answer ->> 'created')::boolean) as created
        from (
          select fn_mot_graph_emit(p_template_id => $1, p_correlation_id => n::text, p_actor => 'bench') as answer
          from generate_series($2::bigint, $2 + $3::bigint - 1) n) e";
    let found = row(client, "emitting workflows", SQL, &[&chain(steps), &first, &count]).await?;
    let created: i64 = get(&found, "created")?;
    if created == count {
        return Ok(());
    }
    Err(Error::new(Kind::Database, format!("only {created} of {count} workflows of the bench were made")))
}

/// Empties jobs and workflows. Nothing may be running.
pub async fn empty_workflows(client: &impl GenericClient) -> Result<()> {
    script(client, "emptying the workflows", "truncate job_queue, job_workflow, job_dependency, job_gate")
        .await
}

/// Workflows that have succeeded.
pub async fn finished(client: &impl GenericClient) -> Result<i64> {
    const SQL: &str = "select count(*) as workflows from job_workflow w where w.status = 'succeeded'";
    get(&row(client, "counting workflows", SQL, &[]).await?, "workflows")
}
