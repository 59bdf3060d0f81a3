//! A workflow that is cancelled: what is kept of it, and who else is at it at the same time.

use serde_json::{Value, json};

use super::stage::{Stage, beside, edge, node};
use crate::support::{SOON, wait_until};

const CANCEL: &str = "select fn_job_workflow_cancel($1, 'test', 'not wanted')";
const RETRY: &str = "select fn_job_workflow_retry($1, 'test', 'mended', false)";

#[tokio::test]
async fn a_cancelled_workflow_still_tells_how_its_steps_ended_when_they_have_left_for_the_archive() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b"), node("c")]), json!([edge("a", "b"), edge("b", "c")])).await;
    let waiting = stage.emit("t", json!({})).await;
    let job = stage.claim("one", 1).await.remove(0);
    stage.succeed(&job).await;
    assert_eq!(stage.value(CANCEL, &[&waiting]).await["status"], "cancelled");
    let failed = stage.emit("t", json!({})).await;
    assert_eq!(stage.run(&["a"]).await, ["a"]);
    assert_eq!(stage.value(CANCEL, &[&failed]).await["status"], "cancelled");
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
    let cancelled = beside(stage.db.client().await, CANCEL, id);
    stage.waiting_for_locks(1).await;
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
    let stage = Stage::open().await;
    stage.value("select fn_gate_set('queue.dlq.replay_enabled', 'true', 'test', 'test')", &[]).await;
    stage.put("t", json!([node("a"), node("b")]), json!([edge("a", "b")])).await;
    for (first, status) in [(CANCEL, "cancelled"), (RETRY, "active")] {
        let id = stage.emit("t", json!({})).await;
        stage.run(&["a"]).await;
        let operator = stage.db.client().await;
        operator.batch_execute("begin").await.unwrap();
        operator.query_one(first, &[&id]).await.unwrap();
        let second = beside(stage.db.client().await, RETRY, id);
        stage.waiting_for_locks(1).await;
        operator.batch_execute("commit").await.unwrap();
        let answer = second.await.unwrap();
        assert_eq!((&answer["reason"], &answer["status"]), (&json!("illegal_transition"), &json!(status)));
        assert_eq!(stage.status(id).await, status);
        stage.value(CANCEL, &[&id]).await;
    }
}

#[tokio::test]
async fn two_retries_at_once_make_a_resting_step_anew_once_and_neither_gets_an_error() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a")]), json!([])).await;
    let id = stage.emit("t", json!({})).await;
    let job = stage.claim("one", 1).await.remove(0);
    stage.value("select fn_job_fail_permanent($1, $2, 'no', false)", &[&job.id, &job.token]).await;
    let operator = stage.db.client().await;
    operator.batch_execute("begin").await.unwrap();
    operator.query_one(RETRY, &[&id]).await.unwrap();
    let second = beside(stage.db.client().await, RETRY, id);
    stage.waiting_for_locks(1).await;
    operator.batch_execute("commit").await.unwrap();
    assert_eq!(second.await.unwrap()["reason"], "illegal_transition");
    assert_eq!(stage.run(&[]).await, ["a~2"]);
    assert_eq!(stage.status(id).await, "succeeded");
}

#[tokio::test]
async fn a_workflow_whose_last_step_ends_while_it_is_cancelled_has_succeeded() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a")]), json!([])).await;
    let id = stage.emit("t", json!({})).await;
    let job = stage.claim("one", 1).await.remove(0);
    let worker = stage.db.client().await;
    worker.batch_execute("begin").await.unwrap();
    worker.query_one("select fn_job_succeed($1, $2)", &[&job.id, &job.token]).await.unwrap();
    let cancelled = beside(stage.db.client().await, CANCEL, id);
    stage.waiting_for_locks(1).await;
    worker.batch_execute("commit").await.unwrap();
    let answer = cancelled.await.unwrap();
    assert_eq!((&answer["reason"], &answer["status"]), (&json!("illegal_transition"), &json!("succeeded")));
    let health = stage.health(id).await;
    assert_eq!((&health["status"], &health["succeeded"]), (&json!("succeeded"), &json!(1)));
}

/// The cancellation waits for a retry, which makes a step anew, and then for somebody who holds the workflow's row.
#[tokio::test]
async fn a_step_that_a_retry_has_just_made_anew_is_not_claimed_while_its_workflow_is_cancelled() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a")]), json!([])).await;
    let id = stage.emit("t", json!({})).await;
    let job = stage.claim("one", 1).await.remove(0);
    stage.value("select fn_job_fail_permanent($1, $2, 'no', false)", &[&job.id, &job.token]).await;
    let (retrier, holder) = (stage.db.client().await, stage.db.client().await);
    holder.batch_execute("begin").await.unwrap();
    // a lock that lets the retry change the workflow, and holds up who wants all of it
    let hold = "select pg_backend_pid() from job_workflow where workflow_id = $1 for key share";
    let pid: i32 = holder.query_one(hold, &[&id]).await.unwrap().get(0);
    retrier.batch_execute("begin").await.unwrap();
    retrier.query_one(RETRY, &[&id]).await.unwrap();
    let cancelled = beside(stage.db.client().await, CANCEL, id);
    stage.waiting_for_locks(1).await;
    retrier.batch_execute("commit").await.unwrap();
    let waits = "select count(*) from pg_stat_activity a where $1 = any (pg_blocking_pids(a.pid))";
    wait_until("it waits for the workflow", SOON, async || stage.value(waits, &[&pid]).await == 1).await;
    assert_eq!(stage.claim("one", 1).await.len(), 0, "all of it is locked before the workflow is");
    holder.batch_execute("commit").await.unwrap();
    assert_eq!(cancelled.await.unwrap()["cancelled"], 1);
    assert_eq!(stage.status(id).await, "cancelled");
}

#[tokio::test]
async fn two_that_cancel_the_last_free_steps_at_once_do_not_pass_each_other() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b")]), json!([])).await;
    let id = stage.emit("t", json!({})).await;
    let (first, second) = (stage.db.client().await, stage.db.client().await);
    let cancel = "select fn_job_cancel($1, 'test', 'not wanted')";
    let (a, b) = (stage.job(id, "a").await, stage.job(id, "b").await);
    first.batch_execute("begin").await.unwrap();
    second.batch_execute("begin").await.unwrap();
    first.query_one(cancel, &[&a]).await.unwrap();
    let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&b];
    let (ended, ()) = futures::join!(second.query_one(cancel, &arguments), async {
        stage.waiting_for_locks(1).await;
        first.batch_execute("commit").await.unwrap();
    });
    ended.unwrap();
    second.batch_execute("commit").await.unwrap();
    assert_ne!(stage.status(id).await, "active", "without any refresh");
}
