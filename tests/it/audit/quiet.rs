//! No false alarm: late commits, long transactions, load, a closed gate, a restart.

use std::sync::Arc;
use std::time::Duration;

use reveille::maintain::{Audited, Auditor};
use reveille::postgres::Server;
use serde_json::json;

use super::stage::{Stage, numbers};
use crate::support::{Outbox, SOON, Sidecar, TestDb, emit, own_server, polling, quiet_options, wait_until};

#[tokio::test]
async fn a_transaction_that_commits_late_is_waited_for_and_then_proven() {
    let stage = Stage::new().await;
    let late = stage.outbox.db.client().await;
    late.batch_execute("begin").await.unwrap();
    emit(&late, "iu", 2).await;
    stage.outbox.emit(3).await;
    assert_eq!(numbers(&stage.closed().await), [0, 0, 0, 0, 0], "somebody who began before may still commit");
    late.batch_execute("commit").await.unwrap();
    assert_eq!(numbers(&stage.closed().await), [5, 10, 10, 0, 0]);
}

#[tokio::test]
async fn what_dispatch_has_not_read_is_not_missing() {
    let stage = Stage::new().await;
    stage.outbox.emit(3).await;
    stage.sweep().await;
    assert_eq!(numbers(&stage.audit().await), [0, 0, 0, 0, 0]);
    stage.run("select fn_pause('domain', 'iu', 'test', 'test')").await;
    stage.sweep().await;
    assert_eq!(numbers(&stage.audit().await), [0, 0, 0, 0, 0], "paused");
    assert_eq!(
        stage.text("(select paused_by from v_consumer_lag where consumer_key = 'one')").await,
        "domain"
    );
    stage.run("select fn_resume('domain', 'iu', 'test', 'test')").await;
    assert_eq!(stage.outbox.pass(2).await, (2, true));
    assert_eq!(numbers(&stage.audit().await), [0, 0, 0, 0, 0], "in the middle");
    stage.outbox.drain(2).await;
    assert_eq!(numbers(&stage.audit().await), [3, 6, 6, 0, 0]);
}

#[tokio::test]
async fn a_domain_that_is_never_idle_is_proven_behind_its_position() {
    let stage = Stage::new().await;
    for _ in 0..4 {
        stage.outbox.emit(2).await;
        stage.sweep().await;
        stage.audit().await; // marks what the sweep closed
        stage.outbox.drain(1000).await;
        stage.outbox.emit(1).await; // there is always something unread
    }
    stage.audit().await;
    let counted = stage
        .text("(select array[events, expected, missing] from audit_domain where event_domain = 'iu')")
        .await;
    // the last sweep closed 2 of each round, and the 1 of each round before
    assert_eq!(counted, "{11,22,0}");
}

#[tokio::test]
async fn under_load_with_changing_consumers_nothing_is_missing() {
    let stage = Stage::new().await;
    let mut settings = polling(&stage.outbox.db);
    settings.sweep.interval = Duration::from_secs(1);
    settings.sweep.margin = Duration::ZERO;
    settings.maintenance.audit_interval = Duration::from_secs(1);
    let sidecar = Sidecar::start(settings);
    let producers = (0..4).map(|n| {
        let db = &stage.outbox.db;
        async move {
            let client = db.client().await;
            for round in 0..if n == 3 { 10 } else { 150 } {
                client.batch_execute("begin").await.unwrap();
                emit(&client, "iu", 1 + n).await;
                if n == 3 {
                    client.batch_execute("select pg_sleep(0.7)").await.unwrap(); // a long transaction
                }
                client.batch_execute(if round % 7 == 6 { "rollback" } else { "commit" }).await.unwrap();
            }
        }
    });
    let changes = async {
        let client = stage.outbox.db.client().await;
        for on in [false, true].into_iter().cycle().take(10) {
            let flip = format!("select fn_consumer_set_enabled('two', {on}, 'test', 'test'), pg_sleep(0.4)");
            client.batch_execute(&flip).await.unwrap();
        }
    };
    futures::future::join(futures::future::join_all(producers), changes).await;
    let last = stage.text("clock_timestamp()").await;
    let proven =
        format!("select exists (select from audit_domain where event_domain = 'iu' and place_at > '{last}')");
    wait_until("the audit comes to the end", SOON, async || {
        stage.text(&format!("({proven})")).await == "true"
    })
    .await;
    sidecar.stop().await;
    let counts = "select expected > 0 and found = expected and missing = 0 from audit_domain where event_domain = 'iu'";
    assert_eq!(stage.text(&format!("({counts})")).await, "true");
    assert_eq!(stage.count("select count(*) from dispatch_gap").await, 0);
    assert_eq!(stage.asked(", p_limit => 100000").await["missing"], json!(0));
}

#[tokio::test]
async fn a_restart_in_between_changes_nothing() {
    let server = Arc::new(own_server(quiet_options()).await);
    let outbox = Outbox::open_on(Arc::clone(&server)).await;
    outbox.two_consumers().await;
    let mut stage = Stage::of(outbox).await;
    stage.outbox.emit(3).await;
    stage.sweep().await;
    stage.outbox.drain(1000).await;
    server.restart().await.unwrap();
    stage.outbox.client = stage.outbox.db.client().await;
    assert_eq!(numbers(&stage.audit().await), [3, 6, 6, 0, 0]);
    stage.outbox.emit(2).await;
    assert_eq!(numbers(&stage.closed().await), [2, 4, 4, 0, 0]);
}

#[tokio::test]
async fn after_a_restored_dump_nothing_is_claimed_until_its_positions_are_valid_again() {
    let stage = Stage::new().await;
    stage.outbox.emit(3).await;
    stage.sweep().await;
    stage.outbox.drain(1000).await;
    stage
        .run("update dispatch_cursor set system_identifier = 1; update audit_mark set system_identifier = 1")
        .await;
    assert_eq!(numbers(&stage.audit().await), [0, 0, 0, 0, 0]);
    assert_eq!(stage.asked("").await["closed_until"], json!(null));
    stage.run("select fn_dispatch_attach()").await;
    stage.outbox.drain(1000).await;
    assert_eq!(numbers(&stage.audit().await), [3, 6, 6, 0, 0]);
}

#[tokio::test]
async fn a_pass_that_takes_too_long_is_followed_by_smaller_ones() {
    let db = TestDb::new().await;
    let slow = "create or replace function fn_dispatch_audit_pass(p_limit int default 10000, p_now timestamptz default null) returns jsonb
        language plpgsql as 'begin
          if p_limit > 2000 then perform pg_sleep(600); end if;
          return jsonb_build_object(''refused'', false, ''more'', false, ''events'', p_limit);
        end'";
    db.client().await.batch_execute(slow).await.unwrap();
    let mut settings = db.settings();
    settings.database.statement_timeout = Duration::from_millis(100);
    let auditor =
        Auditor::new(&Server::from_settings(&settings.database).unwrap(), &settings.maintenance).unwrap();
    let mut audited = Audited::default();
    for _ in [5000, 2500] {
        let error = auditor.run_once(&mut audited).await.unwrap_err();
        assert_eq!(error.sqlstate(), Some("57014"), "{error}");
    }
    auditor.run_once(&mut audited).await.unwrap();
    assert_eq!(audited.events, 1250);
}
