//! Jobs of one ordering key run one at a time, in order, across retries.

use reveille::maintain::{Housekeeper, Pruned};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::stage::{Stage, claim};
use crate::support::server_at;

async fn keyed(stage: &Stage, names: &[&str], key: &str) {
    for name in names {
        stage.job("step", name, json!({"ordering_key": key})).await;
    }
}

#[tokio::test]
async fn jobs_of_one_key_run_one_at_a_time_in_order_and_other_keys_beside_them() {
    let stage = Stage::open().await;
    keyed(&stage, &["a1", "a2", "a3"], "a").await;
    keyed(&stage, &["b1", "b2"], "b").await;
    stage.job("step", "free", json!({})).await;
    let first = stage.claim(10).await;
    assert_eq!(first.iter().map(|job| job.name.as_str()).collect::<Vec<_>>(), ["a1", "b1", "free"]);
    assert_eq!(stage.names(10).await, Vec::<String>::new(), "the others wait behind them");
    stage.succeed(&first[0]).await;
    let second = stage.claim(10).await;
    assert_eq!(second[0].name, "a2");
    keyed(&stage, &["a4"], "a").await;
    stage.succeed(&first[1]).await;
    assert_eq!(stage.names(10).await, ["b2"]);
    stage.succeed(&second[0]).await;
    assert_eq!((stage.run().await.unwrap(), stage.run().await.unwrap()), ("a3".to_owned(), "a4".to_owned()));
}

#[tokio::test]
async fn a_job_that_is_tried_again_keeps_its_turn() {
    let stage = Stage::open().await;
    stage.set("queue.retry.backoff_strategy.step", "constant").await;
    keyed(&stage, &["first", "second"], "k").await;
    for call in [
        "fn_job_fail_transient($1, $2, 'no')",
        "fn_job_snooze($1, $2, clock_timestamp() + interval '1 hour')",
        "fn_job_release($1, $2)",
    ] {
        let job = stage.claim(10).await.pop().unwrap();
        assert_eq!(job.name, "first", "before {call}");
        stage.value(&format!("select {call}"), &[&job.id, &job.token]).await;
        stage
            .client
            .batch_execute("update job_queue set scheduled_at = clock_timestamp() where source_ref = 'first'")
            .await
            .unwrap();
    }
    assert_eq!(stage.run().await.unwrap(), "first");
    assert_eq!(stage.run().await.unwrap(), "second");
}

#[tokio::test]
async fn a_dead_letter_holds_its_key_until_somebody_has_decided() {
    let stage = Stage::open().await;
    keyed(&stage, &["first", "second", "third", "fourth"], "k").await;
    let job = stage.claim(1).await.pop().unwrap();
    stage.value("select fn_job_fail_permanent($1, $2, 'broken')", &[&job.id, &job.token]).await;
    assert_eq!(stage.run().await, None);
    let blocked = "select jsonb_build_array(ordering_key, blocking_job_id, blocking_status, reason, behind) from v_ordering_blocked";
    let expected =
        json!(["k", job.id, "dead_letter", "it is a dead letter that nobody has decided about", 3]);
    assert_eq!(stage.value(blocked, &[]).await, expected);
    let triage = "select fn_job_dead_letter_triage(dead_letter_id, $1, 'test') from job_dead_letter";
    stage.value(triage, &[&"investigating"]).await;
    assert_eq!(stage.run().await, None);
    stage.value(triage, &[&"discarded"]).await;
    assert_eq!(stage.run().await.unwrap(), "second");
    // decided otherwise after all: the job runs again, where its turn is then
    stage.value(triage, &[&"manual_replay"]).await;
    stage.set("queue.dlq.replay_enabled", "true").await;
    let replay = "select fn_job_dead_letter_replay(dead_letter_id, 'ticket', false) from job_dead_letter";
    assert_eq!(stage.value(replay, &[]).await["refused"], false);
    let rest = [stage.run().await.unwrap(), stage.run().await.unwrap(), stage.run().await.unwrap()];
    assert_eq!(rest, ["third", "first", "fourth"], "before those that still wait");
    assert_eq!(stage.run().await, None);
}

#[tokio::test]
async fn a_replayed_dead_letter_runs_before_those_that_waited_for_it() {
    let stage = Stage::open().await;
    keyed(&stage, &["first", "second"], "k").await;
    let job = stage.claim(1).await.pop().unwrap();
    stage.value("select fn_job_fail_permanent($1, $2, 'broken')", &[&job.id, &job.token]).await;
    stage
        .value(
            "select fn_job_dead_letter_triage(dead_letter_id, 'manual_replay', 'test') from job_dead_letter",
            &[],
        )
        .await;
    stage.set("queue.dlq.replay_enabled", "true").await;
    stage
        .value("select fn_job_dead_letter_replay(dead_letter_id, 'ticket', false) from job_dead_letter", &[])
        .await;
    assert_eq!(stage.run().await.unwrap(), "first");
    assert_eq!(stage.run().await.unwrap(), "second");
}

#[tokio::test]
async fn what_is_cancelled_or_left_to_rest_lets_the_next_go_on() {
    let stage = Stage::open().await;
    keyed(&stage, &["waits", "rests", "runs", "asked", "last"], "k").await;
    let cancel = "select fn_job_cancel(job_id, 'test', 'unwanted') from job_queue where source_ref = $1";
    assert_eq!(stage.names(1).await, ["waits"]);
    stage
        .client
        .batch_execute(
            "select fn_job_release(job_id, lease_token) from job_queue where lease_until is not null",
        )
        .await
        .unwrap();
    stage.value(cancel, &[&"waits"]).await;
    let rests = stage.claim(1).await.pop().unwrap();
    assert_eq!(rests.name, "rests");
    stage.value("select fn_job_fail_permanent($1, $2, 'no', false)", &[&rests.id, &rests.token]).await;
    assert_eq!(stage.run().await.unwrap(), "runs");
    let asked = stage.claim(1).await.pop().unwrap();
    stage.value(cancel, &[&"asked"]).await;
    stage.value("select fn_job_cancel_done($1, $2)", &[&asked.id, &asked.token]).await;
    assert_eq!(stage.run().await.unwrap(), "last");
}

#[tokio::test]
async fn a_job_cancelled_behind_others_is_passed_over() {
    let stage = Stage::open().await;
    keyed(&stage, &["first", "gone", "last"], "k").await;
    let first = stage.claim(1).await.pop().unwrap();
    stage
        .value(
            "select fn_job_cancel(job_id, 'test', 'unwanted') from job_queue where source_ref = 'gone'",
            &[],
        )
        .await;
    assert_eq!(stage.run().await, None, "its place is not the first one's");
    stage.succeed(&first).await;
    assert_eq!(stage.run().await.unwrap(), "last");
}

#[tokio::test]
async fn a_kind_may_let_more_jobs_of_a_key_run_still_begun_in_order() {
    let stage = Stage::open().await;
    stage.set("job.step.key_concurrency_limit", "2").await;
    keyed(&stage, &["1", "2", "3", "4"], "k").await;
    let two = stage.claim(10).await;
    assert_eq!(two.iter().map(|job| job.name.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    stage.succeed(&two[1]).await;
    assert_eq!(stage.names(10).await, ["3"]);
    stage.succeed(&two[0]).await;
    assert_eq!(stage.names(10).await, ["4"]);
}

#[tokio::test]
async fn completions_in_a_batch_give_every_key_its_next_turn() {
    let stage = Stage::open().await;
    for key in ["a", "b", "c"] {
        keyed(&stage, &["1", "2"], key).await;
    }
    let first = stage.claim(10).await;
    assert_eq!(first.len(), 3);
    let (ids, tokens): (Vec<_>, Vec<_>) = first.iter().map(|job| (job.id, job.token)).unzip();
    stage.value("select fn_job_succeed_many($1, $2)", &[&ids, &tokens]).await;
    assert_eq!(stage.names(10).await, ["2", "2", "2"]);
}

#[tokio::test]
async fn a_lost_lease_keeps_the_turn_until_its_job_runs_again() {
    let stage = Stage::open().await;
    stage.set("queue.retry.backoff_strategy.step", "constant").await;
    stage.set("queue.lease_reaper.enabled", "true").await;
    stage.set("queue.lease_reaper.dry_run_only", "false").await;
    keyed(&stage, &["first", "second"], "k").await;
    let lost = stage.claim(1).await.pop().unwrap();
    stage
        .client
        .batch_execute("update job_queue set lease_until = clock_timestamp() where lease_until is not null")
        .await
        .unwrap();
    assert_eq!(stage.value("select fn_job_lease_reaper()", &[]).await["found"], 1);
    assert_eq!(stage.succeed(&lost).await["reason"], "lease_lost");
    assert_eq!(stage.run().await, None, "the first waits to be tried again");
    stage
        .client
        .batch_execute("update job_queue set scheduled_at = clock_timestamp() where source_ref = 'first'")
        .await
        .unwrap();
    assert_eq!(stage.run().await.unwrap(), "first");
    assert_eq!(stage.run().await.unwrap(), "second");
}

/// Runs jobs one by one under its own name until none is left, and notes in what order they ran.
async fn work(stage: std::sync::Arc<Stage>, executor: String) {
    let client = stage.db.client().await;
    client.execute("select fn_queue_heartbeat_register($1, 'PG_worker')", &[&executor]).await.unwrap();
    loop {
        for job in claim(&client, &executor, 2).await {
            let run = "insert into ran (job_id, at) values ($1, clock_timestamp())";
            client.execute(run, &[&job.id]).await.unwrap();
            let succeed = "select fn_job_succeed($1, $2) ->> 'refused'";
            let refused: String = client.query_one(succeed, &[&job.id, &job.token]).await.unwrap().get(0);
            assert_eq!(refused, "false");
        }
        let left = "select count(*) from job_queue where status <> 'succeeded'";
        if client.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            return;
        }
    }
}

#[tokio::test]
async fn no_key_is_lost_or_overtaken_while_producers_and_workers_race() {
    let stage = std::sync::Arc::new(Stage::open().await);
    stage
        .client
        .batch_execute(
            "create table ran (n bigint generated always as identity, job_id uuid, at timestamptz)",
        )
        .await
        .unwrap();
    keyed(&stage, &["seed"], "k0").await;
    let mut tasks = JoinSet::new();
    for producer in 0..3 {
        let client = stage.db.client().await;
        tasks.spawn(async move {
            for n in 0..40 {
                let enqueue =
                    "select fn_job_enqueue('step', 'test', p_source_ref => $1, p_ordering_key => $2)";
                let (name, key) = (format!("{producer}-{n}"), format!("k{}", n % 4));
                client.execute(enqueue, &[&name, &key]).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    for worker in 0..4 {
        tasks.spawn(work(stage.clone(), format!("worker-{worker}")));
    }
    // more arrives while they run
    for n in 0..60 {
        let name = format!("late-{n}");
        stage.job("step", &name, json!({"ordering_key": format!("k{}", n % 4)})).await;
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let late = std::sync::Arc::clone(&stage);
    work(late, "late".to_owned()).await;
    let overtaken = "select count(*) from (
        select j.created_at, lag(j.created_at) over (partition by j.ordering_key order by r.n) as previous
        from ran r join job_queue j using (job_id)) o where o.previous > o.created_at";
    assert_eq!(stage.value(overtaken, &[]).await, 0);
    let all = "select jsonb_build_array(count(*), count(distinct job_id)) from ran";
    assert_eq!(stage.value(all, &[]).await, json!([181, 181]));
    let overlap = "select count(*) from job_queue a join job_queue b on a.ordering_key = b.ordering_key and a.job_id < b.job_id
        and a.picked_at < b.finished_at and b.picked_at < a.finished_at";
    assert_eq!(stage.value(overlap, &[]).await, Value::from(0), "one at a time");
}

#[tokio::test]
async fn a_job_that_nobody_claims_is_placed_by_the_housekeeper_and_seen_in_the_backlog() {
    let stage = Stage::open().await;
    stage.job("step", "first", json!({"ordering_key": "k", "executor": "Agent"})).await;
    let backlog = "select jsonb_agg(jsonb_build_array(executor, due, reason)) from v_job_queue_backlog";
    assert_eq!(stage.value(backlog, &[]).await, Value::Null);
    let settings = reveille::config::Maintenance::default();
    let housekeeper = Housekeeper::new(server_at(&stage.db.url()), stage.db.pool(1), &settings);
    housekeeper.run_once(&mut Pruned::default()).await.unwrap();
    assert_eq!(stage.value(backlog, &[]).await, json!([["Agent", 1, "no_live_executor"]]));
}
