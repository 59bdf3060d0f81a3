//! Positions that speak of another cluster's transactions: a restored dump.

use serde_json::json;

use crate::support::Outbox;

/// Makes the database look like the dump of a cluster whose transactions had numbers this far away.
async fn restore_from_elsewhere(outbox: &Outbox, distance: i64) {
    let shift = format!(
        "update dispatch_cursor set system_identifier = system_identifier + 1;
         update event_arrival set tx_id = (tx_id::text::bigint + {distance})::text::xid8;
         update dispatch_sweep set snapshot = shifted(snapshot);
         update dispatch_pass set place_tx = (place_tx::text::bigint + {distance})::text::xid8,
           snapshot_old = shifted(snapshot_old), snapshot_new = shifted(snapshot_new)"
    );
    let function = format!(
        "create function shifted(s pg_snapshot) returns pg_snapshot language sql as $$
           select format('%s:%s:%s', pg_snapshot_xmin(s)::text::bigint + {distance},
                         pg_snapshot_xmax(s)::text::bigint + {distance},
                         (select string_agg((x::text::bigint + {distance})::text, ',' order by x)
                            from pg_snapshot_xip(s) x))::pg_snapshot $$"
    );
    outbox
        .client
        .batch_execute(&format!("{function}; {shift}; drop function shifted(pg_snapshot)"))
        .await
        .unwrap();
}

/// Read events, half-read events, unread events, a position within a transaction.
async fn in_the_middle_of_things() -> Outbox {
    let outbox = Outbox::with_two_consumers().await;
    outbox.emit(5).await;
    outbox.drain(100).await;
    outbox.answer("fn_event_sweep('0 seconds')").await;
    // so long ago that the next window begins after it
    outbox
        .client
        .batch_execute("update dispatch_sweep set swept_at = swept_at - interval '1 minute'")
        .await
        .unwrap();
    outbox.emit(10).await;
    assert_eq!(outbox.pass(4).await, (4, true));
    outbox.emit(3).await;
    outbox
}

#[tokio::test]
async fn a_restored_dump_is_noticed_and_nothing_in_it_is_lost_or_made_twice() {
    for distance in [1_000_000, -400] {
        let outbox = in_the_middle_of_things().await;
        restore_from_elsewhere(&outbox, distance).await;
        outbox.emit(2).await; // committed here before anybody noticed
        let answer = outbox.answer("fn_dispatch_attach()").await;
        assert_eq!((&answer["restored"], answer["domains"].as_array().unwrap().len()), (&json!(true), 10));
        outbox.emit(1).await;
        outbox.drain(3).await;
        outbox.assert_exactly_once().await;
        assert_eq!(outbox.jobs().await, 42, "from {distance} away");
        assert_eq!(outbox.answer("fn_dispatch_attach()").await["restored"], json!(false));
        assert_eq!(outbox.drain(3).await, 0);
    }
}

#[tokio::test]
async fn a_position_from_the_future_is_refused_until_it_is_attached() {
    let outbox = in_the_middle_of_things().await;
    restore_from_elsewhere(&outbox, 1_000_000).await;
    let refused = outbox.client.batch_execute("select fn_consumer_dispatch_batch('iu')").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55000", "{refused:?}");
    outbox.answer("fn_dispatch_attach()").await;
    outbox.drain(100).await;
    outbox.assert_exactly_once().await;
}

#[tokio::test]
async fn events_that_commit_while_a_restored_dump_is_attached_are_read() {
    let outbox = in_the_middle_of_things().await;
    restore_from_elsewhere(&outbox, 1_000_000).await;
    // attaching stands still between stamping the arrivals and taking the new position
    let slow = "create function stand_still() returns trigger language plpgsql as $$ begin
                  perform pg_advisory_xact_lock(7);
                  return null;
                end $$;
                create trigger stand_still after update on event_arrival for each statement execute function stand_still();
                select pg_advisory_lock(7)";
    outbox.client.batch_execute(slow).await.unwrap();
    let attaching = outbox.db.client().await;
    let attached = tokio::spawn(async move { attaching.batch_execute("select fn_dispatch_attach()").await });
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted and database =
                     (select oid from pg_database where datname = current_database())";
    crate::support::wait_until("attaching stands still", crate::support::SOON, async || {
        outbox.count(waiting).await == 1
    })
    .await;
    outbox.emit(6).await; // begins and commits meanwhile
    outbox.client.batch_execute("select pg_advisory_unlock(7)").await.unwrap();
    attached.await.unwrap().unwrap();
    outbox.drain(4).await;
    outbox.assert_exactly_once().await;
}

#[tokio::test]
async fn a_sweep_after_a_restored_dump_finds_no_gap_where_there_is_none() {
    let outbox = in_the_middle_of_things().await;
    restore_from_elsewhere(&outbox, 1_000_000).await;
    outbox.answer("fn_dispatch_attach()").await;
    for _ in 0..3 {
        assert_eq!(outbox.answer("fn_event_sweep('0 seconds')").await["missing"], json!(0));
        outbox.emit(1).await;
        outbox.answer("fn_dispatch_prune('0 seconds')").await;
    }
    outbox.drain(100).await;
    outbox.assert_exactly_once().await;
}
