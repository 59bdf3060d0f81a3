//! Postgres knows everything: processes and notifications may be lost.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::support::{Outbox, SOON, Sidecar, TestDb, heard, open_gates, polling, wait_until};

#[tokio::test]
#[expect(non_snake_case, reason = "the invariant's name")]
async fn PG_is_source_of_truth() {
    let outbox = Outbox::with_two_consumers().await;
    outbox.emit(10).await;
    let first = Sidecar::start(polling(&outbox.db));
    wait_until("some work is done", SOON, async || outbox.jobs().await > 0).await;
    outbox.emit(300).await;
    drop(first); // at any point; it says goodbye to nobody
    outbox.emit(10).await;
    let second = Sidecar::start(polling(&outbox.db));
    outbox.exactly_once_soon().await;
    second.stop().await;
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    for other in ["redis", "nats", "kafka", "lapin", "sqlite"] {
        assert!(!lock.lines().any(|line| line.starts_with("name = ") && line.contains(other)), "{other}");
    }
}

#[tokio::test]
#[expect(non_snake_case, reason = "the invariant's name")]
async fn LISTEN_NOTIFY_is_wakeup_signal() {
    let outbox = Outbox::with_two_consumers().await;
    // it says that there is something, and nothing else
    let channels = ["queue_wake_iu", "job_wake_pg_worker", "queue_control"];
    let heard = heard(&outbox.db.url(), &channels, "queue_control", async || {
        outbox.emit(3).await;
        outbox.pass(10).await;
        outbox.gate("queue.notify.bridge_enabled", true).await;
    })
    .await;
    let once = || vec![String::new()];
    assert_eq!(heard, channels.map(|channel| (channel.to_owned(), once())).into());
    // without it everything is found, later
    outbox.gate("queue.notify.bridge_enabled", false).await;
    let sidecar = Sidecar::start(polling(&outbox.db));
    outbox.emit(100).await;
    outbox.exactly_once_soon().await;
    outbox.emit(100).await;
    outbox.exactly_once_soon().await;
    sidecar.stop().await;
    assert!(!outbox.found_by().await.contains_key("notify"));
}

/// The view's hint of one thing.
async fn hint(client: &Client, component: &str, name: &str) -> String {
    let hint = "select status_hint from v_queue_health where component = $1 and name = $2";
    client.query_one(hint, &[&component, &name]).await.unwrap().get(0)
}

#[tokio::test]
async fn status_visibility_required() {
    let database = TestDb::new().await;
    let client = database.client().await;
    open_gates(&client).await;
    let components = "select component, count(*) from v_queue_health group by 1";
    let rows = client.query(components, &[]).await.unwrap();
    let rows: BTreeMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let wanted = [("backlog", 7), ("cursor", 11), ("dead_letter", 2), ("lease", 1)];
    assert_eq!(rows, wanted.map(|(component, rows)| (component.to_owned(), rows)).into());

    client.batch_execute("select fn_queue_heartbeat_register('worker', 'PG_worker')").await.unwrap();
    assert_eq!(hint(&client, "executor", "worker").await, "fresh");
    for (age, expected) in [(130, "warning"), (400, "stale")] {
        let beat =
            format!("update queue_heartbeat set last_beat_at = clock_timestamp() - interval '{age} seconds'");
        client.batch_execute(&beat).await.unwrap();
        assert_eq!(hint(&client, "executor", "worker").await, expected, "{age} s");
    }
    client.batch_execute("update queue_heartbeat set last_beat_at = null").await.unwrap();
    assert_eq!(hint(&client, "executor", "worker").await, "never");

    // an event that nobody dispatches, and a job that nobody runs
    let old = "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, created_at)
        values ('iu', 'changed', 'update', 'immediate', now() - interval '10 minutes')";
    assert_eq!(hint(&client, "cursor", "iu").await, "fresh");
    client.batch_execute(old).await.unwrap();
    assert_eq!(hint(&client, "cursor", "iu").await, "never");
    client.batch_execute("select fn_consumer_dispatch_batch('iu')").await.unwrap();
    assert_eq!(hint(&client, "cursor", "iu").await, "fresh");
    client.batch_execute(old).await.unwrap();
    assert_eq!(hint(&client, "cursor", "iu").await, "stale");
    let job = "select fn_job_enqueue('test', 'test', p_scheduled_at => now() - interval '10 minutes')";
    client.batch_execute(job).await.unwrap();
    assert_eq!(hint(&client, "backlog", "PG_worker").await, "stale");

    // a lease whose executor went away
    let lease = "select fn_queue_heartbeat_register('worker', 'PG_worker');
        select fn_job_claim('worker');
        update job_queue set lease_until = now() - interval '10 minutes'";
    client.batch_execute(lease).await.unwrap();
    assert_eq!(hint(&client, "lease", "ended").await, "stale");
    assert_eq!(hint(&client, "backlog", "PG_worker").await, "fresh");
}
