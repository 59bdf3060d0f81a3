//! Ends of a run beside success and failure: snoozed, cancelled; and jobs added by the thousand.

use std::time::Duration;

use reveille::model::job::Job;
use reveille::work::{Handler, Handlers, JobContext, Outcome};
use serde_json::{Value, json};
use uuid::Uuid;

use super::shop::{Held, Shop};
use crate::support::{SOON, wait_until};

/// Says not yet, the first time.
struct NotYet;

impl Handler for NotYet {
    async fn run(&self, job: &Job, _: &JobContext) -> Outcome {
        if job.scheduled_at.duration_since(job.created_at) < jiff::SignedDuration::from_millis(50) {
            Outcome::Snoozed(Duration::from_millis(100))
        } else {
            Outcome::done()
        }
    }
}

/// Ends when it is asked to.
struct Listening;

impl Handler for Listening {
    async fn run(&self, _: &Job, context: &JobContext) -> Outcome {
        context.stopped().await;
        if context.is_cancelled() { Outcome::Cancelled } else { Outcome::Transient("asked".into()) }
    }
}

async fn cancel(shop: &Shop, id: Uuid) -> Value {
    shop.value("select fn_job_cancel($1, 'test', 'not wanted')", &[&id]).await
}

/// The outcomes of a job's ended leases.
async fn outcomes(shop: &Shop, id: Uuid) -> Value {
    let outcomes =
        "select coalesce(jsonb_agg(outcome order by lease_token), '[]') from job_attempt where job_id = $1";
    shop.value(outcomes, &[&id]).await
}

#[tokio::test]
async fn a_snooze_costs_no_attempt_and_the_job_comes_again_when_it_is_due() {
    let shop = Shop::open().await;
    let mut settings = shop.settings();
    settings.worker.poll_interval = Duration::from_millis(50);
    let worker = shop.start(&settings, Handlers::new().on("later", NotYet)).await;
    let id = shop.enqueue("later").await;
    let done = shop.wait_for_status(id, "succeeded").await;
    assert_eq!((&done["attempts"], &done["error_count"]), (&json!(0), &json!(0)));
    assert_eq!(outcomes(&shop, id).await, json!(["snoozed"]));
    assert_eq!(worker.stop().await.snoozed, 1);
}

#[tokio::test]
async fn waiting_work_is_cancelled_at_once_and_never_runs() {
    let shop = Shop::open().await;
    let id = shop.enqueue("held").await;
    let answer = cancel(&shop, id).await;
    assert_eq!((&answer["refused"], &answer["status"]), (&json!(false), &json!("cancelled")));
    assert_eq!(cancel(&shop, id).await, answer, "asking again changes nothing");
    let job = shop.job(id).await;
    assert_eq!(job["cancel_reason"], "test: not wanted");
    let held = Held::new(9);
    let worker = shop.start(&shop.settings(), Handlers::new().on("held", held.clone())).await;
    let other = shop.enqueue("held").await;
    shop.wait_for_status(other, "succeeded").await;
    worker.stop().await;
    assert_eq!(held.begun_unseen(), 1);
    assert_eq!(shop.job(id).await, job);
}

#[tokio::test]
async fn a_run_learns_of_its_cancellation_also_when_its_worker_only_polls() {
    for listen in [true, false] {
        let shop = Shop::open().await;
        let mut settings = shop.settings();
        settings.dispatch.listen = listen;
        settings.worker.poll_interval = Duration::from_millis(100);
        let worker = shop.start(&settings, Handlers::new().on("listening", Listening)).await;
        let id = shop.enqueue("listening").await;
        shop.wait_for_status(id, "in_progress").await;
        assert_eq!(cancel(&shop, id).await["requested"], true);
        shop.wait_for_status(id, "cancelled").await;
        assert_eq!(outcomes(&shop, id).await, json!(["cancelled"]));
        assert_eq!(worker.stop().await.cancelled, 1);
    }
}

#[tokio::test]
async fn a_cancelled_sql_function_is_stopped_and_its_effect_undone() {
    let shop = Shop::open().await;
    let body =
        "insert into effect values ((p_job ->> 'job_id')::uuid, 'x'); perform pg_sleep(60); return '{}';";
    shop.handler("long", body).await;
    let worker = shop.start(&shop.settings(), Handlers::new().with_sql()).await;
    let id = shop.enqueue("long").await;
    shop.wait_for_status(id, "in_progress").await;
    cancel(&shop, id).await;
    shop.wait_for_status(id, "cancelled").await;
    assert_eq!(shop.effects().await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_that_fails_or_is_given_back_does_not_come_again() {
    let shop = Shop::open().await;
    shop.client.batch_execute("select fn_queue_heartbeat_register('one', 'PG_worker')").await.unwrap();
    for call in [
        "fn_job_fail_transient($1, $2, 'x')",
        "fn_job_fail_permanent($1, $2, 'x')",
        "fn_job_release($1, $2)",
        "fn_job_snooze($1, $2, clock_timestamp())",
    ] {
        let id = shop.enqueue("any").await;
        let token: i64 =
            shop.client.query_one("select lease_token from fn_job_claim('one')", &[]).await.unwrap().get(0);
        cancel(&shop, id).await;
        let renewed = shop.value("select fn_job_renew($1, $2)", &[&id, &token]).await;
        assert_eq!(renewed["cancel_requested"], true);
        let answer = shop.value(&format!("select {call}"), &[&id, &token]).await;
        assert_eq!(answer["status"], "cancelled", "{call}");
        assert_eq!(shop.job(id).await["status"], "cancelled", "{call}");
    }
}

#[tokio::test]
async fn a_run_that_ends_well_in_spite_of_its_cancellation_has_ended_well() {
    let shop = Shop::open().await;
    let held = Held::new(0);
    let worker = shop.start(&shop.settings(), Handlers::new().on("held", held.clone())).await;
    let id = shop.enqueue("held").await;
    held.begun().await;
    cancel(&shop, id).await;
    held.let_go();
    wait_until("the job is settled", SOON, async || !shop.job(id).await["finished_at"].is_null()).await;
    assert_eq!(shop.job(id).await["status"], "succeeded");
    worker.stop().await;
}

#[tokio::test]
async fn many_jobs_are_added_in_one_call_each_key_once() {
    let shop = Shop::open().await;
    let first = shop.value("select fn_job_enqueue('any', 'test', p_idempotency_key => 'k1')", &[]).await;
    let jobs = json!([
        {"job_kind": "any", "actor": "test", "idempotency_key": "k1"},
        {"job_kind": "any", "actor": "test", "idempotency_key": "k2", "priority": 3, "safe_payload": {"n": 1}},
        {"job_kind": "any", "actor": "test", "idempotency_key": "k2"},
        {"job_kind": "any", "actor": "test"},
    ]);
    let answer = shop.value("select fn_job_enqueue_many($1)", &[&jobs]).await;
    assert_eq!((&answer["created"], &answer["duplicates"]), (&json!(2), &json!(2)));
    let ids = answer["job_ids"].as_array().unwrap();
    assert_eq!((&ids[0], &ids[1]), (&first["job_id"], &ids[2]));
    let made = shop.job(ids[1].as_str().unwrap().parse().unwrap()).await;
    assert_eq!((&made["priority"], &made["safe_payload"]), (&json!(3), &json!({"n": 1})));
    assert_eq!(shop.count("queued").await, 3);
}

#[tokio::test]
async fn a_malformed_one_of_many_refuses_all_and_says_which() {
    let shop = Shop::open().await;
    let good = json!({"job_kind": "any", "actor": "test"});
    for (bad, words) in [
        (json!({"job_kind": "any", "actor": "test", "prio": 1}), "prio"),
        (json!(7), "7 is no job"),
        (json!({"job_kind": "any"}), "actor"),
        (json!({"job_kind": "any", "actor": "test", "safe_payload": {"password": "x"}}), "signal"),
        (json!({"job_kind": "any", "actor": "test", "scheduled_at": "infinity"}), "scheduled_at is infinity"),
    ] {
        let jobs = json!([good, bad]);
        let error = shop.client.query_one("select fn_job_enqueue_many($1)", &[&jobs]).await.unwrap_err();
        let message = error.as_db_error().unwrap().message();
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(shop.count("queued").await, 0);
    shop.set("queue.job_substrate.enabled", "false").await;
    let refused = shop.value("select fn_job_enqueue_many($1)", &[&json!([good])]).await;
    assert_eq!(refused["reason"], "job_substrate_disabled");
}

/// Says that it was cancelled, the first time, though nobody asked.
struct Mistaken;

impl Handler for Mistaken {
    async fn run(&self, job: &Job, _: &JobContext) -> Outcome {
        if job.attempts == 0 { Outcome::Cancelled } else { Outcome::done() }
    }
}

#[tokio::test]
async fn a_job_that_ends_as_cancelled_though_nobody_asked_is_tried_again() {
    let shop = Shop::open().await;
    shop.set("job.mistaken.backoff_seconds", "0").await;
    let mut settings = shop.settings();
    settings.worker.poll_interval = Duration::from_millis(50);
    let worker = shop.start(&settings, Handlers::new().on("mistaken", Mistaken)).await;
    let id = shop.enqueue("mistaken").await;
    let done = shop.wait_for_status(id, "succeeded").await;
    assert_eq!(done["attempts"], 1);
    assert!(done["last_error"].as_str().unwrap().contains("nobody had cancelled it"));
    worker.stop().await;
}
