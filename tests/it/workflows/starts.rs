//! Facts and schedules that start workflows: jobs of kind `workflow:TEMPLATE`.

use serde_json::json;

use super::stage::{Stage, edge, node};

const CONSUMER: &str = r#"{"consumer_key": "starter", "event_domain": "system", "event_type": "queue_dispatch_gap",
    "job_kind": "workflow:t", "source_ref": "{event_subject_ref}", "enabled": true}"#;

async fn started(schema: serde_json::Value) -> Stage {
    let stage = Stage::open().await;
    let node = json!([{"key": "a", "job_kind": "a.a", "source_ref": "{params.source_ref}"}]);
    assert_eq!(stage.put_with("t", schema, node, json!([])).await["refused"], false);
    let put = format!("select fn_consumer_put('{CONSUMER}', 'test', p_set_enabled => true)");
    stage.client.batch_execute(&put).await.unwrap();
    stage
}

#[tokio::test]
async fn an_event_starts_one_workflow_in_the_pass_that_reads_it() {
    let stage = started(json!({"type": "object", "required": ["source_ref"], "additionalProperties": false,
        "properties": {"source_ref": {"type": "string"}, "n": {"type": "integer"}, "event_type": {"type": "string"}}}))
    .await;
    let event = "select fn_event_emit('system', 'queue_dispatch_gap', 'doc:1', '{\"n\": 5, \"other\": 1}')";
    let id = stage.value(event, &[]).await;
    stage.value("select fn_consumer_dispatch_batch('system')", &[]).await;
    let params = "select params from job_workflow";
    assert_eq!(
        stage.value(params, &[]).await,
        json!({"source_ref": "doc:1", "n": 5, "event_type": "queue_dispatch_gap"})
    );
    let start = "select jsonb_build_array(status, result_ref like 'workflow:%') from job_queue where job_kind = 'workflow:t'";
    assert_eq!(stage.value(start, &[]).await, json!(["succeeded", true]));
    assert_eq!(stage.run(&[]).await, ["a"]);
    let id: uuid::Uuid = id.as_str().unwrap().parse().unwrap();
    stage.value("select fn_consumer_dispatch($1)", &[&id]).await;
    assert_eq!(
        stage.value("select count(*) from job_workflow", &[]).await,
        1,
        "the same event starts no second one"
    );
}

#[tokio::test]
async fn what_does_not_fit_the_template_is_a_dead_letter_that_says_why() {
    let stage = started(
        json!({"type": "object", "properties": {"source_ref": {"type": "string"}, "n": {"type": "integer"}}}),
    )
    .await;
    stage
        .value("select fn_event_emit('system', 'queue_dispatch_gap', 'doc:1', '{\"n\": \"five\"}')", &[])
        .await;
    stage.value("select fn_consumer_dispatch_batch('system')", &[]).await;
    let error = "select error from job_dead_letter";
    assert_eq!(
        stage.value(error, &[]).await,
        "invalid_params: [\"params.n must be integer, not \\\"five\\\"\"]"
    );
    assert_eq!(stage.value("select count(*) from job_workflow", &[]).await, 0);
}

#[tokio::test]
async fn a_job_that_asks_for_a_workflow_is_started_by_the_refresh_and_waits_while_paused() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a")]), json!([])).await;
    stage.value("select fn_job_enqueue('workflow:t', 'test')", &[]).await;
    stage.value("select fn_pause('job_kind', 'workflow:t', 'test', 'test')", &[]).await;
    assert_eq!(stage.value("select fn_job_workflow_refresh()", &[]).await["started"], 0);
    stage.value("select fn_resume('job_kind', 'workflow:t', 'test', 'test')", &[]).await;
    assert_eq!(stage.value("select fn_job_workflow_refresh()", &[]).await["started"], 1);
    assert_eq!(stage.run(&[]).await, ["a"]);
}

/// The refresh comes once a minute, and a minute is the patience of whoever warns.
#[tokio::test]
async fn a_job_that_asks_for_a_workflow_is_no_backlog_that_nobody_may_claim() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a")]), json!([])).await;
    let late = "select fn_job_enqueue('workflow:t', 'test', p_executor => e) from unnest(array['Agent', 'PG_worker']) e;
        insert into job_queue (job_kind, actor, executor, idempotency_key) values ('mail.send', 'test', 'Agent', '1');
        update job_queue set scheduled_at = clock_timestamp() - interval '70 seconds'";
    stage.client.batch_execute(late).await.unwrap();
    let unclaimed = "select jsonb_object_agg(executor || ' ' || job_kind, reason) from v_job_queue_backlog";
    assert_eq!(
        stage.value(unclaimed, &[]).await,
        json!({"Agent workflow:t": null, "PG_worker workflow:t": null, "Agent mail.send": "no_live_executor"})
    );
    stage.value("select fn_pause('job_kind', 'workflow:t', 'test', 'test')", &[]).await;
    assert_eq!(
        stage.value(unclaimed, &[]).await["Agent workflow:t"],
        "paused: job_kind workflow:t",
        "what holds up the dispatcher, too, is told"
    );
}

#[tokio::test]
async fn a_gate_of_a_workflow_that_an_event_started_waits_for_what_is_about_the_same_as_the_event() {
    let stage = Stage::open().await;
    let gate =
        json!({"key": "told", "type": "event", "event_domain": "system", "event_type": "queue_dispatch_gap"});
    let own = json!({"key": "own", "type": "event", "event_domain": "system", "event_type": "queue_dispatch_gap",
        "correlation_id": "{correlation_id}"});
    stage.put("t", json!([node("a"), gate, own]), json!([edge("a", "told")])).await;
    let put = format!("select fn_consumer_put('{CONSUMER}', 'test', p_set_enabled => true)");
    stage.client.batch_execute(&put).await.unwrap();
    let event = "select fn_event_emit('system', 'queue_dispatch_gap', $1, p_correlation_id => $2)";
    stage.value(event, &[&"doc:1", &"order:7"]).await;
    stage.value("select fn_consumer_dispatch_batch('system')", &[]).await;
    stage.value("select fn_consumer_set_enabled('starter', false, 'test', 'once')", &[]).await;
    assert_eq!(
        stage.value("select correlation_id from job_queue where job_kind = 'a.a'", &[]).await,
        "order:7"
    );
    let key = stage.value("select correlation_id from job_workflow", &[]).await;
    assert!(
        key.as_str().unwrap().starts_with("starter:"),
        "what it is known by stays its event's alone: {key}"
    );
    stage.run(&[]).await;
    let opened = "select jsonb_object_agg(substr(j.idempotency_key, 38), g.event_id is not null)
        from job_gate g join job_queue j on j.job_id = g.job_id";
    stage.value(event, &[&"doc:1", &"order:8"]).await;
    stage.value("select fn_consumer_dispatch_batch('system')", &[]).await;
    assert_eq!(stage.value(opened, &[]).await, json!({"told": false, "own": false}));
    stage.value(event, &[&"doc:1", &"order:7"]).await;
    stage.value("select fn_consumer_dispatch_batch('system')", &[]).await;
    assert_eq!(stage.value(opened, &[]).await, json!({"told": true, "own": false}));
}
