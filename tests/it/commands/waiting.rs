//! `reveille jobs backlog`, `jobs blocked` and `jobs enqueue --on-duplicate`.

use super::{json, words};
use crate::support::TestDb;

#[tokio::test]
async fn the_backlog_says_what_waits_and_why() {
    let db = TestDb::new().await;
    db.open_gates().await;
    assert_eq!(words(&db, &["jobs", "backlog"]).1, "nothing waits to be claimed\n");
    for kind in ["cut.cut", "mail.send"] {
        words(&db, &["jobs", "enqueue", kind, "--executor", "Agent"]);
    }
    words(&db, &["jobs", "enqueue", "later", "--executor", "Agent", "--at", "2099-01-01T00:00:00Z"]);
    words(&db, &["pause", "job-kind", "cut.cut", "--reason", "test"]);
    let (_, lanes, _) = json(&db, &["jobs", "backlog"]);
    let of =
        |kind: &str| lanes.as_array().unwrap().iter().find(|lane| lane["job_kind"] == kind).unwrap().clone();
    assert_eq!(
        (&of("cut.cut")["reason"], &of("cut.cut")["due"]),
        (&"paused: job_kind cut.cut".into(), &1.into())
    );
    assert_eq!(of("mail.send")["reason"], "no_live_executor");
    assert_eq!((&of("later")["due"], of("later")["reason"].is_null()), (&0.into(), true));
    let (_, text, _) = words(&db, &["jobs", "backlog"]);
    assert!(text.contains("no_live_executor") && text.contains("2099-01-01 00:00:00Z (in "), "{text}");
}

#[tokio::test]
async fn a_job_that_holds_up_others_of_its_key_is_named_with_the_reason() {
    let db = TestDb::new().await;
    db.open_gates().await;
    assert_eq!(words(&db, &["jobs", "blocked"]).1, "no job waits behind another of its ordering key\n");
    let client = db.client().await;
    client.batch_execute("select fn_queue_heartbeat_register('desk', 'Agent')").await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let enqueue = ["jobs", "enqueue", "mail.send", "--executor", "Agent", "--ordering-key", "letter:7"];
        ids.push(json(&db, &enqueue).1["job_id"].clone());
    }
    let die =
        "select fn_job_fail_permanent(job_id, lease_token, 'no such address') from fn_job_claim('desk', 10)";
    client.batch_execute(die).await.unwrap();
    let (_, blocked, _) = json(&db, &["jobs", "blocked"]);
    assert_eq!((&blocked[0]["blocking_job_id"], &blocked[0]["next_job_id"]), (&ids[0], &ids[1]), "{blocked}");
    assert_eq!((&blocked[0]["behind"], &blocked[0]["last_error"]), (&2.into(), &"no such address".into()));
    let (_, text, _) = words(&db, &["jobs", "blocked"]);
    assert!(
        text.contains("letter:7") && text.contains("a dead letter that nobody has decided about"),
        "{text}"
    );
}

#[tokio::test]
async fn a_duplicate_that_still_waits_is_kept_replaced_or_put_off_as_asked() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let enqueue = |more: &[&str]| {
        let (code, answer, error) =
            json(&db, &[&["jobs", "enqueue", "page.index", "--key", "page:7"], more].concat());
        assert_eq!(code, Some(0), "{error}");
        answer
    };
    let job = enqueue(&["--source-ref", "v1"])["job_id"].clone();
    let id = job.as_str().unwrap();
    let shown = || json(&db, &["jobs", "show", id]).1;
    assert_eq!(enqueue(&["--source-ref", "v2", "--on-duplicate", "keep"])["changed"], false);
    assert_eq!(shown()["source_ref"], "v1");
    let due = shown()["scheduled_at"].clone();
    let at = ["--at", "2099-01-01T00:00:00Z"];
    let replaced = enqueue(&[&["--source-ref", "v2", "--on-duplicate", "replace"], &at[..]].concat());
    assert_eq!(
        (&replaced["job_id"], &replaced["created"], &replaced["changed"]),
        (&job, &false.into(), &true.into())
    );
    assert_eq!((&shown()["source_ref"], &shown()["scheduled_at"]), (&"v2".into(), &due), "due when it was");
    enqueue(&[&["--source-ref", "v3", "--on-duplicate", "debounce"], &at[..]].concat());
    assert!(shown()["scheduled_at"].as_str().unwrap().starts_with("2099-"), "put off");
    let enqueue = ["jobs", "enqueue", "page.index", "--on-duplicate", "replace"];
    assert_eq!(words(&db, &enqueue).0, Some(2), "without a key there is no duplicate");
}
