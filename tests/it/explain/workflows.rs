//! What a step of a workflow waits for.

use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::{Stage, says};

/// A workflow of two jobs, with a gate between them.
async fn letter(stage: &Stage, gate: Value) -> (Uuid, [Uuid; 3]) {
    let job = |key: &str| json!({"key": key, "job_kind": "a.a"});
    let template = json!({
        "template_key": "letter", "nodes": [job("write"), gate, job("send")],
        "edges": [{"from": "write", "to": "gate"}, {"from": "gate", "to": "send"}]});
    stage.value("select fn_mot_template_put($1, 'test')", &[&template]).await;
    let answer = stage.value("select fn_mot_graph_emit('letter', '{}', p_actor => 'test')", &[]).await;
    let id: Uuid = answer["workflow_id"].as_str().unwrap_or_else(|| panic!("{answer}")).parse().unwrap();
    let steps =
        stage.value("select jsonb_object_agg(step, job_id) from fn_job_workflow_steps($1)", &[&id]).await;
    (id, ["write", "gate", "send"].map(|step| steps[step].as_str().unwrap().parse().unwrap()))
}

#[tokio::test]
async fn a_step_names_the_step_that_it_needs_and_a_gate_what_it_waits_for() {
    let stage = Stage::open().await;
    let (id, [write, gate, send]) = letter(&stage, json!({"key": "gate", "type": "approval"})).await;
    let row = stage.reason(gate, "blocked").await;
    let what = format!("it needs success of step write of workflow {id}, which is queued");
    says(&row, "waits", "blocked", &[&what], &format!("reveille jobs explain {write}"));
    assert_eq!(row["other_job_id"], write.to_string());
    says(&stage.of_job(write).await[0], "ready", "ready", &[], "");
    stage.end("succeed($1, $2)").await;
    let approve = format!("reveille workflows approve {id} gate");
    let what = format!("a step of workflow {id} that waits for an approval");
    says(&stage.reason(gate, "approval_waiting").await, "waits", "approval_waiting", &[&what], &approve);
    let what = "it needs success of step gate";
    says(
        &stage.reason(send, "blocked").await,
        "waits",
        "blocked",
        &[what, "and waits for an approval"],
        &approve,
    );
}

#[tokio::test]
async fn a_gate_that_waits_for_an_event_names_its_type() {
    let stage = Stage::open().await;
    stage
        .run("insert into event_type_registry (event_domain, event_type, event_stream, delivery_lane, description)
            values ('iu', 'paid', 'update', 'immediate', 'test')")
        .await;
    let event = json!({"key": "gate", "type": "event", "event_domain": "iu", "event_type": "paid"});
    let (_, [_, gate, send]) = letter(&stage, event).await;
    stage.end("succeed($1, $2)").await;
    let row = stage.reason(gate, "event_waiting").await;
    says(&row, "waits", "event_waiting", &["waits for iu.paid"], "reveille events emit iu.paid");
    says(&stage.reason(send, "blocked").await, "waits", "blocked", &["and waits for iu.paid"], "");
}

#[tokio::test]
async fn a_step_whose_need_has_failed_says_that_the_workflow_must_be_retried() {
    let stage = Stage::open().await;
    let (id, [_, gate, _]) = letter(&stage, json!({"key": "gate", "type": "approval"})).await;
    stage.end("fail_permanent($1, $2, 'no')").await;
    let row = stage.reason(gate, "failed_holding").await;
    says(
        &row,
        "waits",
        "failed_holding",
        &["step write", "which is dead_letter"],
        &format!("reveille workflows retry {id}"),
    );
}
