//! The server itself: restarted, crashed, its notification queue full.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::support::{Outbox, Sidecar, listening, own_server, polling, quiet_options, skipped, woken};

#[tokio::test]
async fn a_restart_and_a_crash_of_the_server_lose_nothing() {
    // what is committed must outlive the crash
    let options =
        quiet_options().set("fsync", "on").set("synchronous_commit", "on").set("full_page_writes", "on");
    let server = Arc::new(own_server(options).await);
    let mut outbox = Outbox::open_on(Arc::clone(&server)).await;
    outbox.two_consumers().await;
    let mut settings = woken(&outbox.db);
    settings.dispatch.batch_size = 7;
    let sidecar = Sidecar::start_listening(settings, &outbox.client).await;
    for crash in [false, true, false, true] {
        outbox.emit(100).await;
        if crash {
            server.kill9().await.unwrap();
            server.start_again().await.unwrap();
        } else {
            server.restart().await.unwrap();
        }
        outbox.client = outbox.db.client().await;
        outbox.emit(3).await; // before the sidecar is back, or after
        outbox.exactly_once_soon().await;
        listening(&outbox.client, 1).await;
        outbox.emit(2).await;
        outbox.exactly_once_soon().await;
    }
    sidecar.stop().await;
}

/// `max_notify_queue_pages` exists from 17 on; before, the queue holds 8 GB and cannot be filled by a test. What a
/// producer would meet there is the same error at commit, which is why nothing is announced once half of it is full.
#[tokio::test]
async fn with_the_notification_queue_full_producers_go_on_and_the_poll_finds_everything() {
    let server = own_server(quiet_options()).await;
    if server.binaries().version < 17 {
        return skipped(&format!(
            "it needs Postgres 17 or later (REVEILLE_PG_BIN), this is {}",
            server.binaries().version
        ));
    }
    drop(server);
    let server = Arc::new(own_server(quiet_options().set("max_notify_queue_pages", "64")).await);
    let outbox = Outbox::open_on(Arc::clone(&server)).await;
    outbox.two_consumers().await;
    let mut settings = polling(&outbox.db);
    settings.listener.canary_interval = Duration::from_secs(1);
    let sidecar = Sidecar::start_listening(settings, &outbox.client).await;
    // who listens and never comes to the end of a transaction keeps the queue from being emptied (trap 4)
    let stuck = outbox.db.client().await;
    stuck.batch_execute("listen something").await.unwrap();
    stuck.batch_execute("begin; select 1").await.unwrap();
    let fill = "select count(pg_notify('something', repeat('x', 7000) || n)) from generate_series(1, 10) n";
    let mut is_full = false;
    for _ in 0..100 {
        is_full = is_full || outbox.client.batch_execute(fill).await.is_err();
    }
    assert!(is_full, "the queue is full: other commits with NOTIFY fail");
    outbox.settle("poll").await;
    outbox.emit_found_by("poll", 8).await;
    stuck.batch_execute("commit").await.unwrap();
    outbox.settle("notify").await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_database_that_is_serializable_by_default_is_dispatched() {
    let outbox = Outbox::with_two_consumers().await;
    let default = "alter database {} set default_transaction_isolation = 'serializable'";
    outbox.client.batch_execute(&default.replace("{}", outbox.db.name())).await.unwrap();
    let sidecar = Sidecar::start_listening(woken(&outbox.db), &outbox.client).await;
    outbox.emit(3).await;
    outbox.exactly_once_soon().await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_dump_restored_under_a_sidecar_is_attached_when_it_starts() {
    let outbox = Outbox::with_two_consumers().await;
    outbox.emit(3).await;
    outbox.drain(100).await;
    outbox.emit(4).await;
    let restore = "update dispatch_cursor set system_identifier = 1;
                   update dispatch_pass set snapshot_new = '9000000:9000000:', snapshot_old = '9000000:9000000:'";
    outbox.client.batch_execute(restore).await.unwrap();
    let sidecar = Sidecar::start(woken(&outbox.db));
    outbox.exactly_once_soon().await;
    assert_eq!(outbox.answer("fn_dispatch_attach()").await["restored"], json!(false));
    // and when it happens to a running one
    listening(&outbox.client, 1).await;
    outbox.client.batch_execute(restore).await.unwrap();
    outbox.emit(2).await;
    outbox.exactly_once_soon().await;
    sidecar.stop().await;
}
