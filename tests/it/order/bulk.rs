//! Many events, small batches, and producers that go on meanwhile.

use std::time::{Duration, Instant};

use crate::support::{Outbox, SOON, Sidecar, emit, polling, wait_until};

/// Passes of `iu` in one call, each in a transaction of its own.
fn passes(limit: i32) -> String {
    format!(
        "do $$
         begin
           loop
             exit when not (fn_consumer_dispatch_batch('iu', {limit}) ->> 'more')::boolean;
             commit;
           end loop;
         end $$"
    )
}

#[tokio::test]
async fn a_transaction_larger_than_the_batch_is_read_in_order_and_in_parts() {
    let outbox = Outbox::with_two_consumers().await;
    outbox.emit(20).await;
    assert_eq!(outbox.pass(7).await, (7, true));
    outbox.emit(3).await;
    assert_eq!(outbox.pass(7).await, (7, true));
    assert_eq!(outbox.pass(6).await, (6, true), "a full batch may be the last: there may be more");
    assert_eq!(outbox.pass(7).await, (3, false));
    assert_eq!(outbox.pass(7).await, (0, false));
    outbox.assert_exactly_once().await;
    let disorder = "select count(*) from (
                      select a.arrival_seq < lag(a.arrival_seq) over (order by j.created_at, j.job_id) as is_back
                      from job_queue j join event_arrival a on a.event_id = j.causation_event_id
                      where j.consumer_key = 'one') s where s.is_back";
    assert_eq!(outbox.count(disorder).await, 0, "jobs are made in reading order");
}

#[tokio::test]
async fn twenty_thousand_events_in_batches_of_seven_lose_and_repeat_nothing() {
    let outbox = Outbox::open().await;
    outbox.consumer("one", "iu", serde_json::json!({})).await;
    for size in [1, 9_999, 7, 9_986, 6, 1] {
        outbox.emit(size).await;
    }
    outbox.client.batch_execute(&passes(7)).await.unwrap();
    assert_eq!(outbox.jobs().await, 20_000);
    outbox.assert_exactly_once().await;
    let counts = "select count(*) from dispatch_pass where events > 7 or duplicates > 0 or errors > 0";
    assert_eq!(outbox.count(counts).await, 0);
}

#[tokio::test]
async fn producers_and_rollbacks_meanwhile_lose_and_repeat_nothing() {
    let outbox = Outbox::with_two_consumers().await;
    let end = Instant::now() + Duration::from_secs(2);
    let producers = (0..4).map(async |n: i32| {
        let client = outbox.db.client().await;
        let level = ["read committed", "repeatable read", "serializable", "read committed"];
        let mut turn = n;
        while Instant::now() < end {
            turn = (turn * 31 + 7) % 1009;
            client
                .batch_execute(&format!("begin isolation level {}", level[n.unsigned_abs() as usize]))
                .await
                .unwrap();
            emit(&client, "iu", turn % 5 + 1).await;
            client.batch_execute("savepoint s").await.unwrap();
            emit(&client, "iu", turn % 3 + 1).await;
            if turn % 4 == 0 {
                client.batch_execute("rollback to s").await.unwrap();
            }
            client.batch_execute(if turn % 5 == 0 { "rollback" } else { "commit" }).await.unwrap();
        }
    });
    let readers = [17, 50].map(async |limit| {
        let client = outbox.db.client().await;
        while Instant::now() < end {
            client.batch_execute(&passes(limit)).await.unwrap();
        }
    });
    futures::join!(futures::future::join_all(producers), futures::future::join_all(readers));
    outbox.client.batch_execute(&passes(1000)).await.unwrap();
    outbox.assert_exactly_once().await;
    let duplicates = "select coalesce(sum(duplicates), 0)::bigint from dispatch_pass";
    assert_eq!(
        outbox.count(duplicates).await,
        0,
        "no event is read twice: the unique key had nothing to absorb"
    );
    assert!(outbox.jobs().await > 100);
}

#[tokio::test]
async fn pruning_meanwhile_takes_nothing_that_is_still_to_be_read() {
    let outbox = Outbox::with_two_consumers().await;
    let late = outbox.db.client().await;
    late.batch_execute("begin").await.unwrap();
    emit(&late, "iu", 3).await;
    for n in 0..30 {
        outbox.emit(4).await;
        outbox.pass(3).await;
        outbox.answer("fn_event_sweep('0 seconds')").await;
        outbox.answer("fn_dispatch_prune('0 seconds', 5)").await;
        if n == 20 {
            late.batch_execute("commit").await.unwrap();
        }
    }
    outbox.drain(10).await;
    outbox.assert_exactly_once().await;
    for _ in 0..3 {
        outbox.answer("fn_event_sweep('0 seconds')").await;
    }
    outbox.emit(1).await;
    outbox.drain(10).await;
    assert_eq!(outbox.count("select coalesce(sum(missing), 0)::bigint from dispatch_sweep").await, 0);
    assert_eq!(outbox.count("select coalesce(sum(duplicates), 0)::bigint from dispatch_pass").await, 0);
    outbox.assert_exactly_once().await;
}

#[tokio::test]
async fn arrivals_of_a_domain_that_nobody_dispatches_are_pruned_and_announced_to_nobody() {
    let outbox = Outbox::open().await;
    let foreign = "alter table event_outbox drop constraint event_outbox_event_domain_check";
    outbox.client.batch_execute(foreign).await.unwrap();
    outbox.gate("queue.notify.bridge_enabled", true).await;
    outbox.client.batch_execute("begin").await.unwrap();
    emit(&outbox.client, "customer", 3).await;
    let prepare = format!("prepare transaction '{}'", outbox.db.name()); // which a NOTIFY would make impossible
    outbox.client.batch_execute(&prepare).await.unwrap();
    outbox.client.batch_execute(&format!("commit prepared '{}'", outbox.db.name())).await.unwrap();
    assert_eq!(outbox.count("select count(*) from event_arrival").await, 3);
    // transactions of other databases hold the horizon back for a while
    wait_until("nothing is left", SOON, async || {
        outbox.answer("fn_event_sweep('0 seconds')").await;
        outbox.answer("fn_dispatch_prune('0 seconds')").await;
        outbox.count("select count(*) from event_arrival").await == 0
    })
    .await;
    outbox.answer("fn_event_sweep('0 seconds')").await;
    assert_eq!(outbox.count("select coalesce(sum(missing), 0)::bigint from dispatch_sweep").await, 0);
}

#[tokio::test]
async fn pruning_keeps_young_passes_and_the_newest() {
    let outbox = Outbox::open().await;
    for _ in 0..5 {
        outbox.emit(1).await;
        outbox.drain(10).await;
    }
    let passes = "select count(*) from dispatch_pass where event_domain = 'iu'";
    let before = outbox.count(passes).await;
    outbox.answer("fn_dispatch_prune('1 hour')").await;
    assert_eq!(outbox.count(passes).await, before);
    let old = "update dispatch_pass set finished_at = now() - interval '2 hours'
               where event_domain = 'iu' and pass_id <= (select min(pass_id) + 20 from dispatch_pass where event_domain = 'iu')";
    outbox.client.batch_execute(old).await.unwrap();
    outbox.answer("fn_dispatch_prune('1 hour')").await;
    let kept = outbox.count(passes).await;
    assert!((1..before).contains(&kept), "{kept} of {before}");
    outbox.answer("fn_dispatch_prune('0 seconds')").await;
    assert_eq!(outbox.count(passes).await, 1, "the newest is the position");
}

#[tokio::test]
async fn a_pass_that_takes_the_server_too_long_is_tried_again_with_fewer_events() {
    let outbox = Outbox::with_two_consumers().await;
    let slow = "create function slow() returns trigger language plpgsql as
                  $$ begin perform pg_sleep(0.02); return new; end $$;
                create trigger slow before insert on job_queue for each row execute function slow()";
    outbox.client.batch_execute(slow).await.unwrap();
    outbox.emit(80).await; // 3.2 s in one pass
    let mut settings = polling(&outbox.db);
    settings.database.statement_timeout = Duration::from_secs(1);
    let sidecar = Sidecar::start(settings);
    outbox.exactly_once_soon().await;
    sidecar.stop().await;
}
