//! A closed gate is a state, not a failure: told when it closes and when it opens, and nothing is lost in between.

use serde_json::Value;

use crate::support::{Program, SOON, TestDb, all_became_jobs, emit_each, flow, wait_until};

const GATE: &str = "queue.job_substrate.enabled";

async fn turn(db: &TestDb, how: &str) {
    let ended = Program::start(&db.url(), &["gate", how, GATE, "--reason", "test"], &[]).ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

#[tokio::test]
async fn a_closed_gate_is_told_once_and_opens_at_once() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    turn(&db, "close").await;
    emit_each(&client, 3).await;
    // it polls often, and does not tell often; once it listens it hears of the gate at once
    let mut sidecar = Program::run(&db.url(), &[]);
    let line = sidecar.says(&["WARN", "job_substrate_disabled"]).await;
    assert!(
        line.contains(
            "dispatch is refused, positions stay where they are: open the gate: `reveille gate open"
        )
    );
    sidecar.has_said("listening").await;
    let polls = async || {
        let calls = "select xact_commit from pg_stat_database where datname = current_database()";
        client.query_one(calls, &[]).await.unwrap().get::<_, i64>(0)
    };
    let before = polls().await;
    wait_until("it has polled several times", SOON, async || polls().await > before + 10).await;
    assert_eq!(sidecar.lines_with("WARN").len(), 1, "{:?}", sidecar.lines_with("WARN"));
    turn(&db, "open").await;
    sidecar.says(&["INFO", "dispatch is open"]).await;
    all_became_jobs(&client).await;
    sidecar.stops().await;
}

#[tokio::test]
async fn a_gate_is_heard_of_without_a_poll() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let mut sidecar = Program::run(&db.url(), &[("REVEILLE__DISPATCH__POLL_INTERVAL", "1h")]);
    sidecar.says(&["listening"]).await;
    emit_each(&client, 1).await;
    all_became_jobs(&client).await;
    turn(&db, "close").await;
    sidecar.says(&["WARN", "dispatch is refused"]).await;
    emit_each(&client, 3).await;
    turn(&db, "open").await;
    sidecar.says(&["INFO", "dispatch is open"]).await;
    all_became_jobs(&client).await;
    sidecar.stops().await;
}

#[tokio::test]
async fn tick_says_which_gate_is_closed_and_exits_with_3() {
    let db = TestDb::new().await;
    let ended = Program::start(&db.url(), &["tick"], &[]).ends().await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(3), ""));
    let words = "refused: job_substrate_disabled\nhint: open the gate: `reveille gate open queue.job_substrate.enabled";
    assert!(ended.err.starts_with(words), "{}", ended.err);
    let ended = Program::start(&db.url(), &["tick", "--json"], &[]).ends().await;
    assert_eq!(ended.code, Some(3));
    let answer: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&answer["refused"], &answer["reason"]), (&true.into(), &"job_substrate_disabled".into()));
}
