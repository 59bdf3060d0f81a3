//! A workflow that is cancelled: what is kept of it, and who else is at it at the same time.

use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use super::stage::{Stage, edge, node};
use crate::support::{SOON, wait_until};

/// The answer of `sql` about a workflow, asked beside others.
fn beside(client: Client, sql: &'static str, id: Uuid) -> tokio::task::JoinHandle<Value> {
    tokio::spawn(async move { client.query_one(sql, &[&id]).await.unwrap().get(0) })
}

async fn somebody_waits_for_a_lock(stage: &Stage) {
    let waits = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')";
    wait_until("somebody waits for a lock", SOON, async || stage.value(waits, &[]).await == true).await;
}

#[tokio::test]
async fn a_cancelled_workflow_still_tells_how_its_steps_ended_when_they_have_left_for_the_archive() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b"), node("c")]), json!([edge("a", "b"), edge("b", "c")])).await;
    let waiting = stage.emit("t", json!({})).await;
    let job = stage.claim("one", 1).await.remove(0);
    stage.succeed(&job).await;
    let cancel = "select fn_job_workflow_cancel($1, 'test', 'not wanted')";
    assert_eq!(stage.value(cancel, &[&waiting]).await["status"], "cancelled");
    let failed = stage.emit("t", json!({})).await;
    assert_eq!(stage.run(&["a"]).await, ["a"]);
    assert_eq!(stage.value(cancel, &[&failed]).await["status"], "cancelled");
    let before = [stage.health(waiting).await, stage.health(failed).await];
    let counts = |health: &Value| ["succeeded", "failed", "cancelled"].map(|key| health[key].clone());
    assert_eq!(counts(&before[0]), [json!(1), json!(0), json!(2)]);
    assert_eq!(counts(&before[1]), [json!(0), json!(1), json!(2)]);
    stage
        .value(
            "select fn_job_dead_letter_triage(dead_letter_id, 'discarded', 'test') from job_dead_letter",
            &[],
        )
        .await;
    stage.value("select fn_gate_set('queue.archive.enabled', 'true', 'test', 'test')", &[]).await;
    let archive = "select fn_job_archive(1000, false, p_now => clock_timestamp() + interval '1 day')";
    assert_eq!(stage.value(archive, &[]).await["archived"], 6);
    for (id, before) in [waiting, failed].into_iter().zip(before) {
        assert_eq!(counts(&stage.health(id).await), counts(&before));
    }
}

#[tokio::test]
async fn a_step_that_somebody_claims_while_its_workflow_is_cancelled_is_asked_to_end() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b")]), json!([])).await;
    let id = stage.emit("t", json!({})).await;
    let worker = stage.db.client().await;
    worker.batch_execute("begin; select fn_job_claim('one', 1)").await.unwrap();
    let cancel = "select fn_job_workflow_cancel($1, 'test', 'not wanted')";
    let cancelled = beside(stage.db.client().await, cancel, id);
    somebody_waits_for_a_lock(&stage).await;
    worker.batch_execute("commit").await.unwrap();
    let answer = cancelled.await.unwrap();
    assert_eq!(
        (&answer["cancelled"], &answer["requested"], &answer["status"]),
        (&json!(1), &json!(1), &json!("active"))
    );
    let done = "select fn_job_cancel_done(job_id, lease_token) from job_queue where status = 'leased'";
    stage.value(done, &[]).await;
    assert_eq!(stage.status(id).await, "cancelled");
}

#[tokio::test]
async fn a_retry_that_comes_after_a_cancellation_or_another_retry_changes_nothing() {
    const RETRY: &str = "select fn_job_workflow_retry($1, 'test', 'mended', false)";
    let stage = Stage::open().await;
    stage.value("select fn_gate_set('queue.dlq.replay_enabled', 'true', 'test', 'test')", &[]).await;
    stage.put("t", json!([node("a"), node("b")]), json!([edge("a", "b")])).await;
    for (first, status) in
        [("select fn_job_workflow_cancel($1, 'test', 'not wanted')", "cancelled"), (RETRY, "active")]
    {
        let id = stage.emit("t", json!({})).await;
        stage.run(&["a"]).await;
        let operator = stage.db.client().await;
        operator.batch_execute("begin").await.unwrap();
        operator.query_one(first, &[&id]).await.unwrap();
        let second = beside(stage.db.client().await, RETRY, id);
        somebody_waits_for_a_lock(&stage).await;
        operator.batch_execute("commit").await.unwrap();
        let answer = second.await.unwrap();
        assert_eq!((&answer["reason"], &answer["status"]), (&json!("illegal_transition"), &json!(status)));
        assert_eq!(stage.status(id).await, status);
        stage.value("select fn_job_workflow_cancel($1, 'test', 'the next round')", &[&id]).await;
    }
}
