//! `reveille tick`: one bounded pass of everything, as cron starts it.

use serde_json::Value;

use crate::support::{Program, TestDb, all_became_jobs, emit_at_once, emit_each, flow};

#[tokio::test]
async fn tick_dispatches_what_is_there_and_says_how_much() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    emit_each(&client, 3).await;
    let ended = Program::start(&db.url(), &["tick", "--json"], &[]).ends().await;
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    let tick: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&tick["events"], &tick["jobs"], &tick["swept"]), (&3.into(), &3.into(), &0.into()), "{tick}");
    all_became_jobs(&client).await;
    let ended = Program::start(&db.url(), &["tick"], &[]).ends().await;
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    assert!(ended.out.starts_with("events read            0\n"), "{}", ended.out);
}

#[tokio::test]
async fn ten_thousand_events_are_one_tick() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    for _ in 0..5 {
        emit_at_once(&client, 2000).await.unwrap();
    }
    let ended = Program::start(&db.url(), &["tick", "--json"], &[]).ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let tick: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&tick["events"], &tick["jobs"]), (&10_000.into(), &10_000.into()), "{tick}");
    all_became_jobs(&client).await;
}

#[tokio::test]
async fn two_ticks_at_once_share_the_work_and_neither_fails() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    emit_at_once(&client, 2000).await.unwrap();
    let small = [("REVEILLE__DISPATCH__BATCH_SIZE", "50")];
    let ticks = [(); 3].map(|()| Program::start(&db.url(), &["tick"], &small));
    for tick in ticks {
        let ended = tick.ends().await;
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    }
    all_became_jobs(&client).await;
}

#[tokio::test]
async fn tick_beside_a_running_sidecar_does_no_harm() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let mut sidecar = Program::run(&db.url(), &[]);
    sidecar.says(&["is running"]).await;
    for _ in 0..3 {
        emit_at_once(&client, 500).await.unwrap();
        let ended = Program::start(&db.url(), &["tick"], &[]).ends().await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
    }
    all_became_jobs(&client).await;
    sidecar.stops().await;
}
