//! Steps with an ordering key: which have a place in its order, and when.

use serde_json::{Value, json};

use super::stage::{Stage, node};

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
    assert_eq!(stage.run(&[]).await, ["a", "other"]);
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
