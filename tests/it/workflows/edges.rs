//! What the end of a step means for those that need it.

use serde_json::json;

use super::stage::{Stage, edge, node};

#[tokio::test]
async fn a_step_is_free_in_the_statement_that_ends_the_last_one_it_needs() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b"), node("c")]), json!([edge("a", "c"), edge("b", "c")])).await;
    let id = stage.emit("t", json!({})).await;
    let jobs = stage.claim("one", 10).await;
    assert_eq!(jobs.iter().map(|job| job.step.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    stage.succeed(&jobs[0]).await;
    assert!(stage.claim("two", 10).await.is_empty(), "one of two is not enough");
    // not before it is committed, and never without it
    let other = stage.db.client().await;
    other.batch_execute("begin").await.unwrap();
    other.query_one("select fn_job_succeed($1, $2)", &[&jobs[1].id, &jobs[1].token]).await.unwrap();
    assert!(stage.claim("two", 10).await.is_empty());
    other.batch_execute("rollback").await.unwrap();
    assert!(stage.claim("two", 10).await.is_empty());
    stage.succeed(&jobs[1]).await;
    assert_eq!(stage.run(&[]).await, ["c"]);
    assert_eq!(stage.status(id).await, "succeeded");
}

#[tokio::test]
#[allow(non_snake_case, reason = "MOT is a name")]
async fn phase_6_gate_a_workflow_advances_to_succeeded_and_MOT_stands_in_no_executor_field() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b")]), json!([edge("a", "b")])).await;
    let id = stage.emit("t", json!({})).await;
    let health = stage.health(id).await;
    assert_eq!(
        (&health["status"], &health["ready"], &health["blocked"]),
        (&json!("active"), &json!(1), &json!(1))
    );
    assert_eq!(stage.run(&[]).await, ["a", "b"]);
    let health = stage.health(id).await;
    assert_eq!((&health["status"], &health["succeeded"]), (&json!("succeeded"), &json!(2)));
    let fields = "select count(*) from (
        select executor::text from job_queue union all select executor_kind from queue_heartbeat
        union all select lease_owner from job_queue) f (name) where upper(name) = 'MOT'";
    assert_eq!(stage.value(fields, &[]).await, 0);
    for write in [
        "insert into job_queue (job_kind, actor, idempotency_key, executor) values ('a.a', 'test', 'x', 'MOT')",
        "select fn_queue_heartbeat_register('mot', 'PG_worker')",
    ] {
        let error = stage.client.batch_execute(write).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "23514", "{write}");
    }
}

#[tokio::test]
async fn each_policy_means_what_it_says() {
    let stage = Stage::open().await;
    let nodes = json!([
        node("s"),
        node("good"),
        node("bad"),
        node("always"),
        node("maybe"),
        node("goes_on"),
        node("tidy")
    ]);
    let edges = json!([
        edge("s", "good"), {"from": "s", "to": "bad", "on": "failure", "otherwise": "skip"}, {"from": "s", "to": "always", "on": "always"},
        {"from": "s", "to": "maybe", "otherwise": "skip"}, {"from": "s", "to": "goes_on", "otherwise": "continue"},
        {"from": "bad", "to": "tidy", "on": "always"}]);
    stage.put("t", nodes, edges).await;
    let well = stage.emit("t", json!({})).await;
    assert_eq!(stage.run(&[]).await, ["s", "good", "always", "maybe", "goes_on", "tidy"]);
    assert_eq!(
        (stage.status(well).await.as_str(), &stage.standing(well).await["bad"]),
        ("succeeded", &json!("skipped"))
    );
    let ill = stage.emit("t", json!({})).await;
    assert_eq!(stage.run(&["s"]).await, ["s", "bad", "always", "goes_on", "tidy"]);
    let standing = stage.standing(ill).await;
    assert_eq!((&standing["good"], &standing["maybe"]), (&json!("queued"), &json!("skipped")));
    assert_eq!(stage.status(ill).await, "partially_failed");
    let health = stage.health(ill).await;
    assert_eq!(
        (&health["failed"], &health["skipped"], &health["blocked"]),
        (&json!(1), &json!(1), &json!(1))
    );
}

#[tokio::test]
async fn a_workflow_in_which_nothing_succeeded_at_the_end_has_failed() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b")]), json!([edge("a", "b")])).await;
    let id = stage.emit("t", json!({})).await;
    stage.run(&["a"]).await;
    assert_eq!(stage.status(id).await, "failed");
    let resting = stage.emit("t", json!({})).await;
    let job = stage.claim("one", 1).await.remove(0);
    stage.value("select fn_job_fail_permanent($1, $2, 'no', false)", &[&job.id, &job.token]).await;
    assert_eq!(stage.status(resting).await, "failed");
}

#[tokio::test]
async fn a_retry_a_release_and_a_lost_lease_end_no_step() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b")]), json!([edge("a", "b")])).await;
    let id = stage.emit("t", json!({})).await;
    for end in ["select fn_job_release($1, $2)", "select fn_job_fail_transient($1, $2, 'later')"] {
        let job = stage.claim("one", 1).await.remove(0);
        stage.value(end, &[&job.id, &job.token]).await;
        assert_eq!(stage.status(id).await, "active", "{end}");
    }
    stage
        .client
        .batch_execute("update job_queue set scheduled_at = clock_timestamp() where status = 'retry_waiting'")
        .await
        .unwrap();
    assert_eq!(stage.run(&[]).await, ["a", "b"]);
}

#[tokio::test]
async fn last_steps_that_end_at_the_same_time_end_the_workflow_once() {
    let stage = Stage::open().await;
    let nodes = json!([{"key": "each", "job_kind": "a.a", "for_each": "params.list"}]);
    stage.put("t", nodes, json!([])).await;
    for round in 0..5 {
        let id = stage.emit("t", json!({"list": (0..24).collect::<Vec<_>>()})).await;
        let jobs = stage.claim("one", 24).await;
        assert_eq!(jobs.len(), 24);
        let clients = futures::future::join_all((0..8).map(|_| stage.db.client())).await;
        let ends = clients.iter().zip(jobs.chunks(3)).map(async |(client, jobs)| {
            for job in jobs {
                client.query_one("select fn_job_succeed($1, $2)", &[&job.id, &job.token]).await.unwrap();
            }
        });
        futures::future::join_all(ends).await;
        assert_eq!(stage.status(id).await, "succeeded", "round {round}, without any refresh");
    }
}

#[tokio::test]
async fn what_should_have_been_freed_is_found_by_the_refresh() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b"), node("c")]), json!([edge("a", "b"), edge("b", "c")])).await;
    let id = stage.emit("t", json!({})).await;
    stage.run(&["b"]).await;
    // as if the end of a had freed nobody, and that of b had ended nothing
    let break_it = "update job_dependency set state = null; update job_queue set blocked_by = 5 where idempotency_key like '%/c';
        update job_workflow set status = 'active', finished_at = null";
    stage.client.batch_execute(break_it).await.unwrap();
    let answer = stage.value("select fn_job_workflow_refresh()", &[]).await;
    assert_eq!((&answer["checked"], &answer["finished"]), (&json!(1), &json!(1)), "{answer}");
    assert_eq!(stage.status(id).await, "failed");
    let blocked = "select blocked_by from job_queue where idempotency_key like '%/c'";
    assert_eq!(stage.value(blocked, &[]).await, 1);
}

#[tokio::test]
async fn a_cancelled_workflow_runs_nothing_more_and_asks_what_runs_to_end() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b"), node("c")]), json!([edge("a", "c"), edge("b", "c")])).await;
    let id = stage.emit("t", json!({})).await;
    let job = stage.claim("one", 1).await.remove(0);
    let answer = stage.value("select fn_job_workflow_cancel($1, 'test', 'not wanted')", &[&id]).await;
    assert_eq!(
        (&answer["cancelled"], &answer["requested"], &answer["status"]),
        (&json!(2), &json!(1), &json!("active"))
    );
    let renewed = stage.value("select fn_job_renew($1, $2)", &[&job.id, &job.token]).await;
    assert_eq!(renewed["cancel_requested"], true);
    stage.value("select fn_job_cancel_done($1, $2)", &[&job.id, &job.token]).await;
    assert_eq!(stage.status(id).await, "cancelled");
    assert!(stage.claim("two", 10).await.is_empty());
    let again = stage.value("select fn_job_workflow_cancel($1, 'test', 'not wanted')", &[&id]).await;
    assert_eq!(again["refused"], false);
}

#[tokio::test]
async fn an_always_step_behind_a_blocked_one_does_not_run_and_behind_a_skipped_one_does() {
    let stage = Stage::open().await;
    let nodes = json!([node("a"), node("b"), node("c")]);
    for (otherwise, ran) in [("fail", vec!["a"]), ("skip", vec!["a", "c"])] {
        let edges = json!([{"from": "a", "to": "b", "otherwise": otherwise}, {"from": "b", "to": "c", "on": "always"}]);
        stage.put(otherwise, nodes.clone(), edges).await;
        stage.emit(otherwise, json!({})).await;
        assert_eq!(stage.run(&["a"]).await, ran);
    }
}
