//! What holds an event back from being read at all.

use serde_json::json;

use super::stage::{Stage, says};
use crate::adoption::HOST;
use crate::commands::words;
use crate::support::{TestDb, emit};

#[tokio::test]
async fn an_event_that_no_pass_has_read_is_told_with_its_place_and_the_last_pass() {
    let stage = Stage::open().await;
    stage.outbox.two_consumers().await;
    stage.outbox.emit(10).await;
    stage.outbox.pass(4).await; // a pass in the middle of what it reads
    let event = stage.event(json!({})).await;
    let rows = stage.of_event(event).await;
    says(
        &rows[0],
        "waits",
        "not_dispatched",
        &["6 of iu before it", "the last pass was at"],
        "reveille tick",
    );
    assert_eq!(rows[0]["detail"]["ahead"], 6, "{rows:#?}");
    assert!(rows[0]["detail"]["place_tx"].is_string(), "the position of the cursor: {rows:#?}");
    says(&rows[1], "waits", "not_dispatched", &["a job test.one once the event is read"], "");
    stage.outbox.drain(100).await;
    says(&stage.of_event(event).await[0], "dispatched", "dispatched", &[], "");
}

#[tokio::test]
async fn a_closed_gate_and_pauses_that_stop_dispatch_are_told_with_who_and_why() {
    let stage = Stage::open().await;
    stage.outbox.consumer("one", "iu", json!({})).await;
    let event = stage.event(json!({})).await;
    stage.outbox.gate("queue.job_substrate.enabled", false).await;
    stage.pause("domain", "iu").await;
    stage.pause("domain", "kg").await; // another one
    let rows = stage.of_event(event).await;
    let gate = "reveille gate open queue.job_substrate.enabled";
    says(&rows[0], "waits", "job_substrate_disabled", &["is closed", "is kept"], gate);
    let paused = ["domain iu is paused since", "by user:ann: the disk is full"];
    says(&rows[1], "waits", "paused", &paused, "reveille resume domain iu --reason TEXT");
    says(&rows[2], "waits", "not_dispatched", &[], "");
    assert_eq!((rows.len(), &rows[3]["reason"]), (4, &json!("job_substrate_disabled")), "{rows:#?}");
    stage.outbox.gate("queue.job_substrate.enabled", true).await;
    stage.pause("all", "").await;
    let rows = stage.of_event(event).await;
    says(&rows[1], "waits", "paused", &["all is paused since"], "reveille resume all --reason TEXT");
}

#[tokio::test]
async fn an_open_transaction_that_holds_the_cursor_is_named_with_its_session_and_since_when() {
    let stage = Stage::open().await;
    let event = stage.event(json!({})).await;
    let mut holder = stage.outbox.db.client().await;
    holder.batch_execute("set application_name = 'a forgotten shell'").await.unwrap();
    let transaction = holder.transaction().await.unwrap();
    transaction
        .batch_execute("select from dispatch_cursor where event_domain = 'iu' for update")
        .await
        .unwrap();
    let pid: i32 = transaction.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let rows = stage.of_event(event).await;
    let session = format!("session {pid} (postgres, a forgotten shell) holds the cursor of iu");
    says(&rows[0], "waits", "busy", &[&session, "open since 20"], &format!("pg_terminate_backend({pid})"));
    says(&rows[1], "waits", "not_dispatched", &[], "");
    transaction.rollback().await.unwrap();
    assert_eq!(stage.of_event(event).await[0]["reason"], "not_dispatched", "nobody holds it now");
}

#[tokio::test]
async fn an_insert_that_left_no_arrival_waits_for_the_sweep() {
    let stage = Stage::open().await;
    stage.outbox.consumer("one", "iu", json!({})).await;
    stage.run("alter table event_outbox disable trigger reveille_event_arrival").await;
    let event = stage.event(json!({})).await;
    let rows = stage.of_event(event).await;
    says(
        &rows[0],
        "waits",
        "no_arrival",
        &["the sweep of reveille run finds it"],
        "reveille events dispatch",
    );
    says(&rows[1], "waits", "no_arrival", &[], "");
    stage.value("select fn_event_sweep()", &[]).await;
    says(&stage.of_event(event).await[0], "waits", "not_dispatched", &[], "");
    stage.outbox.drain(100).await;
    stage.value("select fn_event_sweep('0')", &[]).await;
    says(&stage.of_event(event).await[0], "dispatched", "dispatched", &[], "");
}

#[tokio::test]
async fn a_domain_that_is_not_dispatched_and_an_event_older_than_its_dispatch_are_told() {
    let stage = Stage::open().await;
    stage.run("alter table event_outbox drop constraint event_outbox_event_domain_check").await; // a host without it
    emit(&stage.outbox.client, "elsewhere", 1).await;
    let id = stage.value("select id from event_outbox", &[]).await;
    let event = id.as_str().unwrap().parse().unwrap();
    let rows = stage.of_event(event).await;
    let what = ["domain elsewhere is not dispatched here"];
    says(&rows[0], "no_job", "domain_not_dispatched", &what, "fn_dispatch_domain_add('elsewhere')");
    stage.run("select fn_dispatch_domain_add('elsewhere')").await;
    stage.outbox.consumer("one", "elsewhere", json!({"starts_at": "-infinity"})).await;
    let rows = stage.of_event(event).await;
    says(
        &rows[0],
        "no_job",
        "before_start",
        &["older than the dispatch of domain elsewhere"],
        "events dispatch",
    );
    says(&rows[1], "no_job", "before_start", &["dispatch does not read it"], "events dispatch");
}

#[tokio::test]
async fn an_event_of_an_adopted_host_is_explained_too() {
    let db = TestDb::empty().await;
    let client = db.client().await;
    client.batch_execute(HOST).await.unwrap();
    db.migrate().await;
    let old = "select x.verdict, x.reason from event_outbox e cross join lateral fn_event_explain(e.id) x
        where x.consumer_key is null limit 1";
    let row = client.query_one(old, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("no_job", "before_start"));
    client.query("select * from v_reason_counts", &[]).await.unwrap();
}

#[tokio::test]
async fn a_prepared_transaction_that_holds_the_cursor_is_named_with_who_and_the_statement_that_ends_it() {
    let stage = Stage::open().await;
    let event = stage.event(json!({})).await;
    let name = format!("left {}", stage.outbox.db.name());
    let hold = "begin; select from dispatch_cursor where event_domain = 'iu' for update";
    stage.run(&format!("{hold}; prepare transaction '{name}'")).await;
    let rows = stage.of_event(event).await;
    let what = format!("prepared transaction {name} of postgres holds the cursor of iu since 20");
    let ends = format!("rollback prepared '{name}'");
    says(&rows[0], "waits", "busy", &[&what], &ends);
    says(&rows[1], "waits", "not_dispatched", &[], "");
    stage.run(rows[0]["hint"].as_str().unwrap().split("or, ").nth(1).unwrap()).await;
    assert_eq!(stage.of_event(event).await[0]["reason"], "not_dispatched", "nobody holds it now");
}

#[tokio::test]
async fn an_event_of_a_restored_dump_waits_until_its_position_is_set_right_and_is_not_called_read() {
    let stage = Stage::open().await;
    stage.outbox.consumer("one", "iu", json!({})).await;
    stage.outbox.emit(3).await;
    stage.outbox.drain(100).await;
    stage
        .run("update dispatch_pass set snapshot_old = '900000000:900000000:', snapshot_new = '900000000:900000000:'")
        .await;
    let event = stage.event(json!({})).await;
    let rows = stage.of_event(event).await;
    let what = ["the position of iu lies in the future of this cluster: a restored dump"];
    says(&rows[0], "waits", "position_is_ahead", &what, "restart reveille run; or, for once, reveille tick");
    says(&rows[1], "waits", "position_is_ahead", &["a job test.one once the event is read"], "");
    assert_eq!(rows.len(), 2, "{rows:#?}");
    assert_eq!(words(&stage.outbox.db, &["tick"]).0, Some(0));
    says(&stage.of_event(event).await[0], "dispatched", "dispatched", &[], "");
    says(&stage.of_consumer(event, "one").await, "job", "job", &[], "reveille jobs explain");
}
