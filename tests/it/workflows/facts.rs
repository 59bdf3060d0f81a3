//! Steps that wait for a fact: what fits, what never can, and what comes while their turn comes.

use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::{Stage, edge, node};
use crate::support::{SOON, wait_until};

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

#[tokio::test]
async fn a_filter_that_can_never_be_asked_is_refused_when_the_template_is_written() {
    let stage = Stage::open().await;
    for (filter, why) in [
        ("$.payload.n == $x", "has a variable"),
        ("$.payload.n", "is not a predicate"),
        ("5", "is not a predicate"),
        ("$.payload ==", "filter: "),
    ] {
        let answer = stage.put("t", json!([fact(filter)]), json!([])).await;
        assert_eq!(answer["reason"], "invalid_template", "{filter}");
        assert!(answer["errors"][0].as_str().unwrap().contains(why), "{answer}");
    }
    for filter in [
        "$.payload.note == \"$x\"",
        "$.event.created_at.datetime() > \"2020-01-01\".datetime()",
        "exists($.payload.n)",
    ] {
        let answer = stage.put("t", json!([fact(filter)]), json!([])).await;
        assert_eq!(answer["refused"], false, "{answer}");
    }
}

#[tokio::test]
async fn times_are_compared_as_consumers_compare_them() {
    let stage = Stage::open().await;
    let id = stage.waiting("$.event.created_at.datetime() > \"2020-01-01\".datetime()").await;
    stage.fact(json!({})).await;
    assert_eq!(stage.pass().await["events"], 1);
    assert_eq!(stage.run(&[]).await, ["a", "b"]);
    assert_eq!(stage.status(id).await, "succeeded");
}

#[tokio::test]
async fn a_filter_that_raises_stops_neither_its_domain_nor_other_gates_and_is_told() {
    let stage = Stage::open().await;
    let bad = stage.waiting("$.payload.n > 3").await;
    let good = stage.emit("t", json!({})).await;
    // as somebody wrote it who knew a way past the check
    let spoil = format!("update job_gate set filter = '$.payload.n == $x' where workflow_id = '{bad}'");
    stage.client.batch_execute(&spoil).await.unwrap();
    stage.fact(json!({"n": 4})).await;
    assert_eq!(stage.pass().await["events"], 1);
    let mut ran = stage.run(&[]).await;
    ran.sort();
    assert_eq!(ran, ["a", "a", "b"]);
    assert_eq!((stage.status(good).await, stage.status(bad).await), ("succeeded".into(), "active".into()));
    let gate = stage.job(bad, "g").await;
    let told = stage.value("select last_error from job_queue where job_id = $1", &[&gate]).await;
    assert!(told.as_str().unwrap().contains("could not find jsonpath variable"), "{told}");
}

#[tokio::test]
async fn an_event_read_while_the_turn_of_its_gate_comes_opens_it() {
    let stage = Stage::open().await;
    let id = stage.waiting("$.payload.n > 3").await;
    let mut other = stage.db.client().await;
    let a = stage.claim("one", 1).await.pop().unwrap();
    let ends = other.transaction().await.unwrap();
    ends.execute("select fn_job_succeed($1, $2)", &[&a.id, &a.token]).await.unwrap();
    stage.fact(json!({"n": 4})).await;
    let reads = stage.db.client().await;
    let pass = tokio::spawn(async move {
        reads
            .query_one("select fn_consumer_dispatch_batch('system') ->> 'events'", &[])
            .await
            .unwrap()
            .get::<_, String>(0)
    });
    wait_until("the pass waits for whoever ends the step", SOON, async || {
        let waits = "select count(*) > 0 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        stage.value(waits, &[]).await == true || pass.is_finished()
    })
    .await;
    ends.commit().await.unwrap();
    assert_eq!(pass.await.unwrap(), "1");
    assert_eq!(stage.run(&[]).await, ["b"]);
    assert_eq!(stage.status(id).await, "succeeded");
}

#[tokio::test]
async fn whoever_ends_a_step_and_stays_idle_holds_up_no_domain_and_no_event_is_called_late() {
    let stage = Stage::open().await;
    let gate = json!({"key": "g", "type": "event", "event_domain": "system", "event_type": "queue_dispatch_gap",
        "correlation_id": "*", "expires_seconds": 3600});
    stage.put("t", json!([node("a"), gate, node("b")]), json!([edge("a", "g"), edge("g", "b")])).await;
    let id = stage.emit("t", json!({})).await;
    let mut other = stage.db.client().await;
    let a = stage.claim("one", 1).await.pop().unwrap();
    let ends = other.transaction().await.unwrap();
    ends.execute("select fn_job_succeed($1, $2)", &[&a.id, &a.token]).await.unwrap();
    stage.fact(json!({})).await;
    assert_eq!(stage.pass().await["events"], 1, "it does not wait for ever");
    ends.commit().await.unwrap();
    let late = "select fn_job_workflow_refresh(p_now => clock_timestamp() + interval '2 hours')";
    let answer = stage.value(late, &[]).await;
    assert_eq!(answer["expired"], 0, "{answer}");
    assert_eq!(stage.run(&[]).await, ["b"]);
    assert_eq!(stage.status(id).await, "succeeded");
}

#[tokio::test]
async fn whoever_holds_a_workflow_holds_up_no_domain_and_the_refresh_opens_its_gate() {
    let stage = Stage::open().await;
    let id = stage.waiting("$.payload.n > 3").await;
    assert_eq!(stage.run(&[]).await, ["a"]);
    let mut other = stage.db.client().await;
    let holds = other.transaction().await.unwrap();
    holds.execute("select from job_queue j where j.workflow_id = $1 and j.status = 'queued' and j.blocked_by = 1 for update", &[&id]).await.unwrap();
    holds.execute("select from job_workflow where workflow_id = $1 for update", &[&id]).await.unwrap();
    stage.fact(json!({"n": 4})).await;
    let pass = tokio::time::timeout(SOON, stage.pass()).await.expect("it does not wait for ever");
    assert_eq!(pass["events"], 1);
    holds.rollback().await.unwrap();
    assert_eq!(stage.run(&[]).await, Vec::<String>::new());
    stage.value("select fn_job_workflow_refresh()", &[]).await;
    assert_eq!(stage.run(&[]).await, ["b"]);
}
