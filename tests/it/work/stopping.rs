//! Two steps: first take nothing new and let running work end, then cut. Nothing is left behind.

use std::time::{Duration, Instant};

use reveille::work::Handlers;

use super::shop::{Held, Shop};
use crate::support::{Program, SOON, wait_until};

#[tokio::test]
async fn a_soft_stop_gives_back_what_was_not_started_and_lets_running_work_end() {
    let shop = Shop::open().await;
    for _ in 0..20 {
        shop.enqueue("held").await;
    }
    let mut settings = shop.settings();
    (settings.worker.concurrency, settings.worker.prefetch) = (1, 10);
    let held = Held::new(3);
    let worker = shop.start(&settings, Handlers::new().on("held", held.clone())).await;
    wait_until("a job waits behind one that runs", SOON, async || {
        let counts = worker.stats.counts();
        counts.running == 1 && counts.waiting > 0
    })
    .await;
    worker.shutdown.request();
    wait_until("only the running one is leased", SOON, async || {
        shop.count("leased").await + shop.count("in_progress").await == 1
    })
    .await;
    held.let_go();
    let counts = worker.end().await.unwrap();
    assert_eq!((counts.succeeded, shop.count("succeeded").await, shop.count("queued").await), (4, 4, 16));
    let untouched =
        "select count(*) from job_queue where status = 'queued' and attempts = 0 and lease_owner is null";
    let untouched: i64 = shop.client.query_one(untouched, &[]).await.unwrap().get(0);
    assert_eq!(untouched, 16);
}

#[tokio::test]
async fn what_does_not_end_before_the_deadline_is_given_back_unspent_and_undone() {
    let shop = Shop::open().await;
    let body = "insert into effect values (null, 'x'); perform pg_sleep(60); return '{}';";
    shop.handler("sleep", body).await;
    let mut settings = shop.settings();
    settings.shutdown.deadline = Duration::from_millis(100);
    let held = Held::new(0);
    let handlers = Handlers::new().with_sql().on("held", held.clone());
    let worker = shop.start(&settings, handlers).await;
    let jobs = [shop.enqueue("held").await, shop.enqueue("sleep").await];
    held.begun().await;
    shop.wait_for_status(jobs[1], "in_progress").await;
    assert_eq!(worker.stop().await.released, 2);
    for id in jobs {
        let job = shop.job(id).await;
        assert_eq!((&job["status"], &job["attempts"]), (&"queued".into(), &0.into()));
    }
    assert_eq!(shop.effects().await, 0);
}

#[tokio::test]
async fn a_hard_stop_ends_at_once_and_still_gives_back() {
    let shop = Shop::open().await;
    let held = Held::new(0);
    let worker = shop.start(&shop.settings(), Handlers::new().on("held", held.clone())).await;
    let id = shop.enqueue("held").await;
    held.begun().await;
    let begun = Instant::now();
    worker.shutdown.cut();
    worker.end().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(shop.job(id).await["status"], "queued");
}

#[tokio::test]
async fn a_hard_stop_gives_back_also_to_a_database_that_is_busy() {
    let shop = Shop::open().await;
    let slow = "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(1); return new; end $$;
        create trigger slow before insert on job_attempt for each row execute function slow()";
    shop.client.batch_execute(slow).await.unwrap();
    let held = Held::new(0);
    let worker = shop.start(&shop.settings(), Handlers::new().on("held", held.clone())).await;
    let id = shop.enqueue("held").await;
    held.begun().await;
    worker.shutdown.cut();
    worker.end().await.unwrap();
    assert_eq!(shop.job(id).await["status"], "queued");
}

#[tokio::test]
async fn a_name_made_up_for_one_process_is_forgotten_with_it_and_a_given_one_is_not() {
    let shop = Shop::open().await;
    let names = async || {
        let names = "select string_agg(executor_name, ' ') from queue_heartbeat";
        shop.client.query_one(names, &[]).await.unwrap().get::<_, Option<String>>(0)
    };
    let mut settings = shop.settings();
    settings.worker.executor_name.clear();
    let worker = shop.start(&settings, Handlers::new().on("held", Held::new(1))).await;
    let name = names().await.unwrap();
    assert!(name.contains("-PG_worker-"), "{name}");
    worker.stop().await;
    assert_eq!(names().await, None);
    shop.start(&shop.settings(), Handlers::new().on("held", Held::new(1))).await.stop().await;
    assert_eq!(names().await.as_deref(), Some("worker-1"));
}

#[tokio::test]
async fn the_program_runs_jobs_until_ctrl_c_and_exits_0() {
    let shop = Shop::open().await;
    shop.handler("greet", "return '{}';").await;
    let mut program = Program::start(&shop.db.url(), &["work", "--executor-name", "terminal"], &[]);
    program.says(&["terminal is working"]).await;
    let id = shop.enqueue("greet").await;
    program.says(&["greet succeeded in", " ms", &id.to_string()]).await;
    program.signal("INT");
    let ended = program.ends().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("succeeded"), "{ended:?}");
}
