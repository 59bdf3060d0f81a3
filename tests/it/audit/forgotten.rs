//! Months of the archive go with their keys: what they held is not made again.

use serde_json::{Value, json};

use super::stage::{Stage, numbers};
use crate::commands::words;

/// Three events of five months ago whose jobs are in the archive, of the month in which they were made, and one of today
/// whose job somebody has deleted. The audit has known both consumers for eight months.
async fn with_an_archive() -> Stage {
    let stage = Stage::new().await;
    stage
        .run(
            "update consumer_registry set starts_at = '2020-01-01';
             update audit_consumer set replaced_at = clock_timestamp(), holds_until = '-infinity'",
        )
        .await;
    stage.audit().await;
    stage
        .run(
            "update audit_consumer set changed_at = clock_timestamp() - interval '8 months', seen_at = clock_timestamp() - interval '8 months'
             where replaced_at is null;
             insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, created_at)
             select 'iu', 'old', 'update', 'immediate', clock_timestamp() - interval '5 months' from generate_series(1, 3)",
        )
        .await;
    stage.outbox.drain(1000).await;
    stage.outbox.gate("queue.archive.enabled", true).await;
    stage
        .run(
            "update job_queue set status = 'cancelled', finished_at = now() - interval '2 hours';
             select fn_job_archive(1000, null, p_now => clock_timestamp() + interval '2 hours');
             select fn_job_archive_month(clock_timestamp() - interval '5 months')",
        )
        .await;
    stage
        .run(
            "update job_archive_key set finished_at = clock_timestamp() - interval '5 months';
             update job_archive a set finished_at = k.finished_at from job_archive_key k where k.job_id = a.job_id",
        )
        .await;
    stage.outbox.emit(1).await;
    stage.outbox.drain(1000).await;
    stage.run("delete from job_queue where consumer_key = 'two'").await;
    stage.sweep().await;
    stage
}

async fn asked(stage: &Stage, more: &str) -> Value {
    stage.asked(&format!(", p_since => clock_timestamp() - interval '6 months'{more}")).await
}

#[tokio::test]
async fn what_was_done_in_a_month_that_has_gone_is_not_missing_and_not_done_again() {
    let stage = with_an_archive().await;
    let before = asked(&stage, "").await;
    assert_eq!((numbers(&before), &before["forgotten_until"]), ([4, 8, 7, 1, 0], &Value::Null), "{before}");
    stage.run("select fn_gate_set('queue.retention.archive_months', '3', 'test', 'test')").await;
    let told = stage.outbox.answer("fn_job_archive_drop(true)").await;
    assert_eq!(told["found"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(asked(&stage, "").await["forgotten_until"], Value::Null, "a dry run forgets nothing");
    assert_eq!(stage.outbox.answer("fn_job_archive_drop(false)").await["keys"], json!(6));

    let after = asked(&stage, "").await;
    assert_eq!(
        (numbers(&after), &after["since"]),
        ([1, 2, 1, 1, 0], &after["forgotten_until"]),
        "it begins where keys are known: {after}"
    );
    let window = stage
        .outbox
        .answer("fn_audit_window('iu', '2020-01-01', '00000000-0000-0000-0000-000000000000', clock_timestamp(), 1000)")
        .await;
    assert_eq!(
        (&window["events"], &window["missing"], &window["unproven"]),
        (&json!(4), &json!(1), &json!(6)),
        "nor does a timer that was off for months call them gaps: {window}"
    );
    let (code, text, _) =
        words(&stage.outbox.db, &["events", "audit", "--domain", "iu", "--since", "190days"]);
    assert!(code == Some(1) && text.contains("nothing is said of facts before 20"), "{text}");

    assert_eq!(asked(&stage, ", p_repair => true").await["repaired"], json!(1));
    assert_eq!(stage.outbox.jobs().await, 2, "those of today's event, and no other");
    let (code, text, _) = words(&stage.outbox.db, &["events", "audit", "--domain", "iu"]);
    assert!(code == Some(0) && !text.contains("nothing is said"), "it was not asked of them: {text}");
}
