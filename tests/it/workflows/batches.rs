//! Many steps that end at once.

use std::sync::Arc;

use serde_json::json;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

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
async fn two_that_end_steps_while_the_last_free_one_is_claimed_do_not_deadlock() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b"), node("c")]), json!([])).await;
    let (first, second, holder) = (stage.db.client().await, stage.db.client().await, stage.db.client().await);
    let end = "select fn_job_succeed($1, $2)";
    for _ in 0..5 {
        let id = stage.emit("t", json!({})).await;
        let [a, b] = stage.claim("one", 2).await.try_into().unwrap();
        // both see a free step, and then wait for somebody at the row of the workflow until it is claimed
        holder
            .batch_execute("begin; select from job_workflow where status = 'active' for update")
            .await
            .unwrap();
        let (a, b): ([&(dyn ToSql + Sync); 2], [&(dyn ToSql + Sync); 2]) =
            ([&a.id, &a.token], [&b.id, &b.token]);
        let claimed = async {
            stage.waiting_for_locks(2).await;
            let [c] = stage.claim("two", 1).await.try_into().unwrap();
            holder.batch_execute("commit").await.unwrap();
            c
        };
        let (one, two, c) = futures::join!(first.query_one(end, &a), second.query_one(end, &b), claimed);
        one.unwrap();
        two.unwrap();
        stage.succeed(&c).await;
        assert_eq!(stage.status(id).await, "succeeded");
    }
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
    work_until_all_have_succeeded(&stage, 20, 40).await;
}

#[tokio::test]
async fn many_that_end_the_steps_of_a_workflow_one_by_one_do_not_deadlock_and_the_last_one_ends_it() {
    let stage = Arc::new(Stage::open().await);
    let nodes: Vec<_> = (0..8).map(|n| node(&format!("n{n}"))).collect();
    stage.put("wide", json!(nodes), json!([])).await;
    for _ in 0..25 {
        stage.emit("wide", json!({})).await;
    }
    work_until_all_have_succeeded(&stage, 1, 25).await;
}

/// Five workers, each of which claims so many at a time and ends them together, in one transaction or in another one.
async fn work_until_all_have_succeeded(stage: &Arc<Stage>, limit: i32, workflows: u64) {
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..5 {
        let stage = stage.clone();
        tasks.spawn(async move {
            let client = stage.db.client().await;
            let name = format!("worker-{worker}");
            client.execute("select fn_queue_heartbeat_register($1, 'PG_worker')", &[&name]).await.unwrap();
            let claim =
                "select array_agg(c.job_id order by random()) as jobs, array_agg(c.lease_token) as tokens
                from fn_job_claim($1, $2) c where c.job_id is not null having count(*) > 0";
            let end = "select fn_job_succeed_many($1, $2)";
            let both = format!("select fn_job_succeed_many(c.jobs, c.tokens) from ({claim}) c");
            let left = "select count(*) from job_queue where status in ('queued', 'leased')";
            while client.query_one(left, &[]).await.unwrap().get::<_, i64>(0) > 0 {
                if worker % 2 == 0 {
                    client.execute(&both, &[&name, &limit]).await.unwrap();
                } else if let Some(row) = client.query_opt(claim, &[&name, &limit]).await.unwrap() {
                    let (jobs, tokens): (Vec<Uuid>, Vec<i64>) = (row.get("jobs"), row.get("tokens"));
                    client.execute(end, &[&jobs, &tokens]).await.unwrap();
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let ended = "select count(*) from job_workflow where status = 'succeeded'";
    assert_eq!(stage.value(ended, &[]).await, workflows);
}
