//! Gates whose time is over, very many at once.

use reveille::maintain::{Housekeeper, Pruned};
use serde_json::{Value, json};

use super::stage::{Stage, edge, node};
use crate::support::server_at;

impl Stage {
    /// So many workflows, each at an approval that is to come within a minute.
    async fn approvals(&self, count: i32) {
        let gate = json!({"key": "g", "type": "approval", "expires_seconds": 60});
        self.put("t", json!([gate, node("b")]), json!([edge("g", "b")])).await;
        let emit = "select count(fn_mot_graph_emit('t', p_actor => 'test')) from generate_series(1, $1::int)";
        self.value(emit, &[&count]).await;
    }

    async fn late(&self) -> Value {
        self.value("select fn_job_workflow_refresh(p_now => clock_timestamp() + interval '2 minutes')", &[])
            .await
    }

    async fn active(&self) -> Value {
        self.value("select count(*) from job_workflow where status = 'active'", &[]).await
    }
}

#[tokio::test]
async fn one_round_of_the_housekeeper_fails_every_gate_whose_time_is_over() {
    let stage = Stage::open().await;
    stage.approvals(1300).await;
    let over = "update job_gate set expires_at = clock_timestamp() - interval '1 second'";
    stage.client.batch_execute(over).await.unwrap();
    let settings = reveille::config::Maintenance::default();
    let housekeeper = Housekeeper::new(server_at(&stage.db.url()), stage.db.pool(1), &settings);
    housekeeper.run_once(&mut Pruned::default()).await.unwrap();
    assert_eq!(stage.active().await, 0);
}

#[tokio::test]
async fn a_refresh_fails_so_many_gates_oldest_first_and_says_whether_there_are_more() {
    let stage = Stage::open().await;
    stage.approvals(15).await;
    let late = "select fn_job_workflow_refresh(1, clock_timestamp() + interval '2 minutes')";
    let answer = stage.value(late, &[]).await;
    assert_eq!((&answer["expired"], &answer["more"]), (&json!(10), &json!(true)), "{answer}");
    let left = "select jsonb_build_array(count(*), min(g.expires_at) > (select max(o.expires_at) from job_gate o join job_queue q using (job_id)
        where q.status = 'failed')) from job_gate g join job_queue j using (job_id) where j.status = 'queued'";
    assert_eq!(stage.value(left, &[]).await, json!([5, true]));
    let answer = stage.value(late, &[]).await;
    assert_eq!((&answer["expired"], &answer["more"]), (&json!(5), &json!(false)), "{answer}");
}

#[tokio::test]
async fn gates_that_have_ended_are_not_looked_at_again() {
    let stage = Stage::open().await;
    stage.approvals(3).await;
    assert_eq!(stage.late().await["expired"], 3);
    stage.late().await;
    let open = "select count(*) from job_gate where closed_at is null";
    assert_eq!(stage.value(open, &[]).await, 0);
    assert_eq!(stage.late().await["expired"], 0);
}

#[tokio::test]
async fn a_gate_that_a_retry_asks_again_expires_again() {
    let stage = Stage::open().await;
    stage.approvals(1).await;
    stage.late().await;
    stage.late().await;
    let retry = "select fn_job_workflow_retry(workflow_id, 'test', 'test', false) from job_workflow";
    assert_eq!(stage.value(retry, &[]).await["retried"], 1);
    assert_eq!(stage.active().await, 1);
    assert_eq!(stage.late().await["expired"], 1);
    assert_eq!(stage.active().await, 0);
}

#[tokio::test]
async fn a_gate_whose_turn_comes_after_its_time_expires_then() {
    let stage = Stage::open().await;
    let gate = json!({"key": "g", "type": "approval", "expires_seconds": 60});
    stage.put("t", json!([node("a"), gate]), json!([edge("a", "g")])).await;
    stage.emit("t", json!({})).await;
    assert_eq!(stage.late().await["expired"], 0);
    assert_eq!(stage.run(&[]).await, ["a"]);
    assert_eq!(stage.late().await["expired"], 1);
}
