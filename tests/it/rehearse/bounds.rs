//! Time, count and rate; and that nothing is read which may still be on its way.

use serde_json::json;

use super::stage::Stage;
use crate::support::{SOON, emit, wait_until};

#[tokio::test]
async fn a_rate_is_held_by_the_row_whoever_runs() {
    let stage = Stage::new(200, json!({})).await;
    let now = |seconds: &str| format!(", p_now => '2030-01-01T00:00:{seconds}Z'");
    let first = stage.begin("backfill", &format!(", p_rate => 10{}", now("00"))).await;
    assert_eq!(first["made"], json!(10), "a second's worth");
    for (at, made, wait) in
        [("00", 10, Some(1.0)), ("00.9", 10, Some(0.1)), ("01", 20, None), ("01", 20, Some(1.0))]
    {
        let run = stage.step(&first, &now(at)).await;
        assert_eq!((&run["made"], run["wait_seconds"].as_f64()), (&json!(made), wait), "at {at}: {run}");
    }
    // another runner, on a connection of its own, and one that was away for long: no more than a second's worth
    let other = stage.db().client().await;
    let step = format!(
        "select fn_consumer_backfill_step({}{})",
        first["backfill_id"].to_string().replace('"', "'"),
        now("59")
    );
    for made in [30, 30] {
        let run: serde_json::Value = other.query_one(&step, &[]).await.unwrap().get(0);
        assert_eq!(run["made"], json!(made), "{run}");
    }
}

#[tokio::test]
async fn a_slow_rate_makes_one_job_and_waits_for_as_long_as_it_says() {
    let stage = Stage::new(5, json!({})).await;
    let first = stage.begin("backfill", ", p_rate => 0.1, p_now => '2030-01-01T00:00:00Z'").await;
    assert_eq!(first["made"], json!(1));
    let run = stage.step(&first, ", p_now => '2030-01-01T00:00:01Z'").await;
    assert_eq!((&run["made"], run["wait_seconds"].as_f64()), (&json!(1), Some(9.0)), "{run}");
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_hold_up_a_rate() {
    let stage = Stage::new(5, json!({})).await;
    let first = stage.begin("backfill", ", p_rate => 1").await;
    stage
        .run("update consumer_backfill set updated_at = updated_at + interval '1 hour', next_at = next_at + interval '1 hour'")
        .await;
    let run = stage.step(&first, "").await;
    assert_eq!((&run["made"], run.get("wait_seconds")), (&json!(2), None), "{run}");
    let run = stage.step(&run, "").await;
    assert!(run["made"] == 2 && run["wait_seconds"].as_f64().unwrap() <= 1.0, "{run}");
}

#[tokio::test]
async fn only_events_of_the_window_are_made() {
    let stage = Stage::new(10, json!({})).await;
    let window = "select min(created_at) + interval '0.2 seconds', min(created_at) + interval '0.5 seconds' from event_outbox";
    let window = stage.outbox.client.query_one(window, &[]).await.unwrap();
    let (since, until): (jiff::Timestamp, jiff::Timestamp) = (window.get(0), window.get(1));
    let call = format!("fn_consumer_backfill('k', '{since}', '{until}', p_dry_run => false)");
    let first = stage.outbox.answer(&call).await;
    let run = stage.finish(first).await;
    assert_eq!((&run["events"], &run["made"], &run["status"]), (&json!(3), &json!(3), &json!("finished")));
    let wrong = format!("select fn_consumer_backfill('k', '{until}', '{since}')");
    let error = stage.outbox.client.batch_execute(&wrong).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "22023");
}

#[tokio::test]
async fn an_event_that_may_still_be_on_its_way_is_waited_for_and_then_made() {
    let stage = Stage::new(3, json!({"enabled": false})).await;
    let late = stage.db().client().await;
    late.batch_execute("begin").await.unwrap();
    emit(&late, "iu", 2).await; // begun before the run, committed later
    stage.outbox.emit(1).await;
    stage.outbox.answer("fn_event_sweep(p_margin => interval '0')").await;
    stage.outbox.drain(100).await;
    stage.run("select fn_consumer_set_enabled('k', true, 'test', 'test')").await;
    let first = stage.outbox.answer("fn_consumer_backfill('k', p_dry_run => false)").await;
    let run = stage.finish(first).await;
    assert_eq!((&run["status"], &run["waiting"]), (&json!("running"), &json!("not_closed")), "{run}");
    assert_eq!(run["made"], json!(3), "what came beside the open transaction is not closed either");
    late.batch_execute("commit").await.unwrap();
    wait_until("the window is closed", SOON, async || {
        stage.closed().await;
        let run = stage.step(&run, "").await;
        stage.finish(run).await["status"] == "finished"
    })
    .await;
    let run = stage.step(&run, "").await;
    assert_eq!(run["expected"], json!(6), "{run}");
    stage.outbox.assert_exactly_once().await;
}

#[tokio::test]
async fn where_dispatch_has_never_looked_nothing_is_begun() {
    let outbox = crate::support::Outbox::open().await;
    outbox.consumer("k", "iu", json!({})).await;
    outbox.emit(3).await;
    let answer = outbox.answer("fn_consumer_backfill('k', p_dry_run => false)").await;
    assert_eq!((&answer["refused"], &answer["reason"]), (&json!(true), &json!("not_closed")), "{answer}");
}
