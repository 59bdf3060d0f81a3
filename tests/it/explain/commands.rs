//! `reveille events explain` and `jobs explain`, and the pages that lead to them.

use serde_json::json;

use super::stage::Stage;
use crate::commands::{json as as_json, words};
use crate::readme::follow;
use crate::support::TestDb;

#[tokio::test]
async fn the_problem_comes_first_and_then_what_to_do() {
    let stage = Stage::open().await;
    stage.outbox.consumer("good", "iu", json!({})).await;
    stage.outbox.consumer("bad", "iu", json!({"idempotency_key": "{payload.number}"})).await;
    let event = stage.dispatched(json!({})).await.to_string();
    let (code, text, error) = words(&stage.outbox.db, &["events", "explain", &event]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(text.starts_with("bad: error\n  it could not digest the event"), "{text}");
    assert!(
        text.contains(&format!("  do: mend the consumer, then reveille events dispatch {event}")),
        "{text}"
    );
    let (_, lines, _) = as_json(&stage.outbox.db, &["events", "explain", &event]);
    let of = |key: &str| lines.as_array().unwrap().iter().find(|line| line["consumer_key"] == key).unwrap();
    assert_eq!((&of("bad")["verdict"], &of("good")["reason"]), (&json!("error"), &json!("job")));

    let job = stage.end("fail_transient($1, $2, 'out of paper')").await.to_string();
    stage.run("update job_queue set scheduled_at = clock_timestamp() + interval '1 hour'").await;
    let (_, text, _) = words(&stage.outbox.db, &["jobs", "explain", &job]);
    assert!(text.starts_with("waits, retry_waiting\n  it failed 1 of 5 times"), "{text}");
    assert!(text.contains("\nattempt") && text.contains("transient"), "{text}");
}

#[tokio::test]
async fn without_an_id_reasons_are_counted() {
    let stage = Stage::open().await;
    let db = &stage.outbox.db;
    assert_eq!(words(db, &["jobs", "explain"]).1, "no job waits\n");
    assert_eq!(words(db, &["events", "explain"]).1, "no fact came lately that a consumer could want\n");
    stage.outbox.consumer("one", "iu", json!({})).await;
    stage.dispatched(json!({})).await;
    assert_eq!(as_json(db, &["jobs", "explain"]).1[0]["reason"], "ready");
    assert_eq!(as_json(db, &["events", "explain"]).1[0]["reason"], "job");
}

#[tokio::test]
async fn what_is_unknown_is_refused() {
    let db = TestDb::new().await;
    let id = uuid::Uuid::new_v4().to_string();
    for what in ["events", "jobs"] {
        let (code, answer, _) = as_json(&db, &[what, "explain", &id]);
        assert_eq!((code, &answer["reason"]), (Some(3), &json!("not_found")), "{what}");
    }
}

#[tokio::test]
async fn every_command_of_the_pages_about_standing_still_is_accepted() {
    let not_running = include_str!("../../../docs/runbooks/why-is-it-not-running.md");
    let stopped = include_str!("../../../docs/runbooks/events-stopped-flowing.md");
    for page in [not_running, stopped] {
        assert!(page.lines().count() <= 70, "a runbook is short");
        let db = TestDb::new().await;
        follow(&db, page).await;
        let left = "select count(*) from queue_pause where resumed_at is null";
        assert_eq!(db.client().await.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    }
}
