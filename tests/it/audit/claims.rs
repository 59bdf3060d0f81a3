//! What the audit claims, and what it does not: consumers that came, went and changed.

use serde_json::json;

use super::stage::{Stage, numbers};

#[tokio::test]
async fn a_consumer_is_expected_to_have_decided_only_from_when_its_row_is_known() {
    let stage = Stage::new().await;
    stage.outbox.emit(1).await;
    stage.outbox.drain(1000).await;
    stage.outbox.consumer("new", "iu", json!({})).await;
    stage.outbox.emit(2).await;
    // new has them, and nobody has noted since when
    assert_eq!(numbers(&stage.closed().await), [3, 6, 6, 0, 0]);
    stage.outbox.emit(2).await;
    assert_eq!(numbers(&stage.closed().await), [2, 6, 6, 0, 0]);
    let lag = "select complete_until is not null and complete_until > proven_from from v_consumer_lag where consumer_key = 'new'";
    assert_eq!(stage.text(&format!("({lag})")).await, "true");
}

#[tokio::test]
async fn events_around_a_change_are_unproven_and_never_missing() {
    let stage = Stage::new().await;
    stage.outbox.emit(1).await;
    stage.outbox.drain(1000).await;
    stage.sweep().await;
    assert_eq!(numbers(&stage.audit().await), [1, 2, 2, 0, 0]);
    // served as the row read, but the pass cannot know how it read
    stage.outbox.emit(1).await;
    stage.outbox.drain(1000).await;
    stage.run("select fn_consumer_set_enabled('two', false, 'test', 'test')").await;
    stage.outbox.emit(3).await;
    stage.outbox.drain(1000).await;
    stage.run("select fn_consumer_set_enabled('two', true, 'test', 'test')").await;
    stage.sweep().await;
    let around = stage.audit().await;
    assert_eq!(
        (&around["missing"], &around["expected"]),
        (&json!(0), &json!(4)),
        "one is sure of four: {around}"
    );
    assert_eq!(around["unproven"], json!(3), "{around}");
    stage.outbox.emit(2).await;
    assert_eq!(numbers(&stage.closed().await), [2, 4, 4, 0, 0]);
}

#[tokio::test]
async fn what_was_proven_before_a_change_stays_asked_for_by_the_old_row() {
    let stage = Stage::new().await;
    stage.outbox.emit(3).await;
    assert_eq!(numbers(&stage.closed().await), [3, 6, 6, 0, 0]);
    stage.run("update consumer_registry set job_kind = 'test.other', idempotency_key = 'x:{event_id}' where consumer_key = 'two'").await;
    stage.outbox.emit(1).await;
    assert_eq!(stage.closed().await["missing"], json!(0));
    let looked = stage.asked("").await;
    assert_eq!((&looked["missing"], &looked["expected"]), (&json!(0), &json!(7)), "{looked}");
    stage.run("delete from job_queue where job_id = (select job_id from job_queue where job_kind = 'test.two' order by job_id limit 1)").await;
    assert_eq!(stage.asked("").await["missing"], json!(1));
    stage.run("delete from consumer_registry where consumer_key = 'two'").await;
    stage.audit().await;
    assert_eq!(stage.asked("").await["missing"], json!(1), "it was wanted then");
    let mended = stage.asked(", p_repair => true").await;
    assert_eq!(
        (&mended["missing"], &mended["repaired"]),
        (&json!(1), &json!(0)),
        "nobody wants it now: {mended}"
    );
    assert_eq!(stage.text("select outcome from dispatch_gap").await, "not_wanted");
    assert_eq!(stage.asked("").await["missing"], json!(0), "that is decided now");
}

#[tokio::test]
async fn disabled_dry_and_terminal_consumers_are_expected_to_do_nothing() {
    let stage = Stage::new().await;
    stage.outbox.consumer("dry", "iu", json!({"dry_run": true})).await;
    stage.outbox.consumer("off", "iu", json!({"enabled": false})).await;
    stage.outbox.consumer("end", "iu", json!({"job_kind": null})).await;
    stage.outbox.consumer("other", "iu", json!({"event_type": "never"})).await;
    stage.outbox.consumer("filtered", "iu", json!({"filter": "$.payload.no == true"})).await;
    stage.outbox.consumer("future", "iu", json!({"starts_at": "2999-01-01T00:00:00Z"})).await;
    stage.audit().await;
    stage.outbox.emit(3).await;
    assert_eq!(numbers(&stage.closed().await), [3, 6, 6, 0, 0]);
}

#[tokio::test]
async fn an_event_that_a_consumer_cannot_digest_is_decided() {
    let stage = Stage::new().await;
    stage.outbox.consumer("key", "iu", json!({"idempotency_key": "{payload.nothing}"})).await;
    stage.audit().await;
    stage.outbox.emit(2).await;
    assert_eq!(numbers(&stage.closed().await), [2, 6, 6, 0, 0]);
    stage.run("delete from dispatch_error").await;
    assert_eq!(stage.asked("").await["missing"], json!(2));
}

#[tokio::test]
async fn events_that_share_a_job_are_decided_and_so_are_archived_jobs() {
    let stage = Stage::new().await;
    stage.outbox.consumer("shared", "iu", json!({"idempotency_key": "all of {event_type}"})).await;
    stage.audit().await;
    stage.outbox.emit(4).await;
    assert_eq!(numbers(&stage.closed().await), [4, 12, 12, 0, 0]);
    stage.run("update job_queue set status = 'cancelled', finished_at = now() - interval '2 hours'").await;
    stage.outbox.gate("queue.archive.enabled", true).await;
    stage.run("select fn_gate_set('queue.archive.after_seconds', '0', 'test', 'test')").await;
    stage.run("select fn_job_archive(1000, null, p_now => clock_timestamp() + interval '1 hour')").await;
    assert_eq!(stage.outbox.jobs().await, 0);
    assert_eq!(numbers(&stage.asked("").await), [4, 12, 12, 0, 0]);
}

#[tokio::test]
async fn who_fans_out_is_judged_by_recipients_and_one_that_may_have_subscribed_since_is_unproven() {
    let stage = Stage::new().await;
    stage.outbox.consumer("fan", "iu", json!({"fan_out": "recipients"})).await;
    stage.audit().await;
    stage.run("insert into event_subscription (recipient_ref) values ('user:a'), ('user:b')").await;
    stage.outbox.emit(2).await;
    assert_eq!(numbers(&stage.closed().await), [2, 6, 6, 0, 0]);
    stage.run("insert into event_subscription (recipient_ref) values ('user:c')").await;
    assert_eq!(numbers(&stage.asked("").await), [2, 4, 4, 0, 2]);
    stage.run("delete from event_subscription").await;
    assert_eq!(numbers(&stage.asked("").await), [2, 4, 4, 0, 0], "for nobody");
}

#[tokio::test]
async fn an_auditor_in_another_time_zone_reads_the_same_rows() {
    let stage = Stage::new().await;
    stage.outbox.consumer("delayed", "iu", json!({"delay": "26:00:00"})).await;
    stage.audit().await;
    stage.run("set timezone = 'Asia/Tokyo'; set intervalstyle = 'iso_8601'; set datestyle = 'German'").await;
    stage.outbox.emit(2).await;
    assert_eq!(numbers(&stage.closed().await), [2, 6, 6, 0, 0]);
    assert_eq!(stage.count("select count(*) from audit_consumer where replaced_at is not null").await, 0);
}
