//! Steps that wait for a fact: what fits, what never can, and what comes while their turn comes.

use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::{Stage, edge, node};

fn fact(filter: &str) -> Value {
    json!({"key": "g", "type": "event", "event_domain": "system", "event_type": "queue_dispatch_gap", "correlation_id": "*",
        "filter": filter})
}

impl Stage {
    /// A workflow of a, then the gate, then b.
    async fn waiting(&self, filter: &str) -> Uuid {
        let answer = self
            .put("t", json!([node("a"), fact(filter), node("b")]), json!([edge("a", "g"), edge("g", "b")]))
            .await;
        assert_eq!(answer["refused"], false, "{answer}");
        self.emit("t", json!({})).await
    }

    async fn fact(&self, payload: Value) {
        self.value("select fn_event_emit('system', 'queue_dispatch_gap', 's', $1)", &[&payload]).await;
    }

    async fn pass(&self) -> Value {
        self.value("select fn_consumer_dispatch_batch('system')", &[]).await
    }
}

#[tokio::test]
async fn an_event_that_a_gates_filter_does_not_want_leaves_it_closed() {
    let stage = Stage::open().await;
    let id = stage.waiting("$.payload.n > 3 && $.event.event_subject_ref == \"s\"").await;
    assert_eq!(stage.run(&[]).await, ["a"]);
    for payload in [json!({"n": 1}), json!({"other": 4}), json!({"n": "many"})] {
        stage.fact(payload).await;
    }
    stage.pass().await;
    assert_eq!(stage.run(&[]).await, Vec::<String>::new());
    stage.fact(json!({"n": 4})).await;
    stage.pass().await;
    assert_eq!(stage.run(&[]).await, ["b"]);
    assert_eq!(stage.status(id).await, "succeeded");
}
