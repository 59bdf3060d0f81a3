//! What happened before does not flow unasked.

use serde_json::json;

use crate::support::{Outbox, Sidecar, TestDb, listening, polling};

#[tokio::test]
async fn a_history_that_exists_before_a_consumer_does_not_flow_unasked() {
    let outbox = Outbox::open().await;
    outbox.emit(10).await; // read by nobody yet
    outbox.consumer("late", "iu", json!({})).await;
    outbox.emit(3).await;
    assert_eq!(outbox.drain(4).await, 13);
    assert_eq!(outbox.jobs().await, 3);
    // asked for by name, each event still begins at starts_at
    let old = "select id::text from event_outbox order by created_at limit 1";
    let old: String = outbox.client.query_one(old, &[]).await.unwrap().get(0);
    let answer = outbox.answer(&format!("fn_consumer_dispatch('{old}')")).await;
    assert_eq!(answer["decisions"][0]["decision"], json!("before_start"), "{answer}");
    outbox.consumer("history", "iu", json!({"starts_at": "-infinity"})).await;
    outbox.emit(1).await;
    outbox.drain(100).await;
    assert_eq!(outbox.jobs().await, 5, "what has been passed over stays passed over");
}

#[tokio::test]
async fn rows_from_before_the_installation_never_flow() {
    let db = TestDb::empty().await;
    let host = include_str!("../../../migrations/001_host_baseline/up.sql");
    let from = host.find("create table if not exists event_outbox").unwrap();
    let to = host.find("-- Only where the table is ours").unwrap();
    let client = db.client().await;
    client.batch_execute(&host[from..to]).await.unwrap();
    crate::support::emit(&client, "iu", 50).await;
    db.migrate().await;
    let outbox = Outbox::of(db).await;
    outbox.consumer("one", "iu", json!({"starts_at": "-infinity"})).await;
    let mut settings = polling(&outbox.db);
    settings.sweep.interval = std::time::Duration::from_millis(100);
    settings.sweep.margin = std::time::Duration::ZERO;
    let sidecar = Sidecar::start(settings);
    listening(&outbox.client, 1).await;
    outbox.emit(2).await;
    crate::support::wait_until("what is new flows", crate::support::SOON, async || outbox.jobs().await == 2)
        .await;
    let swept = "select count(*) from dispatch_sweep";
    crate::support::wait_until("it has swept", crate::support::SOON, async || outbox.count(swept).await > 0)
        .await;
    sidecar.stop().await;
    assert_eq!(outbox.jobs().await, 2);
    assert_eq!(outbox.count("select count(*) from event_arrival").await, 2);
}

#[tokio::test]
async fn what_happens_while_a_consumer_is_disabled_passes_it_by() {
    let outbox = Outbox::open().await;
    outbox.consumer("one", "iu", json!({})).await;
    let enable = async |enabled: bool| {
        outbox.answer(&format!("fn_consumer_set_enabled('one', {enabled}, 'test', 'a test')")).await
    };
    outbox.emit(2).await;
    outbox.drain(100).await;
    enable(false).await;
    outbox.emit(3).await;
    outbox.drain(100).await;
    enable(true).await;
    outbox.emit(4).await;
    outbox.drain(100).await;
    assert_eq!(outbox.jobs().await, 6);
}
