//! A job that has come to its end can be a fact again.

use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::Stage;

/// The three types are registered, and kind `any` asks for them.
async fn asked() -> Stage {
    let stage = Stage::open().await;
    stage.set("job.any.emit_events", "true").await;
    let register = "insert into event_type_registry (event_domain, event_type, event_stream, delivery_lane, description)
        select 'dot', t, 'task', 'delayed', 'a job ended' from unnest(array['job_succeeded', 'job_failed', 'job_dead_lettered']) t";
    stage.client.batch_execute(register).await.unwrap();
    stage
}

async fn facts(stage: &Stage) -> Value {
    let facts = "select coalesce(jsonb_agg(jsonb_build_array(event_type, safe_payload ->> 'status') order by created_at, id), '[]')
        from event_outbox where event_domain = 'dot'";
    stage.value(facts, &[]).await
}

async fn finish(stage: &Stage, call: &str) -> Uuid {
    let id = stage.enqueue("any").await;
    let token = stage.claim().await;
    assert_eq!(stage.value(&format!("select {call}"), &[&id, &token]).await["refused"], false);
    id
}

#[tokio::test]
async fn each_end_is_a_fact_of_its_own_in_the_same_transaction() {
    let stage = asked().await;
    stage.client.batch_execute("begin").await.unwrap();
    finish(&stage, "fn_job_succeed($1, $2)").await;
    stage.client.batch_execute("rollback").await.unwrap();
    assert_eq!(facts(&stage).await, json!([]), "undone with the job's end");
    finish(&stage, "fn_job_succeed($1, $2)").await;
    finish(&stage, "fn_job_succeed_many(array[$1::uuid], array[$2::bigint])").await;
    finish(&stage, "fn_job_fail_permanent($1, $2, 'no', false)").await;
    let dead = finish(&stage, "fn_job_fail_permanent($1, $2, 'no')").await;
    let told = json!([
        ["job_succeeded", "succeeded"],
        ["job_succeeded", "succeeded"],
        ["job_failed", "failed"],
        ["job_dead_lettered", "dead_letter"]
    ]);
    assert_eq!(facts(&stage).await, told);
    let last = "select jsonb_build_array(event_subject_ref, correlation_id, actor_ref)
        from event_outbox where event_type = 'job_dead_lettered'";
    assert_eq!(stage.value(last, &[]).await, json!([dead, dead, "one"]));
    let id = stage.enqueue("any").await;
    stage.fail(id, "again").await;
    assert_eq!(facts(&stage).await.as_array().unwrap().len(), 4, "a failure that is tried again is no end");
}

#[tokio::test]
async fn nothing_is_told_where_the_kind_does_not_ask_or_the_type_is_not_registered() {
    let stage = asked().await;
    stage.set("job.any.emit_events", "false").await;
    finish(&stage, "fn_job_succeed($1, $2)").await;
    stage.set("job.any.emit_events", "true").await;
    stage
        .client
        .batch_execute("update event_type_registry set active = false where event_domain = 'dot'")
        .await
        .unwrap();
    finish(&stage, "fn_job_succeed($1, $2)").await;
    assert_eq!(facts(&stage).await, json!([]));
}

#[tokio::test]
async fn an_outbox_that_refuses_the_fact_does_not_undo_the_end_of_the_job() {
    let stage = asked().await;
    let refuse = "alter table event_outbox add constraint no_dot check (event_domain <> 'dot')";
    stage.client.batch_execute(refuse).await.unwrap();
    let id = finish(&stage, "fn_job_succeed($1, $2)").await;
    assert_eq!(stage.job(id).await["status"], "succeeded");
    let kept = stage.value("select to_jsonb(message) from dispatch_error", &[]).await;
    assert!(kept.as_str().unwrap().contains("no_dot"), "{kept}");
}

#[tokio::test]
async fn a_chain_that_comes_back_to_itself_is_cut_and_reported() {
    let stage = asked().await;
    stage.set("queue.chain.max_depth", "3").await;
    let consumer = json!({"consumer_key": "again", "event_domain": "dot", "event_type": "job_succeeded", "job_kind": "any",
        "enabled": true});
    stage.client.execute("select fn_consumer_put($1, 'test', 'sql', true)", &[&consumer]).await.unwrap();
    finish(&stage, "fn_job_succeed($1, $2)").await;
    let mut runs = 1;
    loop {
        stage.client.batch_execute("select fn_consumer_dispatch_batch('dot')").await.unwrap();
        let next = "select job_id, lease_token from fn_job_claim('one')";
        let Some(job) = stage.client.query_opt(next, &[]).await.unwrap() else { break };
        let (id, token): (Uuid, i64) = (job.get(0), job.get(1));
        stage.value("select fn_job_succeed($1, $2)", &[&id, &token]).await;
        runs += 1;
        assert!(runs < 10, "no loop runs for ever");
    }
    assert_eq!(runs, 4, "the first, and one for each fact");
    let kept = stage.value("select jsonb_build_array(consumer_key, message) from dispatch_error", &[]).await;
    assert_eq!(kept[0], "again");
    assert!(kept[1].as_str().unwrap().contains("comes back to itself"), "{kept}");
    let causes =
        "select count(*) from job_queue where causation_event_id is not null and correlation_id is not null";
    assert_eq!(stage.value(causes, &[]).await, 3, "cause and story go on");
}
