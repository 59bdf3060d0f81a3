//! Why nobody may claim a job: gates, pauses, executors, subscriptions, limits; and what comes before it.

use serde_json::json;

use super::stage::{Stage, says};

#[tokio::test]
async fn closed_gates_are_named_with_the_command_that_opens_them() {
    let stage = Stage::open().await;
    let job = stage.job("a.a", json!({})).await;
    says(&stage.reason(job, "ready").await, "ready", "ready", &["it may be claimed now, by one"], "");
    stage.outbox.gate("queue.job_substrate.enabled", false).await;
    stage.outbox.gate("queue.worker.enabled", false).await;
    for (reason, key) in [
        ("job_substrate_disabled", "queue.job_substrate.enabled"),
        ("worker_disabled", "queue.worker.enabled"),
    ] {
        let hint = format!("reveille gate open {key} --reason TEXT");
        says(&stage.reason(job, reason).await, "waits", reason, &[key, "is closed"], &hint);
    }
}

#[tokio::test]
async fn every_pause_that_holds_a_job_is_told_with_who_and_why() {
    let stage = Stage::open().await;
    let job = stage.job("a.a", json!({})).await;
    stage.pause("job_kind", "a.a").await;
    stage.pause("executor", "PG_worker").await;
    stage.pause("all", "").await;
    stage.pause("domain", "iu").await; // not this one's
    let rows = stage.of_job(job).await;
    assert_eq!(rows.len(), 3, "{rows:#?}");
    for (row, (what, hint)) in rows.iter().zip([
        ("job_kind a.a is paused since", "reveille resume job-kind a.a --reason TEXT"),
        ("executor PG_worker is paused since", "reveille resume executor PG_worker --reason TEXT"),
        ("all is paused since", "reveille resume all --reason TEXT"),
    ]) {
        says(row, "waits", "paused", &[what, "by user:ann: the disk is full"], hint);
    }
}

#[tokio::test]
async fn a_paused_consumer_or_domain_holds_the_jobs_of_its_events_and_no_others() {
    let stage = Stage::open().await;
    stage.outbox.consumer("one", "iu", json!({})).await;
    stage.dispatched(json!({})).await;
    let job = stage.value("select job_id from job_queue", &[]).await;
    let job = job.as_str().unwrap().parse().unwrap();
    let other = stage.job("a.a", json!({})).await;
    stage.pause("consumer", "one").await;
    stage.pause("domain", "iu").await;
    let rows = stage.of_job(job).await;
    says(&rows[0], "waits", "paused", &["consumer one is paused"], "reveille resume consumer one");
    says(&rows[1], "waits", "paused", &["domain iu is paused"], "reveille resume domain iu");
    assert_eq!(stage.of_job(other).await[0]["reason"], "ready");
}

#[tokio::test]
async fn a_job_that_no_executor_can_take_says_whether_there_is_none_or_it_is_silent() {
    let stage = Stage::open().await;
    let job = stage.job("a.a", json!({"executor": "Agent"})).await;
    let row = stage.reason(job, "no_live_executor").await;
    let what = ["no executor of kind Agent beats: none is registered"];
    says(&row, "waits", "no_live_executor", &what, "reveille work --kind Agent");
    stage.run("select fn_queue_heartbeat_register('desk', 'Agent')").await;
    stage
        .run(
            "update queue_heartbeat set last_beat_at = now() - interval '1 day' where executor_name = 'desk'",
        )
        .await;
    let row = stage.reason(job, "no_live_executor").await;
    says(&row, "waits", "no_live_executor", &["desk was last heard at 20"], "");
}

#[tokio::test]
async fn a_job_that_no_live_executor_is_subscribed_to_names_those_that_live() {
    let stage = Stage::open().await;
    stage.run("select fn_subscription_set('one', 'test', 'b.*')").await;
    let job = stage.job("a.a", json!({})).await;
    let row = stage.reason(job, "not_subscribed").await;
    let what = ["no live executor of kind PG_worker may claim a.a: one"];
    says(&row, "waits", "not_subscribed", &what, "reveille executors subscribe one --kind a.a");
    stage.pause("executor", "one").await;
    let other = stage.job("b.b", json!({})).await;
    says(&stage.reason(other, "paused").await, "waits", "paused", &["every live executor"], "reveille pause");
}

#[tokio::test]
async fn a_limit_that_is_reached_is_told_with_the_jobs_that_run() {
    let stage = Stage::open().await;
    stage.set("job.a.a.concurrency_limit", "1").await;
    stage.job("a.a", json!({})).await;
    let job = stage.job("a.a", json!({})).await;
    let (running, _) = stage.claim().await;
    let row = stage.reason(job, "concurrency_limit").await;
    let what = [format!("concurrency_limit: 1 of 1 run of a.a: {running}")];
    says(&row, "waits", "concurrency_limit", &[&what[0]], "fn_gate_set('job.a.a.concurrency_limit'");
    assert_eq!(row["detail"]["running"], json!([running]));
}

#[tokio::test]
async fn a_rate_that_is_used_up_says_when_there_is_room() {
    let stage = Stage::open().await;
    stage.set("job.a.a.rate_limit", "1/60").await;
    stage.job("a.a", json!({})).await;
    let job = stage.job("a.a", json!({})).await;
    stage.claim().await;
    let row = stage.reason(job, "rate_limit").await;
    says(&row, "waits", "rate_limit", &["rate_limit: 1 begun of 1/60 of a.a"], "'job.a.a.rate_limit'");
    assert!(row["until"].is_string(), "{row:#}");
}

#[tokio::test]
async fn a_rate_of_an_ordering_key_is_told_with_the_key() {
    let stage = Stage::open().await;
    stage.set("job.a.a.key_rate_limit", "1/60").await;
    for _ in 0..2 {
        stage.job("a.a", json!({"ordering_key": "letter:7"})).await;
    }
    stage.end("succeed($1, $2)").await;
    let waits = stage.value("select job_id from job_queue where status = 'queued'", &[]).await;
    let waits = waits.as_str().unwrap().parse().unwrap();
    let row = stage.reason(waits, "key_rate_limit").await;
    says(&row, "waits", "key_rate_limit", &["1 begun of 1/60 for ordering key letter:7"], "key_rate_limit");
}

#[tokio::test]
async fn a_job_that_others_come_before_says_how_many_counted_up_to_a_thousand() {
    let stage = Stage::open().await;
    let job = stage.job("a.a", json!({"priority": 200})).await;
    let many = "insert into job_queue (job_kind, actor, idempotency_key, priority)
        select 'b.b', 'test', n::text, 5 from generate_series(1, 1500) n";
    stage.run(many).await;
    let row = stage.reason(job, "priority").await;
    let what = ["1000+ due jobs are more urgent than its priority 200, and 0 of its sort are older"];
    says(&row, "waits", "priority", &what, "reveille jobs backlog");
    // what nobody may claim comes before nothing
    stage.pause("job_kind", "b.b").await;
    says(&stage.reason(job, "ready").await, "ready", "ready", &[], "");
    let younger = stage.job("a.a", json!({"priority": 200})).await;
    says(&stage.reason(younger, "priority").await, "waits", "priority", &["0 due jobs", "1 of its sort"], "");
}

#[tokio::test]
async fn a_job_that_asks_for_a_workflow_needs_no_executor() {
    let stage = Stage::open().await;
    let job = stage.job("workflow:letter", json!({"executor": "Agent"})).await;
    stage.outbox.gate("queue.worker.enabled", false).await;
    let row = stage.reason(job, "ready").await;
    says(&row, "ready", "ready", &["dispatch or the next refresh"], "reveille tick");
}
