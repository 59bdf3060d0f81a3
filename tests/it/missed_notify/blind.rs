//! The awake mark: producers that read it before it fell commit without a NOTIFY, and are found all the same.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::support::{Outbox, SOON, Sidecar, emit, wait_until, woken};

/// How long from now producers believe that the dispatcher looks by itself, in milliseconds; negative when not.
const MARK: &str = "select fn_wake_mark('queue_wake_iu') - fn_epoch_ms(clock_timestamp())";

/// A sidecar that takes some events within seconds for a stream, and takes its time to fall asleep.
async fn sleepy(outbox: &Outbox) -> Sidecar {
    let mut settings = woken(&outbox.db);
    settings.dispatch.stream_gap = Duration::from_secs(3);
    settings.dispatch.awake_for = Duration::from_secs(10);
    settings.dispatch.empty_looks_before_sleep = 200;
    Sidecar::start_listening(settings, &outbox.client).await
}

/// Keeps a stream going until the dispatcher is awake.
async fn awake(outbox: &Outbox) {
    wait_until("the dispatcher is awake", SOON, async || {
        outbox.emit(1).await;
        outbox.count(MARK).await > 0
    })
    .await;
}

/// Waits until the dispatcher has dropped the mark.
async fn armed(outbox: &Outbox) {
    wait_until("the mark has fallen", SOON, async || {
        outbox.count("select fn_wake_mark('queue_wake_iu')").await == 1
    })
    .await;
}

/// A transaction that has inserted an event while the dispatcher was awake, and is open when it has fallen asleep.
async fn blind(outbox: &Outbox) -> Client {
    let producer = outbox.db.client().await;
    loop {
        producer.batch_execute("begin").await.unwrap();
        awake(outbox).await;
        emit(&producer, "iu", 1).await;
        if outbox.count(MARK).await > 0 {
            armed(outbox).await;
            return producer;
        }
        producer.batch_execute("rollback").await.unwrap(); // asleep already: it would have notified
    }
}

#[tokio::test]
async fn a_blind_transaction_that_commits_after_the_dispatcher_fell_asleep_is_found() {
    let outbox = Outbox::with_two_consumers().await;
    let sidecar = sleepy(&outbox).await;
    for round in 0..3 {
        let producer = blind(&outbox).await;
        producer.batch_execute("commit").await.unwrap();
        let committed = Instant::now();
        outbox.exactly_once_soon().await;
        let took = committed.elapsed();
        assert!(took < Duration::from_secs(15), "round {round}: {took:?} with a poll once an hour");
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn a_blind_transaction_that_stays_open_for_long_is_found_soon_after_it_ends() {
    let outbox = Outbox::with_two_consumers().await;
    let sidecar = sleepy(&outbox).await;
    let producer = blind(&outbox).await;
    let rarely = "select count(*) from pg_stat_activity where application_name = 'reveille/dispatch'
                     and datname = current_database() and state_change > clock_timestamp() - interval '500 ms'";
    wait_until("it looks ever more seldom", SOON, async || outbox.count(rarely).await == 0).await;
    // meanwhile others are served at once, by NOTIFY
    let before = outbox.found_by().await["notify"];
    for _ in 0..2 {
        outbox.emit(1).await;
        outbox.exactly_once_soon().await;
    }
    assert!(outbox.found_by().await["notify"] > before);
    producer.batch_execute("commit").await.unwrap();
    outbox.exactly_once_soon().await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_blind_transaction_is_found_though_another_session_holds_the_domain_meanwhile() {
    let outbox = Outbox::with_two_consumers().await;
    let sidecar = sleepy(&outbox).await;
    let producer = blind(&outbox).await;
    let holder = outbox.db.client().await;
    let hold = "begin; select from dispatch_cursor where event_domain = 'iu' for update";
    holder.batch_execute(hold).await.unwrap();
    producer.batch_execute("commit").await.unwrap();
    // no transaction is blind any more, and the looks so far met a busy domain
    let looks = "select count(*) from pg_stat_activity where application_name = 'reveille/dispatch'
                    and datname = current_database() and query like '%fn_consumer_dispatch_batch%'
                    and state_change > clock_timestamp() - interval '50 ms'";
    wait_until("it looks in vain", SOON, async || outbox.count(looks).await > 0).await;
    holder.batch_execute("rollback").await.unwrap();
    outbox.exactly_once_soon().await;
    sidecar.stop().await;
}

#[tokio::test]
async fn the_last_event_of_a_stream_is_dispatched_soon_though_nobody_was_notified() {
    let outbox = Outbox::with_two_consumers().await;
    let mut settings = woken(&outbox.db);
    settings.dispatch.stream_gap = Duration::from_millis(100); // the machine may be busy
    let sidecar = Sidecar::start_listening(settings, &outbox.client).await;
    for _ in 0..3 {
        // some thousand a second from four producers, each event a transaction
        let end = Instant::now() + Duration::from_millis(700);
        let producers = (0..4).map(async |_| {
            let client = outbox.db.client().await;
            let mut tick = tokio::time::interval(Duration::from_millis(4));
            while Instant::now() < end {
                tick.tick().await;
                emit(&client, "iu", 1).await;
            }
        });
        futures::future::join_all(producers).await;
        outbox.exactly_once_soon().await;
    }
    let found = outbox.found_by().await;
    assert!(found["look"] > found["notify"], "a stream is not notified event by event: {found:?}");
    sidecar.stop().await;
}

#[tokio::test]
async fn streams_in_many_domains_at_once_make_none_of_them_wait() {
    let outbox = Outbox::open().await;
    let domains = ["birth_registry", "dot", "governance", "health", "iu", "kg", "piece", "staging", "tac"];
    for domain in domains {
        outbox.consumer(&format!("of_{domain}"), domain, serde_json::json!({})).await;
    }
    let mut settings = woken(&outbox.db);
    settings.dispatch.stream_gap = Duration::from_millis(100);
    let sidecar = Sidecar::start_listening(settings, &outbox.client).await;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let streams = domains[..3].iter().map(async |domain| {
        let client = outbox.db.client().await;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            emit(&client, domain, 1).await;
        }
    });
    let trickle = async {
        for domain in domains.iter().rev().cycle().take(27) {
            emit(&outbox.client, domain, 1).await;
            let served = format!(
                "select count(*) from event_outbox e where e.event_domain = '{domain}' and e.created_at <
                   (select max(created_at) from event_outbox where event_domain = '{domain}') and not exists
                   (select from job_queue j where j.causation_event_id = e.id)"
            );
            wait_until(domain, SOON, async || outbox.count(&served).await == 0).await;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    tokio::join!(futures::future::join_all(streams), trickle);
    outbox.exactly_once_soon().await;
    sidecar.stop().await;
}
