//! Rust handlers whose effect and completion are one transaction.

use std::time::Duration;

use reveille::model::job::Job;
use reveille::work::{
    Handler, Handlers, JobContext, Outcome, Transaction, TransactionHandler, TransactionResult,
};
use uuid::Uuid;

use super::shop::{Held, Shop};
use crate::support::{SOON, wait_until};

/// Leaves an effect, waits until it is let go, and ends as the job's `source_ref` says.
#[derive(Clone)]
struct Writer(Held);

impl TransactionHandler for Writer {
    async fn run(&self, job: &Job, transaction: &Transaction<'_>, context: &JobContext) -> TransactionResult {
        let insert = "insert into effect (job_id, note) values ($1, 'written')";
        transaction.execute(insert, &[&job.job_id]).await?;
        Handler::run(&self.0, job, context).await;
        match job.source_ref.as_deref() {
            Some("transient") => Ok(Outcome::Transient("not now".to_owned())),
            Some("permanent") => Ok(Outcome::Permanent("never".to_owned())),
            Some("snoozed") => Ok(Outcome::Snoozed(Duration::from_hours(1))),
            Some("panic") => panic!("all is lost"),
            Some("broken") => transaction
                .execute("insert into effect values ('no uuid')", &[])
                .await
                .map(|_| unreachable!("a text that is no uuid was taken for one")),
            Some("swallowed") => {
                transaction.execute("select 1 / 0", &[]).await.unwrap_err();
                Ok(Outcome::done())
            }
            Some("endless") => {
                transaction.execute("select pg_sleep(3600)", &[]).await?;
                Ok(Outcome::done())
            }
            _ => Ok(Outcome::Succeeded { result_ref: job.source_ref.clone() }),
        }
    }
}

/// Waits until no handler's statement runs on the server.
async fn nobody_sleeps(shop: &Shop) {
    let sleeps =
        "select count(*) from pg_stat_activity where datname = current_database() and state = 'active'
        and pid <> pg_backend_pid() and query like '%pg_sleep%'";
    wait_until("nobody sleeps", SOON, async || {
        shop.client.query_one(sleeps, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

/// Enough runs that nobody need let go.
fn free() -> Held {
    Held::new(100)
}

fn writing(held: &Held) -> Handlers {
    Handlers::new().in_transaction("written", Writer(held.clone()))
}

async fn written(shop: &Shop, word: &str) -> Uuid {
    let answer = shop.value("select fn_job_enqueue('written', 'test', p_source_ref => $1)", &[&word]).await;
    answer["job_id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn effect_and_completion_of_a_handler_are_one_transaction() {
    let shop = Shop::open().await;
    let worker = shop.start(&shop.settings(), writing(&free())).await;
    let id = written(&shop, "page:1").await;
    let job = shop.wait_for_status(id, "succeeded").await;
    assert_eq!(job["result_ref"], "page:1");
    let same = "select e.xmin = j.xmin from effect e join job_queue j using (job_id) where j.job_id = $1";
    assert!(shop.client.query_one(same, &[&id]).await.unwrap().get::<_, bool>(0));
    let counts = worker.stop().await;
    assert_eq!((counts.succeeded, counts.lease_lost), (1, 0));
}

#[tokio::test]
async fn nothing_is_seen_of_an_effect_before_its_completion() {
    let shop = Shop::open().await;
    let held = Held::new(0);
    let worker = shop.start(&shop.settings(), writing(&held)).await;
    let id = written(&shop, "page:1").await;
    held.begun().await;
    assert_eq!(shop.effects().await, 0);
    held.let_go();
    shop.wait_for_status(id, "succeeded").await;
    assert_eq!(shop.effects().await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn what_does_not_end_well_leaves_no_effect_and_its_connection_serves_the_next_job() {
    let shop = Shop::open().await;
    let mut settings = shop.settings();
    settings.worker.concurrency = 1;
    let worker = shop.start(&settings, writing(&free())).await;
    for (word, status, error) in [
        ("transient", "retry_waiting", "not now"),
        ("permanent", "dead_letter", "never"),
        ("panic", "retry_waiting", "the handler panicked: all is lost"),
        ("broken", "dead_letter", "invalid input syntax for type uuid: \"no uuid\" (SQLSTATE 22P02)"),
    ] {
        let id = written(&shop, word).await;
        let job = shop.wait_for_status(id, status).await;
        assert_eq!(job["last_error"], error, "{word}");
        assert_eq!(shop.effects().await, 0, "{word}");
    }
    written(&shop, "snoozed").await;
    wait_until("it is snoozed", SOON, async || worker.stats.counts().snoozed == 1).await;
    assert_eq!(shop.effects().await, 0);
    shop.wait_for_status(written(&shop, "good").await, "succeeded").await;
    assert_eq!(shop.effects().await, 1);
    let counts = worker.stop().await;
    assert_eq!((counts.succeeded, counts.panics, counts.failed_permanent), (1, 1, 2));
}

#[tokio::test]
async fn an_error_that_the_handler_swallows_is_no_success() {
    let shop = Shop::open().await;
    let worker = shop.start(&shop.settings(), writing(&free())).await;
    let job = shop.wait_for_status(written(&shop, "swallowed").await, "retry_waiting").await;
    let error = job["last_error"].as_str().unwrap();
    assert!(error.contains("transaction is aborted"), "{error}");
    assert_eq!(shop.effects().await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn a_lost_lease_undoes_the_effect() {
    let shop = Shop::open().await;
    let held = Held::new(0);
    let worker = shop.start(&shop.settings(), writing(&held)).await;
    let id = written(&shop, "page:1").await;
    held.begun().await;
    let other =
        "update job_queue set lease_owner = 'somebody-else', lease_token = lease_token + 1 where job_id = $1";
    shop.client.execute(other, &[&id]).await.unwrap();
    let before = shop.job(id).await;
    held.let_go();
    wait_until("the loss is noticed", SOON, async || worker.stats.counts().lease_lost == 1).await;
    assert_eq!(shop.job(id).await["lease_token"], before["lease_token"]);
    assert_ne!(shop.job(id).await["status"], "succeeded");
    assert_eq!(shop.effects().await, 0);
    assert_eq!(worker.stop().await.succeeded, 0);
}

#[tokio::test]
async fn a_connection_that_is_killed_between_effect_and_completion_takes_the_effect_with_it() {
    let shop = Shop::open().await;
    let held = Held::new(0);
    let worker = shop.start(&shop.settings(), writing(&held)).await;
    let id = written(&shop, "page:1").await;
    held.begun().await;
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and state = 'idle in transaction'";
    assert_eq!(shop.client.query(kill, &[]).await.unwrap().len(), 1);
    held.let_go();
    let job = shop.wait_for_status(id, "retry_waiting").await;
    assert_eq!((&job["attempts"], shop.effects().await), (&1.into(), 0));
    shop.client.execute("update job_queue set scheduled_at = clock_timestamp()", &[]).await.unwrap();
    held.let_go();
    shop.client.batch_execute("notify job_wake_pg_worker").await.unwrap();
    shop.wait_for_status(id, "succeeded").await;
    assert_eq!(shop.effects().await, 1, "once, though it ran twice");
    worker.stop().await;
}

#[tokio::test]
async fn a_statement_over_the_time_limit_is_ended_on_the_server_too() {
    let shop = Shop::open().await;
    let mut settings = shop.settings();
    settings.worker.time_limit = Duration::from_millis(200);
    let worker = shop.start(&settings, writing(&free())).await;
    let job = shop.wait_for_status(written(&shop, "endless").await, "retry_waiting").await;
    assert_eq!(job["last_error"], "time limit of 200ms is over");
    nobody_sleeps(&shop).await;
    assert_eq!(shop.effects().await, 0);
    assert_eq!(worker.stop().await.time_limits, 1);
}

/// Answers how long its session lets it think and each of its statements run.
struct Limits;

impl TransactionHandler for Limits {
    async fn run(&self, _: &Job, transaction: &Transaction<'_>, _: &JobContext) -> TransactionResult {
        let limits = "select current_setting('idle_in_transaction_session_timeout') || ' ' || current_setting('statement_timeout')";
        let limits: String = transaction.query_one(limits, &[]).await?.get(0);
        Ok(Outcome::Succeeded { result_ref: Some(limits) })
    }
}

#[tokio::test]
async fn a_handler_may_think_in_its_transaction_as_long_as_its_time_limit() {
    let shop = Shop::open().await;
    shop.set("job.written.time_limit_seconds", "1800").await;
    let worker = shop.start(&shop.settings(), Handlers::new().in_transaction("written", Limits)).await;
    let job = shop.wait_for_status(written(&shop, "any").await, "succeeded").await;
    assert_eq!(job["result_ref"], "30min 30min");
    worker.stop().await;
}

#[tokio::test]
async fn a_stop_ends_the_statement_undoes_the_effect_and_gives_the_job_back() {
    let shop = Shop::open().await;
    let mut settings = shop.settings();
    settings.shutdown.deadline = Duration::from_secs(5);
    let held = free();
    let worker = shop.start(&settings, writing(&held)).await;
    let id = written(&shop, "endless").await;
    held.begun().await;
    let counts = worker.stop().await;
    assert_eq!((counts.released, counts.succeeded), (1, 0));
    nobody_sleeps(&shop).await;
    assert_eq!(shop.job(id).await["status"], "queued");
    assert_eq!(shop.effects().await, 0);
}

/// Emits a fact in the job's transaction.
struct Emitter;

impl TransactionHandler for Emitter {
    async fn run(&self, _: &Job, transaction: &Transaction<'_>, _: &JobContext) -> TransactionResult {
        transaction.execute("select fn_event_emit('staging', 'read', 'page:7')", &[]).await?;
        Ok(Outcome::done())
    }
}

#[tokio::test]
async fn what_a_handler_emits_belongs_to_the_trace_of_its_job() {
    let shop = Shop::open().await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let begin = format!(
        "insert into event_type_registry (event_domain, event_type, event_stream, delivery_lane, description)
           values ('staging', 'read', 'update', 'immediate', 'a page is read');
         select fn_job_enqueue('page.read', 'test', '{{\"traceparent\": \"{parent}\"}}'), fn_job_enqueue('page.read', 'test')"
    );
    shop.client.batch_execute(&begin).await.unwrap();
    let handlers = Handlers::new().in_transaction("page.read", Emitter);
    let worker = shop.start(&shop.settings(), handlers).await;
    wait_until("both have run", SOON, async || shop.count("succeeded").await == 2).await;
    worker.stop().await;
    let traces = "select jsonb_agg(safe_payload -> 'traceparent' order by safe_payload ->> 'traceparent') from event_outbox";
    assert_eq!(shop.value(traces, &[]).await, serde_json::json!([parent, null]));
}
