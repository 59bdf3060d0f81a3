//! The sidecar itself dies, or stands still, in the worst moment.

use crate::support::{Outbox, Program, SOON, Sidecar, listening, wait_until, woken};

/// Settings of a sidecar that is woken by NOTIFY or not at all.
const WOKEN: [(&str, &str); 2] =
    [("REVEILLE__DISPATCH__POLL_INTERVAL", "1h"), ("REVEILLE__SWEEP__INTERVAL", "1h")];

/// Waits until a pass stands still in the middle of its transaction.
async fn a_pass_stands_still(outbox: &Outbox) {
    wait_until("a pass stands still", SOON, async || {
        let query = "select count(*) from pg_stat_activity where application_name = 'reveille/dispatch'
                       and datname = current_database() and wait_event_type = 'Lock'";
        outbox.count(query).await == 1
    })
    .await;
}

#[tokio::test]
async fn a_sidecar_killed_between_read_and_commit_leaves_everything_to_the_next() {
    for session_survives in [true, false] {
        let outbox = Outbox::with_two_consumers().await;
        let killed = Program::run(&outbox.db.url(), &WOKEN);
        listening(&outbox.client, 1).await;
        let lock = outbox.db.client().await;
        lock.batch_execute("begin; lock table job_queue in exclusive mode").await.unwrap();
        outbox.emit(5).await;
        a_pass_stands_still(&outbox).await;
        drop(killed); // kill -9

        let next = Sidecar::start(woken(&outbox.db)); // the dead one's session still holds the domain
        wait_until("the next one listens", SOON, async || {
            let query = "select count(*) from pg_stat_activity where application_name = 'reveille/listener'
                           and datname = current_database() and query ilike 'listen%' and state = 'idle'";
            outbox.count(query).await == 1
        })
        .await;
        if session_survives {
            // the server does not know yet that nobody waits for its answer: the pass goes on
            lock.batch_execute("commit").await.unwrap();
        } else {
            let end = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock'
                         and application_name = 'reveille/dispatch' and datname = current_database()";
            outbox.client.batch_execute(end).await.unwrap();
            lock.batch_execute("commit").await.unwrap();
        }
        outbox.exactly_once_soon().await;
        outbox.emit(2).await;
        outbox.exactly_once_soon().await;
        next.stop().await;
    }
}

#[tokio::test]
async fn a_sidecar_killed_while_it_streams_leaves_no_mark_that_deafens_the_next() {
    let outbox = Outbox::with_two_consumers().await;
    let mark = "select fn_wake_mark('queue_wake_iu') - fn_epoch_ms(clock_timestamp())";
    let awake = [
        WOKEN[0],
        WOKEN[1],
        ("REVEILLE__DISPATCH__AWAKE_FOR", "1m"),
        ("REVEILLE__DISPATCH__STREAM_GAP", "1s"),
        ("REVEILLE__DISPATCH__EMPTY_LOOKS_BEFORE_SLEEP", "10000"),
    ];
    let killed = Program::run(&outbox.db.url(), &awake);
    listening(&outbox.client, 1).await;
    wait_until("it is awake", SOON, async || {
        outbox.emit(1).await;
        outbox.count(mark).await > 0
    })
    .await;
    drop(killed);
    assert!(outbox.count(mark).await > 10_000, "producers believe that somebody looks");
    outbox.emit(1).await;
    let next = Sidecar::start_listening(woken(&outbox.db), &outbox.client).await;
    outbox.emit(1).await;
    outbox.exactly_once_soon().await;
    next.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_stops_leaves_no_mark_that_deafens_the_others() {
    let outbox = Outbox::with_two_consumers().await;
    let mut settings = woken(&outbox.db);
    settings.dispatch.awake_for = std::time::Duration::from_mins(1);
    settings.dispatch.stream_gap = std::time::Duration::from_secs(1);
    settings.dispatch.empty_looks_before_sleep = 1_000_000;
    let streaming = Sidecar::start_listening(settings, &outbox.client).await;
    let mark = "select fn_wake_mark('queue_wake_iu') - fn_epoch_ms(clock_timestamp())";
    wait_until("it is awake", SOON, async || {
        outbox.emit(1).await;
        outbox.count(mark).await > 0
    })
    .await;
    streaming.stop().await;
    assert!(outbox.count(mark).await < 0);
    outbox.emit(1).await;
    let next = Sidecar::start(woken(&outbox.db));
    outbox.exactly_once_soon().await;
    next.stop().await;
}

#[tokio::test]
async fn a_domain_held_by_another_session_is_looked_at_when_it_is_free() {
    let outbox = Outbox::with_two_consumers().await;
    let sidecar = Sidecar::start_listening(woken(&outbox.db), &outbox.client).await;
    outbox.settle("notify").await;
    let holder = outbox.db.client().await;
    // a pass by hand, which nobody wakes afterwards
    holder.batch_execute("begin; select fn_consumer_dispatch_batch('iu')").await.unwrap();
    outbox.emit(3).await;
    wait_until("the sidecar has found it busy", SOON, async || {
        outbox
            .count(
                "select count(*) from pg_stat_activity where application_name = 'reveille/dispatch'
                        and datname = current_database() and query like '%fn_consumer_dispatch_batch%'
                        and state_change > (select max(created_at) from event_outbox)",
            )
            .await
            > 0
    })
    .await;
    assert_eq!(outbox.missing_and_twice().await.0, 6);
    holder.batch_execute("rollback").await.unwrap();
    outbox.exactly_once_soon().await;
    sidecar.stop().await;
}
