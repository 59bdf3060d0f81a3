//! Steps that wait for somebody's approval, or for a fact.

use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::{Stage, edge, node};

async fn at_a_gate(stage: &Stage, gate: Value) -> (Uuid, Uuid) {
    stage.put("t", json!([node("a"), gate, node("b")]), json!([edge("a", "g"), edge("g", "b")])).await;
    let id = stage.emit("t", json!({})).await;
    assert_eq!(stage.run(&[]).await, ["a"]);
    (id, stage.job(id, "g").await)
}

#[tokio::test]
async fn an_approval_is_of_what_was_seen_and_lets_the_workflow_go_on() {
    let stage = Stage::open().await;
    let (id, gate) = at_a_gate(&stage, json!({"key": "g", "type": "approval"})).await;
    assert_eq!(stage.health(id).await["waiting_for"], json!(["approval g"]));
    assert!(stage.claim("one", 9).await.is_empty(), "no executor is given a gate");
    let hash = stage.value("select fn_job_effect_hash($1)", &[&gate]).await;
    stage
        .client
        .batch_execute("update job_queue set result_ref = 'other' where status = 'succeeded'")
        .await
        .unwrap();
    let approve = "select fn_job_approve($1, $2, 'user:test')";
    let answer = stage.value(approve, &[&gate, &hash.as_str()]).await;
    assert_eq!((&answer["reason"], stage.status(id).await.as_str()), (&json!("effect_changed"), "active"));
    let answer = stage.value(approve, &[&gate, &answer["effect_hash"].as_str()]).await;
    assert_eq!(answer["decision"], "approved");
    assert_eq!(stage.run(&[]).await, ["b"]);
    assert_eq!(stage.status(id).await, "succeeded");
    assert_eq!(stage.value(approve, &[&gate, &"x"]).await["reason"], "illegal_transition");
    let kept = "select jsonb_agg(jsonb_build_array(decision, actor)) from job_approval";
    assert_eq!(stage.value(kept, &[]).await, json!([["approved", "user:test"]]));
}

#[tokio::test]
async fn nobody_approves_what_its_turn_has_not_come_for() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), {"key": "g", "type": "approval"}]), json!([edge("a", "g")])).await;
    let id = stage.emit("t", json!({})).await;
    let gate = stage.job(id, "g").await;
    let approve = "select fn_job_approve($1, fn_job_effect_hash($1), 'user:test')";
    assert_eq!(stage.value(approve, &[&gate]).await["reason"], "illegal_transition");
    assert_eq!(stage.value(approve, &[&Uuid::nil()]).await["reason"], "not_found");
}

#[tokio::test]
async fn a_rejection_and_an_approval_that_comes_too_late_fail_the_gate() {
    let stage = Stage::open().await;
    let (rejected, gate) = at_a_gate(&stage, json!({"key": "g", "type": "approval"})).await;
    stage.value("select fn_job_reject($1, 'user:test', 'page 3 is missing')", &[&gate]).await;
    assert_eq!(stage.status(rejected).await, "failed");
    let error = "select last_error from job_queue where job_id = $1";
    assert_eq!(stage.value(error, &[&gate]).await, "rejected by user:test: page 3 is missing");

    let (late, gate) =
        at_a_gate(&stage, json!({"key": "g", "type": "approval", "expires_seconds": 3600})).await;
    stage
        .value("select fn_job_workflow_refresh(p_now => clock_timestamp() + interval '59 minutes')", &[])
        .await;
    assert_eq!(stage.status(late).await, "active");
    let answer = stage
        .value("select fn_job_workflow_refresh(p_now => clock_timestamp() + interval '61 minutes')", &[])
        .await;
    assert_eq!((&answer["expired"], stage.status(late).await.as_str()), (&json!(1), "failed"));
    assert!(stage.value(error, &[&gate]).await.as_str().unwrap().starts_with("approval_expired"));
}

#[tokio::test]
async fn the_first_fitting_event_since_the_workflow_began_opens_a_gate_also_before_its_turn() {
    let stage = Stage::open().await;
    let gate = json!({"key": "g", "type": "event", "event_domain": "system", "event_type": "queue_dispatch_gap", "filter": "$.payload.n > 3"});
    stage.put("t", json!([node("a"), gate, node("b")]), json!([edge("a", "g"), edge("g", "b")])).await;
    let emit = "select fn_mot_graph_emit('t', '{}', $1, 'test') ->> 'workflow_id'";
    let ids = [stage.value(emit, &[&"c1"]).await, stage.value(emit, &[&"c2"]).await];
    let [one, two] = ids.map(|id| id.as_str().unwrap().parse::<Uuid>().unwrap());
    for (payload, correlation) in
        [(json!({"n": 3}), "c1"), (json!({"n": 4}), "other"), (json!({"n": 5}), "c1")]
    {
        let event = "select fn_event_emit('system', 'queue_dispatch_gap', 's', $1, p_correlation_id => $2)";
        stage.value(event, &[&payload, &correlation]).await;
    }
    stage.value("select fn_consumer_dispatch_batch('system')", &[]).await;
    let mut ran = stage.run(&[]).await;
    ran.sort();
    assert_eq!(ran, ["a", "a", "b"], "the event of c1 was there before its turn");
    assert_eq!((stage.status(one).await.as_str(), stage.status(two).await.as_str()), ("succeeded", "active"));
    stage.value("select fn_event_emit('system', 'queue_dispatch_gap', 's', '{\"n\": 9}', p_correlation_id => 'c2')", &[]).await;
    stage.value("select fn_consumer_dispatch_batch('system')", &[]).await;
    assert_eq!(stage.run(&[]).await, ["b"]);
    assert_eq!(stage.status(two).await, "succeeded");
}
