//! Beside live dispatch, and beside another runner: each job once.

use std::cell::Cell;

use serde_json::json;

use super::stage::Stage;
use crate::support::{SOON, emit, wait_until};

#[tokio::test]
async fn beside_live_dispatch_each_event_gets_its_job_exactly_once() {
    let stage = Stage::new(400, json!({"starts_at": "-infinity"})).await;
    // older than now for the backfill, and new for the passes, which would make them too
    let live = stage.db().client().await;
    let first = stage.begin("backfill", ", p_batch => 20").await;
    let (produced, steps) = (Cell::new(false), Cell::new(0));
    let producing = async {
        while steps.get() < 30 {
            let old = "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, created_at)
                select 'iu', 'happened', 'update', 'immediate', clock_timestamp() - interval '50 minutes' from generate_series(1, 5)";
            live.batch_execute(old).await.unwrap();
            emit(&live, "iu", 3).await;
            live.batch_execute("select fn_consumer_dispatch_batch('iu', 30)").await.unwrap();
        }
        produced.set(true);
    };
    let running = async {
        while !produced.get() {
            stage.step(&first, ", 20").await;
            stage.run("select fn_event_sweep(p_margin => interval '0'), fn_dispatch_audit_pass()").await;
            steps.set(steps.get() + 1);
        }
    };
    tokio::join!(running, producing);
    wait_until("the run ends", SOON, async || {
        stage.closed().await;
        let run = stage.step(&first, "").await;
        stage.finish(run).await["status"] == "finished"
    })
    .await;
    assert_eq!(stage.real("backfill", "").await["made"], json!(0), "nothing was left out");
    stage.outbox.assert_exactly_once().await;
    assert_eq!(
        stage.jobs().await,
        stage.count("select count(*) from event_outbox where event_domain = 'iu'").await
    );
}

#[tokio::test]
async fn two_runners_of_one_run_make_each_job_once_and_count_it_once() {
    let stage = Stage::new(500, json!({})).await;
    let first = stage.begin("backfill", ", p_batch => 10").await;
    let other = stage.db().client().await;
    let step = format!("select fn_consumer_backfill_step('{}', 10)", first["backfill_id"].as_str().unwrap());
    let runner = async |client: &tokio_postgres::Client| {
        let mut busy = 0;
        loop {
            let run: serde_json::Value = client.query_one(&step, &[]).await.unwrap().get(0);
            busy += i32::from(run["busy"] == true);
            if run["status"] != "running" {
                return (run, busy);
            }
        }
    };
    let ((run, _), _) = tokio::join!(runner(&stage.outbox.client), runner(&other));
    assert_eq!(
        (&run["status"], &run["made"], &run["present"]),
        (&json!("finished"), &json!(500), &json!(0)),
        "{run}"
    );
    assert_eq!(stage.jobs().await, 500);
}

#[tokio::test]
async fn two_backfills_of_one_consumer_at_once_share_the_work() {
    let stage = Stage::new(300, json!({})).await;
    let other = stage.db().client().await;
    let first = stage.begin("backfill", ", p_batch => 10").await;
    let second = stage.begin("backfill", ", p_batch => 10").await;
    let step = format!("select fn_consumer_backfill_step('{}', 10)", second["backfill_id"].as_str().unwrap());
    let beside = async {
        loop {
            let run: serde_json::Value = other.query_one(&step, &[]).await.unwrap().get(0);
            if run["status"] != "running" {
                return run;
            }
        }
    };
    let (one, two) = tokio::join!(stage.finish(first), beside);
    let made = |run: &serde_json::Value| run["made"].as_i64().unwrap();
    assert_eq!((made(&one) + made(&two), stage.jobs().await), (300, 300), "{one} {two}");
    assert_eq!((&one["expected"], &two["expected"]), (&json!(300), &json!(300)));
}
