//! What is missing is found, named, mended once.

use serde_json::json;

use super::stage::{Stage, numbers};
use crate::commands::words;
use crate::support::emit;

#[tokio::test]
async fn a_job_that_somebody_deleted_is_found_named_and_repaired_once() {
    let stage = Stage::new().await;
    stage.outbox.emit(5).await;
    assert_eq!(stage.outbox.drain(1000).await, 5);
    let victim = stage
        .text("select causation_event_id from job_queue where consumer_key = 'two' order by job_id limit 1")
        .await;
    stage
        .run(&format!("delete from job_queue where causation_event_id = '{victim}' and consumer_key = 'two'"))
        .await;
    stage.sweep().await;
    let looked = stage.asked("").await;
    assert_eq!(numbers(&looked), [5, 10, 9, 1, 0], "{looked}");
    assert_eq!(
        (&looked["gaps"][0]["event_id"], &looked["gaps"][0]["consumer_key"]),
        (&json!(victim), &json!("two"))
    );
    assert_eq!(
        (stage.outbox.jobs().await, stage.count("select count(*) from dispatch_gap").await),
        (9, 0),
        "a look"
    );
    let found = stage.audit().await;
    assert_eq!(numbers(&found), [5, 10, 9, 1, 0], "the same numbers: {found}");
    assert_eq!((&found["domains"], &found["repaired"]), (&json!({"iu": 1}), &json!(0)));
    let mended = stage.asked(", p_repair => true").await;
    assert_eq!((numbers(&mended), &mended["repaired"]), ([5, 10, 9, 1, 0], &json!(1)), "{mended}");
    let again = stage.asked(", p_repair => true").await;
    assert_eq!((numbers(&again), &again["repaired"]), ([5, 10, 10, 0, 0], &json!(0)), "{again}");
    stage.outbox.assert_exactly_once().await;
    assert_eq!(stage.text("select outcome from dispatch_gap").await, "repaired");
    assert_eq!(stage.text("select idempotency_key = consumer_key || ':' || causation_event_id from job_queue order by job_id desc limit 1").await, "true");
}

#[tokio::test]
async fn the_timer_repairs_only_behind_its_gate() {
    let stage = Stage::new().await;
    stage.outbox.emit(3).await;
    stage.outbox.drain(1000).await;
    stage.run("delete from job_queue where consumer_key = 'one'").await;
    stage.sweep().await;
    let round = stage.round().await;
    assert_eq!((round.events, round.expected, round.found, round.missing, round.repaired), (3, 6, 3, 3, 0));
    assert_eq!(round.domains, ["iu"]);
    assert_eq!(stage.round().await.missing, 0, "told once");
    stage.outbox.gate("queue.audit.repair_enabled", true).await;
    assert_eq!(stage.round().await.repaired, 3);
    assert_eq!(stage.round().await.repaired, 0);
    stage.outbox.assert_exactly_once().await;
}

#[tokio::test]
async fn more_gaps_than_one_call_may_mend_are_mended_by_the_next_ones() {
    let stage = Stage::new().await;
    stage.outbox.emit(130).await;
    stage.outbox.drain(1000).await;
    stage.run("delete from job_queue").await;
    stage.sweep().await;
    let (mut repaired, mut after, mut calls) = (0, "null".to_owned(), 0);
    while after != "done" {
        let answer = stage
            .outbox
            .answer(&format!("fn_dispatch_audit('iu', p_repair => true, p_after => {after})"))
            .await;
        assert!(answer["missing"].as_i64().unwrap() <= 50, "{answer}");
        repaired += answer["repaired"].as_i64().unwrap();
        after = if answer["next"].is_null() { "done".to_owned() } else { format!("'{}'", answer["next"]) };
        calls += 1;
    }
    assert_eq!((repaired, calls), (260, 6));
    stage.outbox.assert_exactly_once().await;
}

#[tokio::test]
async fn an_event_that_came_while_the_trigger_was_off_is_the_sweeps_and_then_proven() {
    let stage = Stage::new().await;
    stage.run("alter table event_outbox disable trigger reveille_event_arrival").await;
    stage.outbox.emit(4).await;
    stage.run("alter table event_outbox enable trigger reveille_event_arrival").await;
    stage.outbox.drain(1000).await;
    let early = stage.audit().await;
    assert_eq!(numbers(&early), [0, 0, 0, 0, 0], "nothing behind the last sweep is claimed: {early}");
    assert_eq!(stage.sweep().await["missing"], json!(4));
    let unread = stage.audit().await;
    assert_eq!(numbers(&unread), [0, 0, 0, 0, 0], "nor what no pass has read: {unread}");
    stage.outbox.drain(1000).await;
    let late = stage.audit().await;
    assert_eq!(numbers(&late), [4, 8, 8, 0, 0], "{late}");
}

#[tokio::test]
async fn an_event_whose_arrival_was_lost_is_found() {
    let stage = Stage::new().await;
    stage.outbox.emit(3).await;
    stage.sweep().await;
    stage.run("delete from event_arrival").await;
    stage.outbox.drain(1000).await;
    let found = stage.audit().await;
    assert_eq!(numbers(&found), [3, 6, 0, 6, 0], "{found}");
    assert_eq!(stage.asked(", p_repair => true").await["repaired"], json!(6));
    stage.outbox.assert_exactly_once().await;
}

#[tokio::test]
async fn a_gap_that_somebody_else_mended_or_nobody_wants_any_more_is_closed() {
    let stage = Stage::new().await;
    stage.outbox.emit(2).await;
    stage.outbox.drain(1000).await;
    stage.run("delete from job_queue").await;
    stage.sweep().await;
    assert_eq!(stage.audit().await["missing"], json!(4));
    stage.run("update consumer_registry set event_type = 'another' where consumer_key = 'two'").await;
    stage.run("select fn_consumer_dispatch(id) from event_outbox where event_domain = 'iu'").await;
    assert_eq!(numbers(&stage.audit().await), [0, 0, 0, 0, 0]);
    let outcomes = "select string_agg(consumer_key || ' ' || outcome, ', ' order by consumer_key, event_id) from dispatch_gap";
    assert_eq!(stage.text(outcomes).await, "one decided, one decided, two not_wanted, two not_wanted");
}

#[tokio::test]
async fn a_repair_obeys_gate_and_pause_and_serves_no_consumer_that_was_not_expected() {
    let stage = Stage::new().await;
    stage.outbox.emit(2).await;
    stage.outbox.drain(1000).await;
    // disabled while the events came: it must not get them by a repair of the others
    stage.outbox.consumer("late", "iu", json!({"starts_at": "2020-01-01T00:00:00Z"})).await;
    stage.run("delete from job_queue where consumer_key = 'one'").await;
    stage.sweep().await;
    stage.run("select fn_pause('domain', 'iu', 'test', 'test')").await;
    assert_eq!(
        stage.outbox.answer("fn_dispatch_audit('iu', p_repair => true)").await["reason"],
        json!("paused")
    );
    stage.run("select fn_resume('domain', 'iu', 'test', 'test')").await;
    stage.outbox.gate("queue.job_substrate.enabled", false).await;
    let refused = stage.outbox.answer("fn_dispatch_audit('iu', p_repair => true)").await;
    assert_eq!(refused["reason"], json!("job_substrate_disabled"));
    assert_eq!(stage.asked("").await["missing"], json!(2), "a look is not refused");
    stage.outbox.gate("queue.job_substrate.enabled", true).await;
    assert_eq!(stage.asked(", p_repair => true").await["repaired"], json!(2));
    assert_eq!(stage.count("select count(*) from job_queue where consumer_key = 'late'").await, 0);
}

#[tokio::test]
async fn two_repairs_at_once_make_each_job_once() {
    let stage = Stage::new().await;
    stage.outbox.emit(40).await;
    stage.outbox.drain(1000).await;
    stage.run("delete from job_queue where consumer_key = 'one'").await;
    stage.sweep().await;
    let (first, second) = (stage.outbox.db.client().await, stage.outbox.db.client().await);
    let repair = "select fn_dispatch_audit('iu', p_repair => true)";
    let pass = "select fn_dispatch_audit_pass()";
    let (a, b, c) = futures::future::join3(
        first.query_one(repair, &[]),
        second.query_one(repair, &[]),
        stage.outbox.client.query_one(pass, &[]),
    )
    .await;
    let of =
        |row: Result<tokio_postgres::Row, tokio_postgres::Error>| row.unwrap().get::<_, serde_json::Value>(0);
    let (a, b, c) = (of(a), of(b), of(c));
    let sum = a["repaired"].as_i64().unwrap() + b["repaired"].as_i64().unwrap();
    assert_eq!(sum, 40, "{a} {b} {c}");
    stage.outbox.assert_exactly_once().await;
    emit(&stage.outbox.client, "iu", 1).await;
    assert_eq!(stage.closed().await["missing"], json!(0));
}

#[tokio::test]
async fn gaps_of_a_consumer_that_rests_for_a_moment_are_held_and_not_given_up() {
    let stage = Stage::new().await;
    stage.outbox.emit(60).await; // more than a pass repairs
    stage.outbox.drain(1000).await;
    stage.run("delete from job_queue").await;
    stage.sweep().await;
    assert_eq!(stage.audit().await["missing"], json!(120));
    stage.outbox.gate("queue.audit.repair_enabled", true).await;
    let findings =
        "select string_agg(severity || ' ' || finding, ', ' order by finding) from fn_dispatch_audit_check()";
    for rest in [
        "update consumer_registry set enabled = false where consumer_key = 'one'",
        "update consumer_registry set enabled = true, dry_run = true where consumer_key = 'one'",
    ] {
        stage.run(rest).await;
        assert!(stage.text(&format!("({findings})")).await.contains("warning gap_held"), "{rest}");
        stage.audit().await;
        stage.outbox.answer("fn_dispatch_audit('iu', p_repair => true)").await;
        assert_eq!(
            stage
                .count("select count(*) from dispatch_gap where consumer_key = 'one' and closed_at is null")
                .await,
            60,
            "{rest}"
        );
    }
    stage.audit().await;
    assert_eq!(
        stage.count("select count(*) from job_queue where consumer_key = 'two'").await,
        60,
        "and they do not stand before those of the others"
    );
    assert_eq!(stage.text(&format!("({findings})")).await, "warning gap_held");
    let (code, text, _) = words(&stage.outbox.db, &["health"]);
    assert!(
        code == Some(0) && text.contains("audit iu: 60 decisions are missing of consumers that are disabled"),
        "{text}"
    );
    stage.run("update consumer_registry set dry_run = false where consumer_key = 'one'").await;
    while stage.audit().await["repaired"] != 0 {}
    stage.outbox.assert_exactly_once().await;
    assert_eq!(stage.text(&format!("({findings})")).await, "");
}

#[tokio::test]
async fn every_open_gap_is_looked_at_again_however_many_stand_before_it() {
    let stage = Stage::new().await;
    stage.outbox.consumer("d", "dot", json!({})).await;
    emit(&stage.outbox.client, "dot", 1001).await;
    stage.run("update consumer_registry set starts_at = '2020-01-01'").await;
    stage
        .run(
            "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane)
             select 'dot', 'later', 'update', 'immediate' from generate_series(1, 2)",
        )
        .await;
    stage.outbox.emit(1).await;
    stage
        .run(
            "insert into dispatch_gap (event_id, consumer_key, event_domain, event_type, event_created_at)
             select id, case event_domain when 'iu' then 'one' else 'd' end, event_domain, event_type, created_at from event_outbox",
        )
        .await;
    // somebody mends the last of each
    stage.run("select fn_consumer_dispatch(id) from event_outbox where event_domain = 'iu' or event_type = 'later'").await;
    let open = "select count(*) from dispatch_gap where closed_at is null and event_domain = ";
    stage.audit().await;
    assert_eq!(stage.count(&format!("{open} 'iu'")).await, 0, "one domain does not hold up another");
    for _ in 0..5 {
        stage.audit().await;
    }
    assert_eq!(stage.count(&format!("{open} 'dot'")).await, 1001, "and behind the last it begins anew");
    stage.run("select fn_consumer_dispatch(id) from event_outbox where event_domain = 'dot' order by created_at limit 200").await;
    for _ in 0..6 {
        stage.audit().await;
    }
    assert_eq!(stage.count(&format!("{open} 'dot'")).await, 801);
}
