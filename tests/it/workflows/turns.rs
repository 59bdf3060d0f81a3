//! Steps with an ordering key: which have a place in its order, and when.

use serde_json::{Value, json};

use super::stage::{Stage, edge, node};

fn keyed(key: &str, ordering_key: &str) -> Value {
    json!({"key": key, "job_kind": "a.a", "ordering_key": ordering_key})
}

impl Stage {
    /// A job beside all workflows; its name is its key.
    async fn beside(&self, name: &str, ordering_key: &str) {
        let name = format!("{:37}{name}", "");
        let enqueue = "select fn_job_enqueue('b.b', 'test', p_idempotency_key => $1, p_ordering_key => $2)";
        self.value(enqueue, &[&name, &ordering_key]).await;
    }
}

#[tokio::test]
async fn a_skipped_step_hands_its_turn_to_the_next_of_its_key() {
    let stage = Stage::open().await;
    let on_failure = json!({"from": "a", "to": "b", "on": "failure", "otherwise": "skip"});
    stage.put("t", json!([node("a"), keyed("b", "k")]), json!([on_failure])).await;
    let id = stage.emit("t", json!({})).await;
    stage.client.batch_execute("select fn_job_order_sweep()").await.unwrap();
    stage.beside("other", "k").await;
    let mut ran = stage.run(&[]).await;
    ran.sort();
    assert_eq!(ran, ["a", "other"]);
    assert_eq!(stage.standing(id).await, json!({"a": "succeeded", "b": "skipped"}));
}

#[tokio::test]
async fn a_skipped_step_that_had_a_turn_after_all_hands_it_on() {
    let stage = Stage::open().await;
    let on_failure = json!({"from": "a", "to": "b", "on": "failure", "otherwise": "skip"});
    stage.put("t", json!([node("a"), keyed("b", "k")]), json!([on_failure])).await;
    stage.emit("t", json!({})).await;
    // as it stood before blocked steps were kept out of the order
    let placed = "update job_queue set ordering_slot = 1 where ordering_key = 'k'";
    stage.client.batch_execute(placed).await.unwrap();
    stage.beside("other", "k").await;
    assert_eq!(stage.run(&[]).await, ["a", "other"]);
}

#[tokio::test]
async fn a_retry_of_a_step_runs_before_the_step_of_the_same_key_that_waits_for_it() {
    let stage = Stage::open().await;
    stage.put("t", json!([keyed("a", "k"), keyed("b", "k")]), json!([edge("a", "b")])).await;
    let id = stage.emit("t", json!({})).await;
    let a = stage.claim("one", 1).await.pop().unwrap();
    stage.value("select fn_job_fail_permanent($1, $2, 'no', false)", &[&a.id, &a.token]).await;
    stage.client.batch_execute("select fn_job_order_sweep()").await.unwrap();
    let retry = "select fn_job_workflow_retry($1, 'test', 'test', false)";
    assert_eq!(stage.value(retry, &[&id]).await["retried"], 1);
    assert_eq!(stage.run(&[]).await, ["a~2", "b"]);
    assert_eq!(stage.status(id).await, "succeeded");
}

#[tokio::test]
async fn a_step_that_waits_for_an_approval_holds_its_key_against_nobody() {
    let stage = Stage::open().await;
    let nodes = json!([{"key": "g", "type": "approval"}, keyed("b", "k")]);
    stage.put("t", nodes, json!([edge("g", "b")])).await;
    let id = stage.emit("t", json!({})).await;
    stage.beside("first", "k").await;
    stage.beside("second", "k").await;
    assert_eq!(stage.claim("one", 9).await[0].step, "first");
    let gate = stage.job(id, "g").await;
    let blocked =
        "select jsonb_agg(jsonb_build_array(substr(idempotency_key, 38), behind)) from v_ordering_blocked v
        join job_queue j on j.job_id = v.blocking_job_id";
    assert_eq!(stage.value(blocked, &[]).await, json!([["first", 1]]), "the step does not wait in line yet");
    let approve = "select fn_job_approve($1, fn_job_effect_hash($1), 'user:test')";
    assert_eq!(stage.value(approve, &[&gate]).await["refused"], false);
    stage.beside("third", "k").await;
    stage
        .client
        .batch_execute("select fn_job_succeed(job_id, lease_token) from job_queue where status = 'leased'")
        .await
        .unwrap();
    assert_eq!(
        stage.run(&[]).await,
        ["second", "b", "third"],
        "its place is from the moment at which it was free"
    );
}

#[tokio::test]
async fn a_step_that_is_blocked_again_gives_its_turn_away() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), keyed("b", "k")]), json!([edge("a", "b")])).await;
    let id = stage.emit("t", json!({})).await;
    let wrong = "update job_queue set blocked_by = 0 where ordering_key = 'k'; select fn_job_order_sweep()";
    stage.client.batch_execute(wrong).await.unwrap();
    stage.beside("other", "k").await;
    let slot = "select ordering_slot from job_queue where job_id = $1";
    let b = stage.job(id, "b").await;
    assert_eq!(stage.value(slot, &[&b]).await, 1);
    stage.value("select fn_job_workflow_refresh()", &[]).await;
    assert_eq!(stage.value(slot, &[&b]).await, -1, "the refresh has counted what it waits for");
    assert_eq!(stage.claim("one", 9).await.len(), 2);
}

#[tokio::test]
async fn a_workflow_that_was_asked_for_in_order_hands_its_turn_to_the_next() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a")]), json!([])).await;
    let asked = "select fn_job_enqueue('workflow:t', 'test', p_ordering_key => 'k')";
    for _ in 0..3 {
        stage.value(asked, &[]).await;
    }
    stage.client.batch_execute("select fn_job_order_sweep()").await.unwrap();
    for _ in 0..3 {
        assert_eq!(stage.value("select fn_job_workflow_refresh()", &[]).await["started"], 1);
    }
}
