//! Workers at rest are told by name. The timer is an hour everywhere, so what is claimed was told.

use futures::future::join_all;
use reveille::work::Handlers;
use serde_json::{Value, json};

use super::shop::{Held, Running, Shop};
use crate::support::{SOON, wait_until};

/// Workers `worker-1`, `worker-2`, … that run one job at a time, all at rest.
pub(super) async fn at_rest(shop: &Shop, handlers: &[Handlers]) -> Vec<Running> {
    at_rest_with_hands(shop, 1, handlers).await
}

/// The same, of more jobs at a time.
pub(super) async fn at_rest_with_hands(shop: &Shop, hands: usize, handlers: &[Handlers]) -> Vec<Running> {
    let mut workers = Vec::new();
    for (handlers, number) in handlers.iter().zip(1..) {
        let mut settings = shop.settings();
        settings.worker.executor_name = format!("worker-{number}");
        settings.worker.concurrency = hands;
        workers.push(shop.start(&settings, handlers.clone()).await);
    }
    for (worker, number) in workers.iter().zip(1..) {
        rests(shop, number).await;
        // the first look, and the one after LISTEN
        wait_until("it has looked twice", SOON, async || worker.stats.counts().claims >= 2).await;
    }
    workers
}

pub(super) async fn rests(shop: &Shop, number: usize) {
    let name = format!("worker-{number}");
    wait_until("it rests", SOON, async || is_at_rest(shop, &name).await).await;
}

pub(super) async fn is_at_rest(shop: &Shop, name: &str) -> bool {
    shop.client.query_one("select fn_executor_is_at_rest($1)", &[&name]).await.unwrap().get(0)
}

pub(super) fn claims(workers: &[Running]) -> u64 {
    workers.iter().map(|worker| worker.stats.counts().claims).sum()
}

pub(super) async fn stop(workers: Vec<Running>) {
    for worker in workers {
        worker.stop().await;
    }
}

pub(super) fn notifications(workers: &[Running]) -> u64 {
    workers.iter().map(|worker| worker.stats.counts().notifications).sum()
}

pub(super) async fn resting(shop: &Shop, workers: usize) -> usize {
    let mut resting = 0;
    for number in 1..=workers {
        resting += usize::from(is_at_rest(shop, &format!("worker-{number}")).await);
    }
    resting
}

#[tokio::test]
async fn one_job_wakes_one_of_many_workers() {
    let shop = Shop::open().await;
    let held = Held::new(0);
    let workers = at_rest(&shop, &vec![Handlers::new().on("job", held.clone()); 6]).await;
    for _ in 0..4 {
        let (before, told) = (claims(&workers), notifications(&workers));
        let id = shop.enqueue("job").await;
        held.begun().await;
        wait_until("who runs it rests no more", SOON, async || resting(&shop, 6).await == 5).await;
        assert_eq!(claims(&workers) - before, 1, "nobody else has claimed");
        assert_eq!(notifications(&workers) - told, 1, "nobody else was told");
        held.let_go();
        shop.wait_for_status(id, "succeeded").await;
        wait_until("all rest", SOON, async || resting(&shop, 6).await == 6).await;
        assert_eq!(claims(&workers) - before, 1, "nothing more was to be expected, so nobody looked again");
    }
    stop(workers).await;
}

#[tokio::test]
async fn as_many_begin_as_there_are_jobs_and_hands() {
    for (jobs, begin) in [(2, 2), (3, 3), (10, 4), (100, 4)] {
        let shop = Shop::open().await;
        let held = Held::new(0);
        let workers = at_rest(&shop, &vec![Handlers::new().on("job", held.clone()); 4]).await;
        let batch: Vec<Value> = (0..jobs).map(|_| json!({ "job_kind": "job", "actor": "test" })).collect();
        shop.value("select fn_job_enqueue_many($1)", &[&Value::from(batch)]).await;
        for _ in 0..begin {
            held.begun().await;
        }
        for _ in 0..jobs {
            held.let_go();
        }
        wait_until("all have run", SOON, async || shop.count("succeeded").await == jobs).await;
        stop(workers).await;
    }
}

#[tokio::test]
async fn jobs_of_one_transaction_that_were_enqueued_one_by_one_all_begin() {
    let shop = Shop::open().await;
    let held = Held::new(0);
    let workers = at_rest(&shop, &vec![Handlers::new().on("job", held.clone()); 4]).await;
    let four = "begin; select fn_job_enqueue('job', 'test') from generate_series(1, 4); commit";
    shop.client.batch_execute(four).await.unwrap();
    for _ in 0..4 {
        held.begun().await;
    }
    for _ in 0..4 {
        held.let_go();
    }
    wait_until("all have run", SOON, async || shop.count("succeeded").await == 4).await;
    stop(workers).await;
}

#[tokio::test]
async fn each_kind_wakes_a_worker_that_takes_it() {
    let shop = Shop::open().await;
    let kinds = ["one", "two"].map(|kind| Handlers::new().on(kind, Held::new(1_000)));
    let workers = at_rest(&shop, &kinds).await;
    let before = claims(&workers[..1]);
    for _ in 0..10 {
        let id = shop.enqueue("two").await;
        shop.wait_for_status(id, "succeeded").await;
        rests(&shop, 2).await;
    }
    assert_eq!(claims(&workers[..1]), before, "worker-1 takes `one` only and slept on");
    stop(workers).await;
}

#[tokio::test]
async fn rest_ends_with_the_session_that_said_so() {
    let shop = Shop::open().await;
    let session = shop.db.client().await;
    let rest = "select pg_backend_pid() from fn_executor_rest('worker-1', true) rests where rests";
    let pid: i32 = session.query_one(rest, &[]).await.unwrap().get(0);
    assert!(is_at_rest(&shop, "worker-1").await);
    shop.client.execute("select pg_terminate_backend($1, 5000)", &[&pid]).await.unwrap();
    assert!(!is_at_rest(&shop, "worker-1").await);
}

#[tokio::test]
async fn a_producer_at_any_isolation_level_wakes_one() {
    let shop = Shop::open().await;
    let workers = at_rest(&shop, &vec![Handlers::new().on("job", Held::new(1_000)); 2]).await;
    for (level, done) in ["read committed", "repeatable read", "serializable"].into_iter().zip(1..) {
        let told = notifications(&workers);
        let enqueue = format!("begin isolation level {level}; select fn_job_enqueue('job', 'test'); commit");
        shop.client.batch_execute(&enqueue).await.unwrap();
        wait_until("it has run", SOON, async || shop.count("succeeded").await == done).await;
        for number in [1, 2] {
            rests(&shop, number).await;
        }
        assert_eq!(notifications(&workers) - told, 1, "{level}");
    }
    stop(workers).await;
}

#[tokio::test]
async fn a_job_for_later_wakes_nobody() {
    let shop = Shop::open().await;
    let workers = at_rest(&shop, &[Handlers::new().on("job", Held::new(1_000))]).await;
    let later = "select fn_job_enqueue('job', 'test', p_scheduled_at => now() + interval '1 hour')";
    shop.client.execute(later, &[]).await.unwrap();
    let id = shop.enqueue("job").await;
    shop.wait_for_status(id, "succeeded").await;
    assert_eq!(notifications(&workers), 1);
    stop(workers).await;
}

#[tokio::test]
async fn who_is_silent_is_not_named() {
    let shop = Shop::open().await;
    let workers = at_rest(&shop, &vec![Handlers::new().on("job", Held::new(1_000)); 2]).await;
    let silent = "update queue_heartbeat set last_beat_at = last_beat_at - interval '1 day' where executor_name = 'worker-1'";
    shop.client.execute(silent, &[]).await.unwrap();
    for _ in 0..5 {
        let id = shop.enqueue("job").await;
        shop.wait_for_status(id, "succeeded").await;
        rests(&shop, 2).await;
    }
    assert_eq!(workers[0].stats.counts().notifications, 0);
    stop(workers).await;
}

#[tokio::test]
async fn a_batch_for_later_wakes_nobody() {
    let shop = Shop::open().await;
    let workers = at_rest(&shop, &vec![Handlers::new().on("job", Held::new(1_000)); 3]).await;
    let job = json!({ "job_kind": "job", "actor": "test", "scheduled_at": "2100-01-01T00:00:00Z" });
    let now = json!({ "job_kind": "job", "actor": "test" });
    shop.value("select fn_job_enqueue_many($1)", &[&json!([job, job, now, job])]).await;
    wait_until("one has run", SOON, async || shop.count("succeeded").await == 1).await;
    wait_until("all rest", SOON, async || resting(&shop, 3).await == 3).await;
    assert_eq!(notifications(&workers), 1);
    stop(workers).await;
}

#[tokio::test]
async fn a_prepared_transaction_makes_a_job_beside_workers_at_rest() {
    let shop = Shop::open().await;
    let workers = at_rest(&shop, &[Handlers::new().on("job", Held::new(1_000))]).await;
    let name = shop.db.name();
    let prepare = format!(
        "begin; set local reveille.notify = off; select fn_job_enqueue('job', 'test'); prepare transaction '{name}'"
    );
    shop.client.batch_execute(&prepare).await.unwrap();
    shop.client.execute(&format!("commit prepared '{name}'"), &[]).await.unwrap();
    shop.client.execute("select fn_wake('job_wake_pg_worker')", &[]).await.unwrap();
    wait_until("it has run", SOON, async || shop.count("succeeded").await == 1).await;
    stop(workers).await;
}

/// Such a session looks as if its worker rested, busy or not.
#[tokio::test]
async fn a_session_that_a_dead_link_left_behind_is_ended_by_its_successor() {
    let shop = Shop::open().await;
    let left_behind = shop.db.client().await;
    let rest = "select fn_executor_rest('worker-1', true)";
    assert!(left_behind.query_one(rest, &[]).await.unwrap().get::<_, bool>(0));
    assert!(is_at_rest(&shop, "worker-1").await);
    let held = Held::new(0);
    let workers = at_rest(&shop, &vec![Handlers::new().on("job", held.clone()); 2]).await;
    wait_until("it is ended", SOON, async || left_behind.query_one("select 1", &[]).await.is_err()).await;
    wait_until("worker-1 rests by itself", SOON, async || is_at_rest(&shop, "worker-1").await).await;
    for _ in 0..2 {
        shop.enqueue("job").await;
        held.begun().await;
    }
    wait_until("nobody rests", SOON, async || resting(&shop, 2).await == 0).await;
    held.let_go();
    held.let_go();
    wait_until("both have run", SOON, async || shop.count("succeeded").await == 2).await;
    stop(workers).await;
}

#[tokio::test]
async fn many_who_ask_at_once_take_nobody_for_one_at_rest() {
    let shop = Shop::open().await;
    let ask = "select count(*) filter (where fn_executor_is_at_rest('nobody')) from generate_series(1, 2000)";
    let mut asking = Vec::new();
    for _ in 0..4 {
        let client = shop.db.client().await;
        asking.push(async move { client.query_one(ask, &[]).await.unwrap().get::<_, i64>(0) });
    }
    assert_eq!(join_all(asking).await, [0; 4]);
}
