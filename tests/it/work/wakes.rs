//! Waking: by NOTIFY at once, by the timer for certain. Where the timer is an hour, only NOTIFY can have woken.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reveille::work::Handlers;

use super::shop::{Held, Shop};
use crate::support::{SOON, wait_until};

fn free() -> Handlers {
    Handlers::new().on("job", Held::new(1_000_000))
}

#[tokio::test]
async fn a_job_is_started_well_under_the_poll_interval_after_its_commit() {
    let shop = Shop::open().await;
    let worker = shop.start(&shop.settings(), free()).await;
    for _ in 0..20 {
        let id = shop.enqueue("job").await;
        let begun = Instant::now();
        shop.wait_for_status(id, "succeeded").await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_trickle_costs_one_claim_a_job() {
    let shop = Shop::open().await;
    let worker = shop.start(&shop.settings(), free()).await;
    let first = shop.enqueue("job").await;
    shop.wait_for_status(first, "succeeded").await;
    let before = worker.stats.counts().claims;
    for _ in 0..20 {
        // farther apart than a stream
        shop.client.batch_execute("select pg_sleep(0.02)").await.unwrap();
        let id = shop.enqueue("job").await;
        shop.wait_for_status(id, "succeeded").await;
    }
    let claims = worker.stats.counts().claims - before;
    assert!(claims <= 30, "{claims} claims for 20 jobs");
    worker.stop().await;
}

#[tokio::test]
async fn jobs_are_found_by_the_timer_when_every_notify_is_lost() {
    let shop = Shop::open().await;
    shop.set("queue.notify.bridge_enabled", "false").await;
    let mut settings = shop.settings();
    settings.worker.poll_interval = Duration::from_millis(100);
    let worker = shop.start(&settings, free()).await;
    let id = shop.enqueue("job").await;
    shop.wait_for_status(id, "succeeded").await;
    assert_eq!(worker.stop().await.notifications, 0);
}

#[tokio::test]
async fn a_worker_that_may_not_listen_polls() {
    let shop = Shop::open().await;
    let mut settings = shop.settings();
    settings.dispatch.listen = false;
    settings.worker.poll_interval = Duration::from_millis(100);
    let worker = shop.start(&settings, free()).await;
    let id = shop.enqueue("job").await;
    shop.wait_for_status(id, "succeeded").await;
    worker.stop().await;
}

/// While jobs stream in, the worker tells producers not to notify. Whoever read that and commits after the worker
/// went to sleep must not be missed.
#[tokio::test]
async fn no_job_of_a_stream_is_missed_though_most_commit_without_notify() {
    let shop = Shop::open().await;
    let worker = shop.start(&shop.settings(), free()).await;
    let producers = (0..4).map(|producer| {
        let shop = &shop;
        async move {
            let mut client = shop.db.client().await;
            for number in 0..100_i64 {
                let transaction = client.transaction().await.unwrap();
                transaction.execute("select fn_job_enqueue('job', 'test')", &[]).await.unwrap();
                if number % 25 == producer {
                    // long enough for the others to end and the worker to fall asleep
                    transaction.execute("select pg_sleep($1)", &[&0.3]).await.unwrap();
                }
                transaction.commit().await.unwrap();
            }
        }
    });
    join_all(producers).await;
    wait_until("all have run", SOON, async || shop.count("succeeded").await == 400).await;
    let mark: i64 =
        shop.client.query_one("select fn_wake_mark('job_wake_pg_worker')", &[]).await.unwrap().get(0);
    let counts = worker.stop().await;
    assert!(counts.notifications < 400, "{} notifications", counts.notifications);
    assert!(mark >= 1);
}

#[tokio::test]
async fn opening_a_gate_wakes_the_worker() {
    let shop = Shop::open().await;
    shop.set("queue.worker.enabled", "false").await;
    let id = shop.enqueue("job").await;
    let worker = Shop::launch(&shop.settings(), free());
    wait_until("the worker is registered", SOON, async || {
        let known = "select exists (select from queue_heartbeat where executor_name = 'worker-1')";
        shop.client.query_one(known, &[]).await.unwrap().get(0)
    })
    .await;
    assert_eq!(shop.job(id).await["status"], "queued");
    shop.set("queue.worker.enabled", "true").await;
    shop.wait_for_status(id, "succeeded").await;
    worker.stop().await;
}

#[tokio::test]
async fn two_workers_share_the_work_and_no_job_runs_twice() {
    let shop = Shop::open().await;
    let held = Held::new(1_000_000);
    let mut workers = Vec::new();
    for name in ["worker-1", "worker-2"] {
        let mut settings = shop.settings();
        settings.worker.executor_name = name.to_owned();
        workers.push(shop.start(&settings, Handlers::new().on("job", held.clone())).await);
    }
    for _ in 0..10 {
        let fifty = "select fn_job_enqueue('job', 'test') from generate_series(1, 50)";
        shop.client.batch_execute(fifty).await.unwrap();
    }
    wait_until("all have run", SOON, async || shop.count("succeeded").await == 500).await;
    assert_eq!(held.begun_unseen(), 500);
    for worker in workers {
        worker.stop().await;
    }
}
