//! An audit that does not come to its end tells what it has done.

use serde_json::{Value, json};

use super::stage::Stage;
use crate::commands::json as document;
use crate::support::{Program, SOON, emit, wait_until};

/// Two gaps in each of `iu` and `tac`.
async fn with_gaps_in_two_domains() -> Stage {
    let stage = Stage::new().await;
    stage.outbox.consumer("t", "tac", json!({})).await;
    stage.audit().await;
    stage.outbox.emit(2).await;
    emit(&stage.outbox.client, "tac", 2).await;
    stage.outbox.drain(1000).await;
    stage.run("select fn_consumer_dispatch_batch('tac', 1000)").await;
    stage.run("delete from job_queue where consumer_key in ('t', 'two')").await;
    stage.sweep().await;
    stage.run("select fn_consumer_dispatch_batch('tac', 1000)").await;
    stage
}

fn repaired(audits: &Value) -> Vec<(&str, i64)> {
    let audits = audits.as_array().unwrap_or_else(|| panic!("{audits}"));
    let one = |audit: &'static str| move |of: &Value| of["event_domain"] == audit;
    ["iu", "tac"]
        .iter()
        .filter_map(|domain| Some((*domain, audits.iter().find(|of| one(domain)(of))?["repaired"].as_i64()?)))
        .collect()
}

/// Gaps of `tac` cannot be noted, with this SQLSTATE; the first `times` times.
async fn fails(stage: &Stage, sqlstate: &str, times: i32) {
    stage
        .run(&format!(
            "create sequence tried;
             create function refuse() returns trigger language plpgsql as
             $$ begin
               if new.event_domain = 'tac' and nextval('tried') <= {times} then raise exception 'not now' using errcode = '{sqlstate}'; end if;
               return new;
             end $$;
             create trigger refuse before insert on dispatch_gap for each row execute function refuse()"
        ))
        .await;
}

#[tokio::test]
async fn after_an_error_what_was_repaired_before_is_told() {
    let stage = with_gaps_in_two_domains().await;
    fails(&stage, "22000", 1000).await;
    let (code, audits, error) = document(&stage.outbox.db, &["events", "audit", "--repair"]);
    assert_eq!((code, repaired(&audits)), (Some(1), vec![("iu", 2)]), "{audits}");
    assert!(error["error"]["message"].as_str().unwrap().contains("not now"), "{error}");
    let (code, audits, _) = document(&stage.outbox.db, &["events", "audit", "--repair", "--domain", "tac"]);
    assert_eq!((code, audits), (Some(1), Value::Null), "nothing was looked at");
}

#[tokio::test]
async fn a_deadlock_with_another_session_is_tried_again() {
    let stage = with_gaps_in_two_domains().await;
    fails(&stage, "40P01", 2).await;
    let (code, audits, _) = document(&stage.outbox.db, &["events", "audit", "--repair"]);
    assert_eq!((code, repaired(&audits)), (Some(1), vec![("iu", 2), ("tac", 2)]), "{audits}");
}

#[tokio::test]
async fn a_signal_lets_the_part_finish_a_second_does_not_and_both_are_told() {
    let stage = with_gaps_in_two_domains().await;
    let db = &stage.outbox.db;
    let holder = db.client().await;
    let held = async || {
        holder
            .batch_execute("begin; select from audit_domain where event_domain = 'tac' for update")
            .await
            .unwrap();
        let program = Program::start(&db.url(), &["events", "audit", "--repair", "--json"], &[]);
        let waits = "select count(*) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock' and query like '%fn_dispatch_audit(%'";
        wait_until("it waits in tac", SOON, async || stage.count(waits).await == 1).await;
        program
    };
    let program = held().await;
    program.signal("INT");
    program.signal("TERM");
    let ended = program.ends().await;
    let audits = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {}", ended.out));
    assert_eq!((ended.code, repaired(&audits)), (Some(1), vec![("iu", 2)]), "{audits}");
    holder.batch_execute("rollback").await.unwrap();
    let idle = "select count(*) from pg_stat_activity
        where datname = current_database() and state = 'active' and query like '%fn_dispatch_audit(%' and pid <> pg_backend_pid()";
    wait_until("its statement has ended", SOON, async || stage.count(idle).await == 0).await;
    stage.run("delete from job_queue where consumer_key = 't'").await;

    let program = held().await;
    program.signal("INT");
    // heard before the part has ended or after: what it repaired is told
    holder.batch_execute("rollback").await.unwrap();
    let ended = program.ends().await;
    let audits = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {}", ended.out));
    assert_eq!(repaired(&audits).last(), Some(&("tac", 2)), "{audits}");
}
