//! The refresh beside those who end the jobs of several workflows at once.

use serde_json::json;
use uuid::Uuid;

use super::stage::{Stage, beside, node};

/// Somebody holds the row of the first workflow until both wait for it: the refresh must not hold the second one by then.
#[tokio::test]
async fn the_refresh_and_whoever_ends_jobs_of_several_workflows_lock_each_other_out_never() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a")]), json!([])).await;
    let ids = [stage.emit("t", json!({})).await, stage.emit("t", json!({})).await];
    assert!(ids[0] < ids[1]);
    let later = "update job_workflow set updated_at = updated_at + interval '1 hour' where workflow_id = $1";
    stage.client.execute(later, &[&ids[0]]).await.unwrap();
    let jobs = stage.claim("one", 2).await;
    let holder = stage.db.client().await;
    holder.batch_execute("begin").await.unwrap();
    let hold = "select from job_workflow where workflow_id = $1 for update";
    holder.query_one(hold, &[&ids[0]]).await.unwrap();
    let worker = stage.db.client().await;
    let ends = tokio::spawn(async move {
        let (ids, tokens): (Vec<Uuid>, Vec<i64>) = jobs.iter().map(|job| (job.id, job.token)).unzip();
        let succeed = "select fn_job_succeed_many($1, $2)";
        worker.query_one(succeed, &[&ids, &tokens]).await.map(drop)
    });
    stage.waiting_for_locks(1).await;
    let refresh = "select fn_job_workflow_refresh() from (select $1::uuid) x";
    let refreshed = beside(stage.db.client().await, refresh, ids[0]);
    stage.waiting_for_locks(2).await;
    holder.batch_execute("commit").await.unwrap();
    ends.await.unwrap().unwrap();
    assert_eq!(refreshed.await.unwrap()["refused"], false);
    for id in ids {
        assert_eq!(stage.status(id).await, "succeeded");
    }
}
