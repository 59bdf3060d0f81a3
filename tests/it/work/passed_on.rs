//! Who is named and cannot take it passes it on; and what nobody else takes is passed on to nobody.

use reveille::work::Handlers;

use super::named::{at_rest, at_rest_with_hands, notifications, resting, stop};
use super::shop::{Held, Shop};
use crate::support::{SOON, wait_until};

/// Enqueues without telling anybody.
async fn enqueue_silently(shop: &Shop, kind: &str) {
    let enqueue = format!(
        "set reveille.notify = off; select fn_job_enqueue('{kind}', 'test'); set reveille.notify = on"
    );
    shop.client.batch_execute(&enqueue).await.unwrap();
}

/// Enqueues, and tells one by name.
async fn tell(shop: &Shop, kind: &str, name: &str) {
    enqueue_silently(shop, kind).await;
    shop.client.execute("select fn_wake('job_wake_pg_worker', $1)", &[&name]).await.unwrap();
}

#[tokio::test]
async fn who_is_named_while_busy_passes_it_on() {
    let shop = Shop::open().await;
    let held = Held::new(0);
    let workers = at_rest(&shop, &vec![Handlers::new().on("job", held.clone()); 2]).await;
    tell(&shop, "job", "worker-1").await;
    held.begun().await;
    tell(&shop, "job", "worker-1").await;
    held.begun().await; // by worker-2: the first one still runs
    assert_eq!(shop.count("succeeded").await, 0);
    held.let_go();
    held.let_go();
    wait_until("both have run", SOON, async || shop.count("succeeded").await == 2).await;
    stop(workers).await;
}

#[tokio::test]
async fn who_is_named_and_finds_something_else_tells_the_others() {
    let shop = Shop::open().await;
    let kinds = ["one", "two"].map(|kind| Handlers::new().on(kind, Held::new(1_000)));
    let workers = at_rest_with_hands(&shop, 2, &kinds).await;
    enqueue_silently(&shop, "two").await;
    tell(&shop, "one", "worker-1").await;
    wait_until("both have run", SOON, async || shop.count("succeeded").await == 2).await;
    stop(workers).await;
}

#[tokio::test]
async fn who_is_named_and_may_not_take_it_tells_the_others() {
    let shop = Shop::open().await;
    let workers =
        at_rest(&shop, &vec![Handlers::new().on("job", Held::new(1_000)).on("own", Held::new(1_000)); 2])
            .await;
    shop.value("select fn_subscription_set('worker-1', 'test', p_job_kind => 'own')", &[]).await;
    tell(&shop, "job", "worker-1").await;
    wait_until("worker-2 has run it", SOON, async || shop.count("succeeded").await == 1).await;
    assert_eq!(workers[0].stats.counts().claimed, 0);
    stop(workers).await;
}

/// Of two names that come at once it hears one, and what it finds need not be what it was named for.
#[tokio::test]
async fn who_is_paused_passes_on_what_he_is_named_in() {
    let shop = Shop::open().await;
    let workers = at_rest(&shop, &vec![Handlers::new().on("job", Held::new(1_000)); 2]).await;
    shop.value("select fn_pause('executor', 'worker-1', 'test', 'test')", &[]).await;
    tell(&shop, "job", "worker-1").await;
    wait_until("worker-2 has run it", SOON, async || shop.count("succeeded").await == 1).await;
    assert_eq!(workers[0].stats.counts().claimed, 0);
    stop(workers).await;
}

#[tokio::test]
async fn a_backlog_that_nobody_takes_wakes_nobody() {
    let shop = Shop::open().await;
    shop.enqueue("foreign").await;
    let held = Held::new(0);
    let workers = at_rest(&shop, &vec![Handlers::new().on("job", held.clone()); 4]).await;
    let before = notifications(&workers);
    for _ in 0..3 {
        let id = shop.enqueue("job").await;
        held.begun().await;
        held.let_go();
        shop.wait_for_status(id, "succeeded").await;
        wait_until("all rest", SOON, async || resting(&shop, 4).await == 4).await;
    }
    assert_eq!(notifications(&workers) - before, 3);
    stop(workers).await;
}

#[tokio::test]
async fn a_worker_that_stops_passes_on_what_it_is_named_in() {
    let shop = Shop::open().await;
    let held = Held::new(1_000);
    let mut workers = at_rest(&shop, &vec![Handlers::new().on("job", held.clone()); 2]).await;
    // nobody is told, as when the name came too late
    let enqueue = "set reveille.notify = off; select fn_job_enqueue('job', 'test'); set reveille.notify = on";
    shop.client.batch_execute(enqueue).await.unwrap();
    workers.remove(0).stop().await;
    wait_until("worker-2 has run it", SOON, async || shop.count("succeeded").await == 1).await;
    stop(workers).await;
}
