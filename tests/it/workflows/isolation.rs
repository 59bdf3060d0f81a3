//! Steps that end at the same time, each in a transaction that does not see the other, at every isolation level: nothing that
//! they free together is forgotten.

use serde_json::json;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::stage::{Claimed, Stage, edge, node};
use crate::support::{SOON, wait_until};

const LEVELS: [&str; 3] = ["read committed", "repeatable read", "serializable"];
const END: &str = "select fn_job_succeed($1, $2)";

/// A transaction that has begun to see.
async fn begun(stage: &Stage, level: &str) -> Client {
    let client = stage.db.client().await;
    client
        .batch_execute(&format!("begin isolation level {level}; select count(*) from job_queue"))
        .await
        .unwrap();
    client
}

async fn somebody_waits_for_a_lock(stage: &Stage) {
    let waits = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')";
    wait_until("somebody waits for a lock", SOON, async || stage.value(waits, &[]).await == true).await;
}

/// Ends a job and commits; a serialization failure is answered as its caller should: once more, with what there is now.
/// How many times it was tried.
async fn end(client: &Client, level: &str, job: &Claimed) -> u32 {
    for tries in 1..10 {
        let failed = match client.query_one(END, &[&job.id, &job.token]).await {
            Ok(_) => client.batch_execute("commit").await.err(),
            Err(error) => Some(error),
        };
        let Some(error) = failed else { return tries };
        assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{error}");
        client.batch_execute(&format!("rollback; begin isolation level {level}")).await.unwrap();
    }
    panic!("{level}: nine serialization failures in a row");
}

/// Two steps of a workflow end: the second one's transaction has seen neither end when it begins, and waits for the first.
async fn two_end_at_once(stage: &Stage, first: &str, second: &str, jobs: &[Claimed]) -> u32 {
    let (one, two) = (begun(stage, first).await, begun(stage, second).await);
    one.query_one(END, &[&jobs[0].id, &jobs[0].token]).await.unwrap();
    let (job, level) = (jobs[1].clone(), second.to_owned());
    let later = tokio::spawn(async move { end(&two, &level, &job).await });
    somebody_waits_for_a_lock(stage).await;
    one.batch_execute("commit").await.unwrap();
    later.await.unwrap()
}

/// The same, but the first has ended and committed when the second one begins to write.
async fn one_ends_behind_the_back(stage: &Stage, first: &str, second: &str, jobs: &[Claimed]) -> u32 {
    let (one, two) = (begun(stage, first).await, begun(stage, second).await);
    one.query_one(END, &[&jobs[0].id, &jobs[0].token]).await.unwrap();
    one.batch_execute("commit").await.unwrap();
    end(&two, second, &jobs[1]).await
}

async fn claimed(stage: &Stage, template: &str) -> (Uuid, Vec<Claimed>) {
    let id = stage.emit(template, json!({})).await;
    let jobs = stage.claim("one", 10).await;
    assert_eq!(jobs.len(), 2);
    (id, jobs)
}

#[tokio::test]
async fn siblings_that_end_at_once_free_what_needs_both_at_every_isolation_level() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b"), node("c")]), json!([edge("a", "c"), edge("b", "c")])).await;
    for first in LEVELS {
        for second in LEVELS {
            for behind in [false, true] {
                let (id, jobs) = claimed(&stage, "t").await;
                let tries = if behind {
                    one_ends_behind_the_back(&stage, first, second, &jobs).await
                } else {
                    two_end_at_once(&stage, first, second, &jobs).await
                };
                let how = format!("{first}, {second}, {behind}");
                assert_eq!(
                    tries,
                    if second == LEVELS[0] { 1 } else { 2 },
                    "{how}: an older snapshot is refused"
                );
                assert_eq!(stage.run(&[]).await, ["c"], "{how}");
                assert_eq!(stage.status(id).await, "succeeded", "{how}, without any refresh");
            }
        }
    }
}

#[tokio::test]
async fn last_steps_that_end_at_once_end_the_workflow_at_every_isolation_level() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b")]), json!([])).await;
    for first in LEVELS {
        for second in LEVELS {
            for behind in [false, true] {
                let (id, jobs) = claimed(&stage, "t").await;
                if behind {
                    one_ends_behind_the_back(&stage, first, second, &jobs).await;
                } else {
                    two_end_at_once(&stage, first, second, &jobs).await;
                }
                assert_eq!(
                    stage.status(id).await,
                    "succeeded",
                    "{first}, {second}, {behind}, without any refresh"
                );
            }
        }
    }
}

/// What the older snapshot takes for free, and so for something that will end the workflow later, has ended since.
#[tokio::test]
async fn a_last_step_whose_snapshot_still_shows_others_as_free_ends_the_workflow_at_every_isolation_level() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b")]), json!([])).await;
    for level in LEVELS {
        let id = stage.emit("t", json!({})).await;
        let job = stage.claim("one", 1).await.remove(0);
        let late = begun(&stage, level).await;
        assert_eq!(stage.run(&[]).await, ["b"]);
        end(&late, level, &job).await;
        assert_eq!(stage.status(id).await, "succeeded", "{level}, without any refresh");
    }
}

#[tokio::test]
async fn an_event_that_comes_while_the_last_step_before_its_gate_ends_opens_it_at_every_isolation_level() {
    let stage = Stage::open().await;
    let gate =
        json!({"key": "g", "type": "event", "event_domain": "system", "event_type": "queue_dispatch_gap"});
    stage.put("t", json!([node("a"), gate, node("b")]), json!([edge("a", "g"), edge("g", "b")])).await;
    for level in LEVELS {
        for first in ["the step", "the event"] {
            let id: Uuid = stage.emit("t", json!({})).await;
            let job = stage.claim("one", 1).await.remove(0);
            let step = begun(&stage, level).await;
            let event = "select fn_event_emit('system', 'queue_dispatch_gap', 's', p_correlation_id => $1)";
            stage.value(event, &[&id.to_string()]).await;
            let dispatch = "select fn_consumer_dispatch_batch('system')";
            let other = stage.db.client().await;
            if first == "the step" {
                step.query_one(END, &[&job.id, &job.token]).await.unwrap();
                let pass = tokio::spawn(async move { other.batch_execute(dispatch).await.unwrap() });
                somebody_waits_for_a_lock(&stage).await;
                step.batch_execute("commit").await.unwrap();
                pass.await.unwrap();
            } else {
                other.batch_execute(&format!("begin; {dispatch}")).await.unwrap();
                let ends = tokio::spawn(async move { end(&step, level, &job).await });
                somebody_waits_for_a_lock(&stage).await;
                other.batch_execute("commit").await.unwrap();
                ends.await.unwrap();
            }
            assert_eq!(stage.run(&[]).await, ["b"], "{level}, first {first}");
            assert_eq!(stage.status(id).await, "succeeded", "{level}, first {first}, without any refresh");
        }
    }
}

#[tokio::test]
async fn a_step_that_was_free_and_ended_before_the_other_end_was_committed_ends_the_workflow() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b")]), json!([])).await;
    let id = stage.emit("t", json!({})).await;
    let [a] = stage.claim("one", 1).await.try_into().unwrap();
    let slow = stage.db.client().await;
    slow.batch_execute("begin").await.unwrap();
    slow.query_one("select fn_job_succeed($1, $2)", &[&a.id, &a.token]).await.unwrap();
    let [b] = stage.claim("two", 1).await.try_into().unwrap();
    let waits = "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database())";
    let watcher = stage.db.client().await;
    let commit = async {
        wait_until("its end waits for the other", SOON, async || {
            watcher.query_one(waits, &[]).await.unwrap().get(0)
        })
        .await;
        slow.batch_execute("commit").await.unwrap();
    };
    tokio::join!(stage.succeed(&b), commit);
    assert_eq!(stage.status(id).await, "succeeded");
}

/// The first one leaves the workflow to a step that looks free, and only locks its row: a lock leaves no trace.
#[tokio::test]
async fn an_older_snapshot_that_waited_for_an_end_which_left_the_workflow_to_it_is_refused() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b")]), json!([])).await;
    for level in &LEVELS[1..] {
        let id = stage.emit("t", json!({})).await;
        let a = stage.claim("one", 1).await.remove(0);
        let slow = begun(&stage, LEVELS[0]).await;
        slow.query_one(END, &[&a.id, &a.token]).await.unwrap();
        let b = stage.claim("two", 1).await.remove(0);
        let late = begun(&stage, level).await;
        let job = b.clone();
        let later = tokio::spawn(async move { end(&late, level, &job).await });
        somebody_waits_for_a_lock(&stage).await;
        slow.batch_execute("commit").await.unwrap();
        assert_eq!(later.await.unwrap(), 2, "{level}");
        assert_eq!(stage.status(id).await, "succeeded", "{level}, without any refresh");
    }
}
