//! `reveille health` on workflows and schedules: one line each, with what, why and the command.

use serde_json::{Value, json};

use super::stage::Stage;
use crate::commands::{json as document, words};

#[tokio::test]
async fn a_workflow_that_waits_too_long_for_an_approval_or_an_event_is_told_with_the_command() {
    let stage = Stage::new().await;
    let letter = stage.emit("letter").await;
    assert_eq!(stage.findings("25 hours").await, Value::Null, "its gate is not open yet");
    stage.end_one(true).await;
    let order = stage.emit("order").await;
    stage.end_one(true).await;
    assert_eq!(words(&stage.db, &["health"]).0, Some(0), "a day has not passed");
    assert_eq!(stage.findings("23 hours").await, Value::Null);
    assert_eq!(stage.findings("25 hours").await, json!(["approval_waiting", "event_waiting"]));

    // since the step before has ended, not since the workflow began
    stage.run("update job_queue set created_at = created_at - interval '3 days', finished_at = finished_at - interval '2 hours'").await;
    assert_eq!(stage.findings("0").await, Value::Null);
    stage.set("queue.workflow.approval_threshold_seconds", "3600").await;
    assert_eq!(stage.findings("0").await, json!(["approval_waiting"]));
    stage.set("queue.workflow.event_threshold_seconds", "7000").await;
    let (code, text, _) = words(&stage.db, &["health"]);
    assert_eq!(code, Some(1), "{text}");
    for line in [
        format!(
            "workflow {letter}: its step review (letter@1) waits for an approval, for 2h; nothing behind it runs until \
             somebody decides: reveille workflows approve {letter} review, or reveille workflows reject {letter} review \
             --reason TEXT\n"
        ),
        format!(
            "workflow {order}: its step paid (order@1) waits for iu.paid, for 2h; nothing behind it runs until the event \
             comes: reveille workflows show {order}; if the event will not come, reveille workflows cancel {order} \
             --reason TEXT\n"
        ),
    ] {
        assert!(text.contains(&line), "{text}\nlacks\n{line}");
    }
    let (_, components, _) = document(&stage.db, &["health"]);
    let of_it = components.as_array().unwrap().iter().find(|one| one["component"] == "workflow").unwrap();
    assert_eq!(
        (&of_it["status_hint"], &of_it["detail"]["finding"]),
        (&json!("stale"), &json!("approval_waiting"))
    );

    let approve = ["workflows", "reject", &letter.to_string(), "review", "--reason", "no"];
    assert_eq!(words(&stage.db, &approve).0, Some(0));
    stage.run("select fn_job_workflow_cancel(workflow_id, 'test', 'x') from job_workflow where status = 'active'").await;
    let left = stage.findings("25 hours").await;
    assert!(!left.to_string().contains("_waiting"), "{left}");
}

#[tokio::test]
async fn a_failed_workflow_that_holds_jobs_is_told_until_it_is_retried_or_cancelled() {
    let stage = Stage::new().await;
    let id = stage.emit("letter").await;
    stage.end_one(false).await;
    let (code, text, _) = words(&stage.db, &["health"]);
    let (what, rest) = (
        format!("workflow {id}: letter@1 has failed, and 2 of its jobs wait for what failed, for "),
        format!(
            "; they will not run until what failed is retried: reveille workflows retry {id} --reason TEXT --apply, or \
             reveille workflows cancel {id} --reason TEXT\n"
        ),
    );
    assert!(code == Some(1) && text.contains(&what) && text.contains(&rest), "{text}");
    let cancel = ["workflows", "cancel", &id.to_string(), "--reason", "not wanted"];
    assert_eq!(words(&stage.db, &cancel).0, Some(0));
    assert_eq!(stage.findings("0").await, Value::Null);

    // nothing waits behind the last step
    stage.emit("order").await;
    stage.end_one(true).await;
    stage.run("select fn_event_emit('iu', 'paid', 'x:1')").await;
    stage.run("update job_gate set correlation_id = null").await;
    stage.run("select fn_consumer_dispatch_batch('iu', 10)").await;
    stage.end_one(false).await;
    assert_eq!(stage.findings("0").await, Value::Null);
}

#[tokio::test]
async fn of_many_the_oldest_are_told_and_how_many_more_there_are() {
    let stage = Stage::new().await;
    for _ in 0..5 {
        stage.emit("letter").await;
        stage.end_one(true).await;
    }
    let check = "select jsonb_agg(what) from fn_job_workflow_check(2, clock_timestamp() + interval '2 days')";
    let told = stage.value(check, &[]).await;
    let what = "its step review (letter@1) waits for an approval";
    assert_eq!(told, json!([what, format!("{what} (and 3 more like it)")]));
}

#[tokio::test]
async fn a_late_schedule_is_an_error_where_a_scheduler_lives_and_a_warning_at_first_where_none_does() {
    let stage = Stage::new().await;
    let put = "select fn_schedule_put('late', 'a.a', 'test', p_every => '1 hour'), fn_schedule_enable('late', true, 'test', 'test');
        update job_schedule set next_tick_at = clock_timestamp() + interval '1 hour'";
    stage.run(put).await;
    let check = async |later: &str| {
        let check = "select jsonb_agg(jsonb_build_array(severity, finding))
            from fn_schedule_check(clock_timestamp() + interval '1 hour' + $1::text::interval)";
        stage.value(check, &[&later]).await
    };
    assert_eq!(check("50 seconds").await, Value::Null);
    assert_eq!(check("70 seconds").await, json!([["warning", "no_scheduler"]]));
    assert_eq!(check("6 minutes").await, json!([["error", "no_scheduler"]]));
    let beat = "select fn_queue_heartbeat_register('clock', 'PG_worker', p_metadata => '{\"role\": \"scheduler\"}');
        update queue_heartbeat set last_beat_at = clock_timestamp() + interval '1 hour' where executor_name = 'clock'";
    stage.run(beat).await;
    assert_eq!(check("70 seconds").await, json!([["error", "late"]]));
    stage.run("select fn_pause('job_kind', 'a.a', 'test', 'a test')").await;
    assert_eq!(check("70 seconds").await, Value::Null, "somebody wants it so");
    stage.run("select fn_resume('job_kind', 'a.a', 'test', 'a test'); update job_schedule set next_tick_at = '-infinity'").await;
    assert_eq!(check("-59 minutes -50 seconds").await, Value::Null);
    assert_eq!(check("0").await, json!([["error", "late"]]), "its first tick was never found");
    let (code, text, _) = words(&stage.db, &["health"]);
    assert_eq!(code, Some(0), "{text}");

    stage.run("update job_schedule set next_tick_at = now() - interval '2 hours'").await;
    let (code, text, _) = words(&stage.db, &["health"]);
    let line =
        ", and a scheduler lives, for 2h; its work is not done until that is mended: reveille tick, and see";
    assert!(
        code == Some(1) && text.contains("schedule late: it was due at 20") && text.contains(line),
        "{text}"
    );
}

#[tokio::test]
async fn a_schedule_whose_last_job_failed_is_told_until_one_succeeds() {
    let stage = Stage::new().await;
    let put = "select fn_schedule_put('daily', 'a.a', 'test', p_every => '1 day'), fn_schedule_enable('daily', true, 'test', 'test');
        select fn_job_enqueue('a.a', 'test');
        update job_schedule set next_tick_at = clock_timestamp() + interval '1 day', last_job_id = (select job_id from job_queue)";
    stage.run(put).await;
    let job: String = stage.value("select job_id from job_queue", &[]).await.as_str().unwrap().to_owned();
    assert_eq!(words(&stage.db, &["health"]).0, Some(0));
    stage.end_one(false).await;
    let (_, text, _) = words(&stage.db, &["health"]);
    let line = format!(
        "schedule daily: its last job ended as dead_letter; what it is there for was not done: reveille jobs show {job}\n"
    );
    assert!(text.contains(&line), "{text}");
    stage.run("update job_schedule set enabled = false").await;
    assert!(!words(&stage.db, &["health"]).1.contains("schedule daily"));
}
