//! Jobs that are Rust handlers.

use std::time::Duration;

use reveille::model::job::Job;
use reveille::work::{Handler, Handlers, JobContext, Outcome};

use super::shop::{Held, Shop};
use crate::support::{SOON, wait_until};

/// Does what the job's `source_ref` says.
struct Obedient;

impl Handler for Obedient {
    async fn run(&self, job: &Job, context: &JobContext) -> Outcome {
        match job.source_ref.as_deref() {
            Some("transient") => Outcome::Transient("not now\0".to_owned()),
            Some("permanent") => Outcome::Permanent("never".to_owned()),
            Some("panic") => panic!("all is lost"),
            Some("for ever") => std::future::pending().await,
            Some("until asked") => {
                context.stopped().await;
                Outcome::Transient("as you like".to_owned())
            }
            _ => Outcome::Succeeded { result_ref: job.source_ref.clone() },
        }
    }
}

async fn told(shop: &Shop, word: &str) -> uuid::Uuid {
    let answer = shop.value("select fn_job_enqueue('told', 'test', p_source_ref => $1)", &[&word]).await;
    answer["job_id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn each_outcome_is_reported_as_it_is() {
    let shop = Shop::open().await;
    let worker = shop.start(&shop.settings(), Handlers::new().on("told", Obedient)).await;
    for (word, status, error) in [
        ("good:1", "succeeded", None),
        ("transient", "retry_waiting", Some("not now\u{fffd}")),
        ("permanent", "dead_letter", Some("never")),
        ("panic", "retry_waiting", Some("the handler panicked: all is lost")),
        ("good:ünï\"'", "succeeded", None),
    ] {
        let id = told(&shop, word).await;
        let job = shop.wait_for_status(id, status).await;
        assert_eq!(job["last_error"].as_str(), error, "{word}");
        if status == "succeeded" {
            assert_eq!(job["result_ref"], word);
        }
    }
    let counts = worker.stop().await;
    assert_eq!((counts.succeeded, counts.failed_transient, counts.failed_permanent), (2, 2, 1));
    assert_eq!(counts.panics, 1);
}

#[tokio::test]
async fn a_run_over_the_time_limit_is_ended_whether_it_listens_or_not() {
    let shop = Shop::open().await;
    let mut settings = shop.settings();
    settings.worker.time_limit = Duration::from_millis(100);
    let worker = shop.start(&settings, Handlers::new().on("told", Obedient)).await;
    for word in ["until asked", "for ever"] {
        let id = told(&shop, word).await;
        let job = shop.wait_for_status(id, "retry_waiting").await;
        assert_eq!(job["last_error"], "time limit of 100ms is over", "{word}");
    }
    assert_eq!(worker.stop().await.time_limits, 2);
}

#[tokio::test]
async fn successes_are_reported_in_batches() {
    let shop = Shop::open().await;
    let many = "select fn_job_enqueue('told', 'test') from generate_series(1, 2000)";
    shop.client.batch_execute(many).await.unwrap();
    let mut settings = shop.settings();
    (settings.worker.concurrency, settings.worker.prefetch) = (50, 200);
    let worker = shop.start(&settings, Handlers::new().on("told", Obedient)).await;
    wait_until("all are done", SOON, async || shop.count("succeeded").await == 2000).await;
    let statements = "select count(distinct xmin::text) from job_queue";
    let transactions: i64 = shop.client.query_one(statements, &[]).await.unwrap().get(0);
    let counts = worker.stop().await;
    assert!(transactions <= 200, "{transactions} transactions for 2000 completions");
    assert!(counts.claims <= 200, "{} claims for 2000 jobs", counts.claims);
}

#[tokio::test]
async fn with_the_defaults_short_jobs_are_claimed_in_large_batches() {
    let shop = Shop::open().await;
    let many = "select fn_job_enqueue('told', 'test') from generate_series(1, 5000)";
    shop.client.batch_execute(many).await.unwrap();
    let worker = shop.start(&shop.settings(), Handlers::new().on("told", Obedient)).await;
    wait_until("all are done", SOON, async || shop.count("succeeded").await == 5000).await;
    let counts = worker.stop().await;
    assert!(counts.claims <= 50, "{} claims for 5000 jobs", counts.claims);
}

#[tokio::test]
async fn a_slow_job_does_not_hold_others_back_that_somebody_else_could_run() {
    let shop = Shop::open().await;
    let mut settings = shop.settings();
    (settings.worker.concurrency, settings.worker.prefetch) = (1, 10);
    let slow = Held::new(5);
    let first = shop.start(&settings, Handlers::new().on("held", slow.clone())).await;
    for _ in 0..20 {
        shop.enqueue("held").await;
    }
    for _ in 0..6 {
        slow.begun().await; // the sixth does not end
    }
    wait_until("what waits behind it is given back", SOON, async || {
        first.stats.counts().waiting == 0 && shop.count("queued").await == 14
    })
    .await;
    settings.worker.executor_name = "worker-2".to_owned();
    let second = shop.start(&settings, Handlers::new().on("held", Held::new(100))).await;
    wait_until("the other runs them", SOON, async || shop.count("succeeded").await == 19).await;
    slow.let_go();
    first.stop().await;
    second.stop().await;
    assert_eq!(shop.count("succeeded").await, 20);
}
