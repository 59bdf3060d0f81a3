//! Replays: a generation each, only what has a job, only this consumer.

use serde_json::json;

use super::stage::{Stage, counts};

#[tokio::test]
async fn each_replay_is_a_generation_of_its_own_and_makes_each_job_once() {
    let stage = Stage::new(6, json!({})).await;
    stage.outbox.consumer("other", "iu", json!({"starts_at": "-infinity"})).await;
    let nothing = stage.dry("replay", "").await;
    assert_eq!((&nothing["made"], &nothing["without_job"]), (&json!(0), &json!(6)), "nothing has a job yet");
    stage.real("backfill", ", p_limit => 4").await;
    for generation in [2, 3] {
        let dry = stage.dry("replay", ", p_batch => 3").await;
        let run = stage.real("replay", ", p_batch => 2").await;
        assert_eq!(dry, counts(&run));
        assert_eq!(
            (&run["generation"], &run["made"], &run["without_job"]),
            (&json!(generation), &json!(4), &json!(2)),
            "{run}"
        );
        let keys = format!(
            "select count(distinct causation_event_id) from job_queue where idempotency_key like 'k:%#g{generation}'"
        );
        assert_eq!(stage.count(&keys).await, 4);
    }
    assert_eq!(
        (stage.jobs().await, stage.outbox.jobs().await),
        (12, 12),
        "nobody else's events were replayed"
    );
    // the backfill of the rest, and of nothing twice
    assert_eq!(stage.real("backfill", "").await["made"], json!(2));
}

#[tokio::test]
async fn a_replay_that_is_resumed_makes_each_job_once_and_keeps_who_and_why() {
    let stage = Stage::new(6, json!({})).await;
    stage.real("backfill", "").await;
    let first = stage.begin("replay", ", p_actor => 'user:ann', p_batch => 2").await;
    // what was made before the place was lost, as after a restore of the row alone
    stage.run("update consumer_backfill set place_at = since, place_id = '00000000-0000-0000-0000-000000000000' where mode = 'replay'").await;
    stage.set_status(&first, "paused", "").await;
    let resumed = stage.set_status(&first, "running", "").await;
    let run = stage.finish(resumed).await;
    assert_eq!((&run["made"], &run["present"]), (&json!(6), &json!(2)), "{run}");
    assert_eq!(
        (stage.jobs().await, &run["actor"], &run["reason"]),
        (12, &json!("user:ann"), &json!("a test"))
    );
    let error = stage
        .outbox
        .client
        .batch_execute("select fn_consumer_replay('k', p_dry_run => false)")
        .await
        .unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("needs p_reason"), "{error:?}");
}

#[tokio::test]
async fn single_events_are_replayed_by_name() {
    let stage = Stage::new(6, json!({})).await;
    stage.real("backfill", "").await;
    let some = ", p_event_ids => (select array_agg(id) from event_outbox where event_subject_ref in ('happened-2', 'happened-5'))";
    let dry = stage.dry("replay", some).await;
    let run = stage.real("replay", some).await;
    assert_eq!(dry, counts(&run));
    assert_eq!((&run["made"], &run["events"], &run["status"]), (&json!(2), &json!(2), &json!("finished")));
    let again = "select count(distinct source_ref) from job_queue where idempotency_key like '%#g2' and source_ref in ('happened-2', 'happened-5')";
    assert_eq!(stage.count(again).await, 2);
}

#[tokio::test]
async fn a_consumer_that_asks_for_workflows_gets_one_for_each_event_and_each_replay() {
    let stage = Stage::new(3, json!({"job_kind": "workflow:t"})).await;
    stage.outbox.consumer("a", "iu", json!({"job_kind": "a.a", "enabled": false})).await;
    let template = json!({"template_key": "t", "nodes": [{"key": "a", "job_kind": "a.a"}]});
    let put = stage.outbox.answer(&format!("fn_mot_template_put('{template}', 'test')")).await;
    assert_eq!(put["refused"], false, "{put}");
    for (mode, workflows) in [("backfill", 3), ("backfill", 3), ("replay", 6), ("replay", 9)] {
        let run = stage.real(mode, "").await;
        assert_eq!(run["status"], "finished", "{run}");
        assert_eq!(stage.count("select count(*) from job_workflow").await, workflows, "{mode}");
    }
}
