//! A worker that is paused, or not subscribed: told once, nothing lost, and on it goes at once.

use reveille::work::Handlers;

use super::shop::{Held, NEVER, Shop};
use crate::support::{Program, SOON, wait_until};

async fn claims_of(shop: &Shop) -> i64 {
    let calls = "select xact_commit from pg_stat_database where datname = current_database()";
    shop.client.query_one(calls, &[]).await.unwrap().get(0)
}

async fn worker(shop: &Shop, poll: &str) -> Program {
    shop.handler("job", "insert into effect values ((p_job ->> 'job_id')::uuid); return '{}'::jsonb;").await;
    let settings = [("REVEILLE__WORKER__POLL_INTERVAL", poll)];
    let arguments = ["work", "--executor-name", "worker-1"];
    let worker = Program::start(&shop.db.url(), &arguments, &settings);
    worker.has_said("listening").await;
    worker
}

#[tokio::test]
async fn a_paused_worker_says_so_once_loses_nothing_and_goes_on_at_resume() {
    let shop = Shop::open().await;
    let mut worker = worker(&shop, "50ms").await;
    for (scope, name) in [("all", ""), ("executor", "worker-1"), ("executor", "PG_worker")] {
        shop.value("select fn_pause($1, $2, 'test', 'test')", &[&scope, &name]).await;
        let line = worker.says(&["WARN", "not claiming: paused"]).await;
        assert!(line.contains("`reveille resume` ends it"), "{line}");
        let id = shop.enqueue("job").await;
        let before = claims_of(&shop).await;
        wait_until("it has asked several times", SOON, async || claims_of(&shop).await > before + 10).await;
        assert_eq!(shop.job(id).await["status"], "queued");
        shop.value("select fn_resume($1, $2, 'test', 'test')", &[&scope, &name]).await;
        worker.says(&["INFO", "claiming again, no longer refused: paused"]).await;
        shop.wait_for_status(id, "succeeded").await;
    }
    assert_eq!(worker.lines_with("WARN").len(), 3, "{:?}", worker.lines_with("WARN"));
    assert_eq!(shop.effects().await, 3);
    worker.stops().await;
}

#[tokio::test]
async fn resume_wakes_a_worker_whose_poll_is_far_away() {
    let shop = Shop::open().await;
    let settings = shop.settings();
    assert_eq!(settings.worker.poll_interval, NEVER);
    let worker = shop.start(&settings, Handlers::new().on("job", Held::new(1000))).await;
    for (scope, name) in [("all", ""), ("executor", "worker-1"), ("job_kind", "job")] {
        shop.value("select fn_pause($1, $2, 'test', 'test')", &[&scope, &name]).await;
        let id = shop.enqueue("job").await;
        let before = claims_of(&shop).await;
        shop.value("select fn_job_enqueue('other', 'test')", &[]).await; // wakes it in vain
        wait_until("it has looked", SOON, async || claims_of(&shop).await > before + 2).await;
        assert_eq!(shop.job(id).await["status"], "queued", "{scope}");
        shop.value("select fn_resume($1, $2, 'test', 'test')", &[&scope, &name]).await;
        shop.wait_for_status(id, "succeeded").await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn what_runs_while_a_pause_begins_is_finished() {
    let shop = Shop::open().await;
    let held = Held::new(0);
    let worker = shop.start(&shop.settings(), Handlers::new().on("job", held.clone())).await;
    let id = shop.enqueue("job").await;
    held.begun().await;
    shop.value("select fn_pause('all', null, 'test', 'test')", &[]).await;
    held.let_go();
    shop.wait_for_status(id, "succeeded").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_outside_of_its_subscriptions_says_so_once_and_begins_when_it_is_subscribed() {
    let shop = Shop::open().await;
    shop.value("select fn_subscription_set('worker-1', 'test', 'mail.*')", &[]).await;
    let id = shop.enqueue("job").await;
    let mut worker = worker(&shop, "50ms").await;
    let line = worker.says(&["WARN", "not claiming: not_subscribed"]).await;
    assert!(line.contains("`reveille executors subscribe` adds to it"), "{line}");
    let before = claims_of(&shop).await;
    wait_until("it has asked several times", SOON, async || claims_of(&shop).await > before + 10).await;
    assert_eq!(worker.lines_with("WARN").len(), 1, "{:?}", worker.lines_with("WARN"));
    shop.value("select fn_subscription_set('worker-1', 'test', 'job')", &[]).await;
    worker.says(&["INFO", "claiming again, no longer refused: not_subscribed"]).await;
    shop.wait_for_status(id, "succeeded").await;
    worker.stops().await;
}

#[tokio::test]
async fn work_once_is_refused_while_everything_is_paused() {
    let shop = Shop::open().await;
    shop.value("select fn_pause('all', null, 'test', 'test')", &[]).await;
    assert_eq!(shop.run_once().await.unwrap_err().reason, "paused");
}
