//! `reveille pause` and `reveille resume`: who, why, since when; and nothing is paused by mistake.

use super::{json, words};
use crate::support::TestDb;

#[tokio::test]
async fn a_pause_says_who_and_why_until_it_is_resumed_and_stays_in_the_history() {
    let db = TestDb::new().await;
    assert_eq!(words(&db, &["pause"]).1, "nothing is paused\n");
    let pause = ["pause", "job-kind", "cut.cut", "--reason", "ticket 4711"];
    let (code, text, _) = words(&db, &pause);
    assert_eq!(
        (code, text.as_str()),
        (
            Some(0),
            "job_kind cut.cut is paused; no job, handler, consumer or subscription speaks of it so far\n"
        )
    );
    let (_, text, _) =
        words(&db, &["pause", "job_kind", "cut.cut", "--reason", "me too", "--actor", "second"]);
    assert_eq!(text, "job_kind cut.cut was paused before, by user:operator: ticket 4711\n");
    assert_eq!(words(&db, &["pause", "all", "--reason", "restore"]).0, Some(0));

    let (_, standing, _) = json(&db, &["pause"]);
    let standing = standing.as_array().unwrap();
    assert_eq!((&standing[0]["scope"], &standing[0]["name"]), (&"job_kind".into(), &"cut.cut".into()));
    assert_eq!(
        (&standing[0]["actor"], &standing[0]["reason"]),
        (&"user:operator".into(), &"ticket 4711".into())
    );
    let (_, table, _) = words(&db, &["pause"]);
    assert!(table.contains("everything") && table.contains("restore") && table.contains("(now)"), "{table}");

    let resume = ["resume", "job-kind", "cut.cut", "--reason", "mended"];
    assert_eq!(words(&db, &resume).1, "job_kind cut.cut goes on\n");
    let (code, _, err) = words(&db, &resume);
    assert_eq!(code, Some(3));
    assert!(
        err.contains("job_kind cut.cut is not paused") && err.contains("`reveille pause` lists"),
        "{err}"
    );
    assert_eq!(words(&db, &["resume", "all", "--reason", "restored"]).1, "everything goes on\n");
    assert_eq!(json(&db, &["pause"]).1, serde_json::json!([]));
    let (_, history, _) = json(&db, &["pause", "--history"]);
    assert_eq!(history[0]["resume_reason"], "mended");
    let (_, table, _) = words(&db, &["pause", "--history"]);
    assert!(table.contains("ticket 4711") && table.contains("restored"), "{table}");
}

#[tokio::test]
async fn a_misspelt_name_is_refused_with_a_guess_and_nothing_is_paused() {
    let db = TestDb::new().await;
    let register = "select fn_queue_heartbeat_register('desk-1', 'Agent')";
    db.client().await.batch_execute(register).await.unwrap();
    for (scope, name, hint) in [
        ("domain", "stagin", "did you mean `staging`?"),
        ("executor", "desk1", "did you mean `desk-1`?"),
        ("executor", "nobody at all", "known are"),
        ("consumer", "cutter", "there is no consumer at all so far"),
    ] {
        let (code, _, error) = json(&db, &["pause", scope, name, "--reason", "test"]);
        assert_eq!(code, Some(2), "{scope} {name}");
        assert!(error["error"]["hint"].as_str().unwrap().contains(hint), "{error}");
    }
    for arguments in [
        &["pause", "all"][..],
        &["pause", "all", "staging", "--reason", "test"],
        &["pause", "domain", "--reason", "test"],
        &["pause", "domain", "staging"],
        &["pause", "--reason", "test"],
        &["pause", "world", "--reason", "test"],
        &["pause", "all", "--reason", "test", "--history"],
        &["resume", "--reason", "test"],
    ] {
        assert_eq!(words(&db, arguments).0, Some(2), "{arguments:?}");
    }
    assert_eq!(words(&db, &["pause", "--history"]).1, "nothing was ever paused\n");
    for (scope, name) in [
        ("executor", "desk-1"),
        ("executor", "Agent"),
        ("executor", "Codex"), // of which nobody is there yet
        ("domain", "staging"),
    ] {
        let (code, text, _) = words(&db, &["pause", scope, name, "--reason", "test"]);
        let said = format!("{scope} {name} is paused; what is leased may be finished\n");
        assert_eq!((code, text), (Some(0), said));
    }
}

#[tokio::test]
async fn health_names_what_is_paused_and_does_not_fail_for_it() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    let waits = "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, created_at)
        values ('staging', 'changed', 'update', 'immediate', now() - interval '10 minutes')";
    client.batch_execute(waits).await.unwrap();
    assert_eq!(words(&db, &["health"]).0, Some(1), "nobody dispatches");
    for (scope, name) in [("domain", "staging"), ("job_kind", "cut.cut")] {
        assert_eq!(words(&db, &["pause", scope, name, "--reason", "ticket\n4711"]).0, Some(0));
    }
    let hours = "update queue_pause set paused_at = paused_at - interval '2 hours' where scope = 'domain'";
    client.batch_execute(hours).await.unwrap();

    let (code, text, _) = words(&db, &["health"]);
    assert_eq!(code, Some(0), "it stands still because somebody wants it so: {text}");
    assert!(text.contains("\npaused: domain staging, for 2h, by user:operator: ticket 4711\n"), "{text}");
    assert!(text.contains("\npaused: job_kind cut.cut, for "), "{text}");
    let (code, components, _) = json(&db, &["health"]);
    assert_eq!(code, Some(0));
    let all = components.as_array().unwrap();
    let pause =
        all.iter().find(|one| one["component"] == "pause" && one["name"] == "domain staging").unwrap();
    assert!(pause["age_seconds"].as_f64().unwrap() >= 7200.0 && pause["status_hint"] == "warning", "{pause}");
    let detail = &pause["detail"];
    assert_eq!((&detail["scope"], &detail["name"]), (&"domain".into(), &"staging".into()));
    assert_eq!((&detail["actor"], &detail["reason"]), (&"user:operator".into(), &"ticket\n4711".into()));
    assert!(detail["paused_at"].as_str().unwrap().contains('T'), "{detail}");

    for (scope, name) in [("domain", "staging"), ("job_kind", "cut.cut")] {
        assert_eq!(words(&db, &["resume", scope, name, "--reason", "mended"]).0, Some(0));
    }
    assert_eq!(words(&db, &["pause", "all", "--reason", "restore"]).0, Some(0));
    let (code, text, _) = words(&db, &["health"]);
    assert!(code == Some(0) && text.contains("\npaused: everything, for "), "{text}");
    assert!(!text.contains("staging, for"), "{text}");
}
