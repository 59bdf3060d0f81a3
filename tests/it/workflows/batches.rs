//! Many steps that end at once.

use std::sync::Arc;

use serde_json::json;

use super::stage::{Stage, edge, node};

#[tokio::test]
async fn what_ends_in_a_batch_is_followed_whatever_else_is_in_the_batch() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b")]), json!([edge("a", "b")])).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(stage.emit("t", json!({})).await);
    }
    let alone = "insert into job_queue (job_kind, actor, idempotency_key) values ('a.a', 'test', 'alone')";
    stage.client.batch_execute(alone).await.unwrap();
    let jobs = stage.claim("one", 10).await;
    assert_eq!(jobs.len(), 5);
    let (all, tokens): (Vec<_>, Vec<_>) = jobs.iter().map(|job| (job.id, job.token)).unzip();
    // the first has ended already, the second belongs to somebody else by now
    stage.succeed(&jobs[0]).await;
    let taken = "update job_queue set lease_token = lease_token + 1 where job_id = $1";
    stage.client.execute(taken, &[&all[1]]).await.unwrap();
    let answer = stage.value("select fn_job_succeed_many($1, $2)", &[&all, &tokens]).await;
    assert_eq!(answer, json!({"refused": false, "succeeded": 4, "lease_lost": [all[1]]}));
    let free = "select jsonb_agg(j.blocked_by = 0 order by j.workflow_id) from job_queue j join job_dependency using (job_id)";
    assert_eq!(stage.value(free, &[]).await, json!([true, false, true, true]));
    assert_eq!(stage.run(&[]).await, ["b", "b", "b"]);
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(stage.status(*id).await, if n == 1 { "active" } else { "succeeded" });
    }
}

#[tokio::test]
async fn two_that_claim_and_end_the_last_steps_in_a_transaction_each_do_not_pass_each_other() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b")]), json!([])).await;
    let id = stage.emit("t", json!({})).await;
    let (first, second) = (stage.db.client().await, stage.db.client().await);
    let take = |executor: &str| {
        format!(
            "begin; create temp table mine as select job_id, lease_token from fn_job_claim('{executor}', 1)"
        )
    };
    let end = "select fn_job_succeed(job_id, lease_token) from mine; commit";
    first.batch_execute(&take("one")).await.unwrap();
    second.batch_execute(&take("two")).await.unwrap();
    first.batch_execute("select fn_job_succeed(job_id, lease_token) from mine").await.unwrap();
    let (ended, ()) = futures::join!(second.batch_execute(end), async {
        stage.waiting_for_locks(1).await;
        first.batch_execute("commit").await.unwrap();
    });
    ended.unwrap();
    assert_eq!(stage.status(id).await, "succeeded");
}

#[tokio::test]
async fn many_that_free_the_same_steps_do_not_deadlock() {
    const ROOTS: usize = 6;
    let stage = Arc::new(Stage::open().await);
    let (roots, leaves): (Vec<_>, Vec<_>) = (0..ROOTS).map(|n| (format!("r{n}"), format!("l{n}"))).unzip();
    let nodes: Vec<_> = roots.iter().chain(&leaves).map(|key| node(key)).collect();
    let edges: Vec<_> = roots.iter().flat_map(|root| leaves.iter().map(|leaf| edge(root, leaf))).collect();
    stage.put("all", json!(nodes), json!(edges)).await;
    for _ in 0..40 {
        stage.emit("all", json!({})).await;
    }
    // so that each claim has steps of many workflows, in another order
    stage
        .client
        .batch_execute("update job_queue set scheduled_at = scheduled_at - random() * interval '1 hour'")
        .await
        .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..5 {
        let stage = stage.clone();
        tasks.spawn(async move {
            let client = stage.db.client().await;
            let name = format!("worker-{worker}");
            client.execute("select fn_queue_heartbeat_register($1, 'PG_worker')", &[&name]).await.unwrap();
            let work =
                "select fn_job_succeed_many(array_agg(c.job_id order by random()), array_agg(c.lease_token))
                from fn_job_claim($1, 20) c where c.job_id is not null having count(*) > 0";
            let left = "select count(*) from job_workflow where status = 'active'";
            while client.query_one(left, &[]).await.unwrap().get::<_, i64>(0) > 0 {
                client.execute(work, &[&name]).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let ended = "select count(*) from job_workflow where status = 'succeeded'";
    assert_eq!(stage.value(ended, &[]).await, 40);
}
