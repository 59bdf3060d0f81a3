//! A gap is an event, a metric, a red line and an exit code; and the command that mends it.

use std::time::Duration;

use serde_json::json;

use super::stage::Stage;
use crate::commands::{json as document, words};
use crate::http::Served;
use crate::support::{TestDb, server_at};

async fn with_a_gap() -> Stage {
    let stage = Stage::new().await;
    stage.registered().await;
    stage.outbox.emit(2).await;
    stage.outbox.drain(1000).await;
    stage.run("delete from job_queue where consumer_key = 'two'").await;
    stage.sweep().await;
    stage
}

#[tokio::test]
async fn a_gap_is_an_event_once_a_metric_and_a_red_line_until_it_is_mended() {
    let stage = with_a_gap().await;
    let db = &stage.outbox.db;
    let face = Served::start(server_at(&db.url()), None, Duration::ZERO).await;
    assert_eq!(words(db, &["health"]).0, Some(0), "nobody has looked");
    stage.audit().await;
    stage.audit().await;
    let events = "select count(*) from event_outbox where event_domain = 'system' and event_type = 'queue_dispatch_gap'
        and safe_payload = '{\"missing\": {\"iu\": 2}, \"consumers\": {\"two\": 2}}'";
    assert_eq!(stage.count(events).await, 1);
    let (code, text, _) = words(db, &["health"]);
    assert_eq!(code, Some(1), "{text}");
    let event =
        stage.text("select event_id from dispatch_gap order by event_created_at, event_id limit 1").await;
    for word in [
        format!("audit iu: 2 decisions are missing, the first for event {event} and consumer two"),
        "reveille events audit --domain iu --since ".to_owned(),
    ] {
        assert!(text.contains(&word), "{text} lacks {word}");
    }
    let scrape = face.scrape().await;
    let decisions =
        |outcome| scrape.value("reveille_audit_decisions_total", &[("domain", "iu"), ("outcome", outcome)]);
    assert_eq!(["found", "missing", "repaired", "unproven"].map(decisions), [2.0, 2.0, 0.0, 0.0].map(Some));
    assert_eq!(scrape.value("reveille_audit_open_gaps", &[("domain", "iu")]), Some(2.0));
    let lag = "select string_agg(consumer_key || ' ' || open_gaps || ' ' || (complete_until is not null), ', ' order by consumer_key) from v_consumer_lag";
    assert_eq!(stage.text(&format!("({lag})")).await, "one 0 true, two 2 true", "up to the first gap");

    let command = text.lines().find(|line| line.starts_with("audit iu")).unwrap();
    let command = command.split("reveille ").nth(1).unwrap();
    let (code, text, _) = words(db, &command.split_whitespace().collect::<Vec<_>>());
    assert_eq!(code, Some(1), "a gap was found: {text}");
    stage.outbox.assert_exactly_once().await;
    assert_eq!(words(db, &["health"]).0, Some(0));
    let scrape = face.scrape().await;
    assert_eq!(scrape.value("reveille_audit_open_gaps", &[("domain", "iu")]), Some(0.0));
    face.stop().await;
}

#[tokio::test]
async fn the_command_shows_the_same_numbers_before_and_while_it_repairs() {
    let stage = with_a_gap().await;
    let db = &stage.outbox.db;
    let numbers = |audits: &serde_json::Value| {
        let iu = audits.as_array().unwrap().iter().find(|one| one["event_domain"] == "iu").unwrap().clone();
        ["events", "expected", "found", "missing", "repaired"].map(|key| iu[key].as_i64().unwrap())
    };
    let (code, audits, _) = document(db, &["events", "audit", "--since", "1h"]);
    assert_eq!((code, numbers(&audits)), (Some(1), [2, 4, 2, 2, 0]), "{audits}");
    assert_eq!(stage.outbox.jobs().await, 2);
    let (code, text, _) = words(db, &["events", "audit"]);
    assert!(code == Some(1) && text.contains("--repair") && text.contains("two"), "{text}");
    let (code, audits, _) = document(db, &["events", "audit", "--domain", "iu", "--repair"]);
    assert_eq!((code, numbers(&audits)), (Some(1), [2, 4, 2, 2, 2]), "{audits}");
    let (code, audits, _) = document(db, &["events", "audit", "--domain", "iu"]);
    assert_eq!((code, numbers(&audits)), (Some(0), [2, 4, 4, 0, 0]), "{audits}");
    let until = ["events", "audit", "--until", "2020-01-01T00:00:00Z"];
    assert_eq!(words(db, &until).0, Some(0));
    assert_eq!(words(db, &["events", "audit", "--domain", "nowhere"]).0, Some(1));
    stage.run("select fn_pause('domain', 'dot', 'test', 'test')").await;
    stage.run("delete from job_queue where consumer_key = 'two'").await;
    let (code, text, _) = words(db, &["events", "audit", "--repair"]);
    assert!(code == Some(3) && text.contains("refused: paused"), "the others are mended: {text}");
    assert!(text.contains("paused: `reveille pause` says by whom and why"), "{text}");
    stage.outbox.assert_exactly_once().await;
    let (code, audits, _) = document(db, &["events", "audit", "--repair"]);
    let dot = audits.as_array().unwrap().iter().find(|one| one["event_domain"] == "dot");
    assert_eq!((code, &dot.unwrap()["refused"]), (Some(3), &json!("paused")), "one document: {audits}");
    stage.outbox.gate("queue.job_substrate.enabled", false).await;
    assert_eq!(words(db, &["events", "audit", "--domain", "iu", "--repair"]).0, Some(3));
}

#[tokio::test]
async fn without_a_registered_type_a_gap_is_told_but_emits_nothing() {
    let stage = with_a_gap().await;
    stage.run("update event_type_registry set active = false where event_type = 'queue_dispatch_gap'").await;
    let round = stage.round().await;
    assert_eq!((round.missing, round.missing_type.as_deref()), (2, Some("system.queue_dispatch_gap")));
    assert_eq!(stage.count("select count(*) from event_outbox where event_domain = 'system'").await, 0);
}

#[tokio::test]
async fn the_audit_can_be_switched_off_and_runs_as_a_job_too() {
    let stage = with_a_gap().await;
    stage.outbox.gate("queue.audit.enabled", false).await;
    assert_eq!(stage.round().await.events, 0);
    assert_eq!(stage.audit().await["reason"], json!("audit_disabled"));
    assert_eq!(stage.outbox.answer("fn_maintenance_audit('{}')").await["skipped"], json!("audit_disabled"));
    stage.outbox.gate("queue.audit.enabled", true).await;
    assert_eq!(stage.outbox.answer("fn_maintenance_audit('{}')").await["missing"], json!(2));
}

#[tokio::test]
async fn an_audit_that_does_not_come_on_is_told() {
    let stage = Stage::new().await;
    let told = "select string_agg(finding, ',') from fn_dispatch_audit_check(p_now => clock_timestamp() + interval '31 minutes')
        where event_domain = 'iu'";
    assert_eq!(stage.text(&format!("({told})")).await, "behind");
    stage.run("select fn_pause('domain', 'iu', 'test', 'test')").await;
    assert_eq!(stage.text(&format!("({told})")).await, "", "the pause is told itself");
}

#[tokio::test]
async fn the_commands_of_the_page_run() {
    const PAGE: &str = include_str!("../../../docs/audit.md");
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    let blocks = |language: &str| {
        let fence = format!("```{language}\n");
        PAGE.split(&fence)
            .skip(1)
            .map(|block| block[..block.find("```").unwrap()].to_owned())
            .collect::<Vec<_>>()
    };
    for sql in blocks("sql") {
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let mut run = 0;
    for line in
        blocks("sh").iter().flat_map(|block| block.lines()).filter(|line| line.starts_with("reveille "))
    {
        // what they find is told by their code; with any other, 1 would be an error
        let tells = ["reveille events audit", "reveille health"].iter().any(|one| line.starts_with(one));
        let (command, reason) = line.split(" #").next().unwrap().split_once('\'').unwrap_or((line, ""));
        let command = command.split(" #").next().unwrap().split_whitespace().skip(1);
        let reason = Some(reason.trim_end_matches('\'')).filter(|reason| !reason.is_empty());
        let (code, _, err) = words(&db, &command.chain(reason).collect::<Vec<_>>());
        assert!(
            (code == Some(0) || tells && code == Some(1)) && !err.contains("error:"),
            "{line}: {code:?} {err}"
        );
        run += 1;
    }
    assert!(run >= 5, "{run}");
}
