//! Transactions that commit late, never, in two phases, in part, or at another isolation level.

use std::pin::pin;

use futures::SinkExt;
use serde_json::json;

use crate::support::{Outbox, emit};

#[tokio::test]
async fn a_transaction_that_began_first_and_commits_last_is_read() {
    let outbox = Outbox::with_two_consumers().await;
    let late = outbox.db.client().await;
    late.batch_execute("begin").await.unwrap();
    emit(&late, "iu", 3).await;
    for round in 1..=3 {
        outbox.emit(2).await;
        assert_eq!(outbox.drain(1000).await, 2, "round {round}: the open transaction holds up nobody");
    }
    late.batch_execute("commit").await.unwrap();
    assert_eq!(outbox.drain(1000).await, 3);
    assert_eq!(outbox.drain(1000).await, 0);
    outbox.assert_exactly_once().await;
    assert_eq!(outbox.jobs().await, 18);
}

#[tokio::test]
async fn late_commits_in_every_order_and_at_every_batch_size_are_read_once() {
    let outbox = Outbox::with_two_consumers().await;
    for limit in [1, 2, 3, 7, 1000] {
        let mut open = Vec::new();
        for n in 1..=5 {
            let client = outbox.db.client().await;
            client.batch_execute("begin").await.unwrap();
            emit(&client, "iu", n).await;
            open.push(client);
        }
        // by index in what is left: 3, 0, 4, 2, 1
        let mut read = 0;
        for at in [3, 0, 2, 1, 0] {
            outbox.emit(1).await;
            read += outbox.pass(limit).await.0;
            open.remove(at).batch_execute("commit").await.unwrap();
            read += outbox.pass(limit).await.0;
        }
        assert_eq!(read + outbox.drain(limit).await, 20, "limit {limit}");
    }
    outbox.assert_exactly_once().await;
}

#[tokio::test]
async fn an_aborted_transaction_leaves_nothing_and_holds_up_nobody() {
    let outbox = Outbox::with_two_consumers().await;
    let aborted = outbox.db.client().await;
    aborted.batch_execute("begin").await.unwrap();
    emit(&aborted, "iu", 5).await;
    outbox.emit(1).await;
    assert_eq!(outbox.drain(1000).await, 1);
    aborted.batch_execute("rollback").await.unwrap();
    outbox.emit(1).await;
    assert_eq!(outbox.drain(1000).await, 1);
    outbox.assert_exactly_once().await;
    assert_eq!(outbox.jobs().await, 4);
}

#[tokio::test]
async fn a_prepared_transaction_is_read_when_it_is_committed_later() {
    let outbox = Outbox::with_two_consumers().await;
    let id = outbox.db.name();
    let producer = outbox.db.client().await;
    // PREPARE refuses a transaction that has executed NOTIFY, which the trigger does for a sleeping dispatcher
    producer.batch_execute("begin").await.unwrap();
    emit(&producer, "iu", 1).await;
    let refused = producer.batch_execute(&format!("prepare transaction '{id}'")).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "0A000", "{refused:?}");
    // so a producer that prepares says this first
    producer.batch_execute("begin; set local reveille.notify = off").await.unwrap();
    emit(&producer, "iu", 4).await;
    producer.batch_execute(&format!("prepare transaction '{id}'")).await.unwrap();
    outbox.emit(1).await;
    assert_eq!(outbox.drain(2).await, 1);
    outbox.emit(1).await;
    assert_eq!(outbox.drain(2).await, 1);
    outbox.client.batch_execute(&format!("commit prepared '{id}'")).await.unwrap();
    assert_eq!(outbox.drain(3).await, 4);

    producer.batch_execute("begin; set local reveille.notify = off").await.unwrap();
    emit(&producer, "iu", 4).await;
    producer.batch_execute(&format!("prepare transaction '{id}'")).await.unwrap();
    assert_eq!(outbox.drain(2).await, 0);
    outbox.client.batch_execute(&format!("rollback prepared '{id}'")).await.unwrap();
    assert_eq!(outbox.drain(2).await, 0);
    outbox.assert_exactly_once().await;
}

#[tokio::test]
async fn only_what_a_savepoint_keeps_is_read() {
    let outbox = Outbox::with_two_consumers().await;
    let producer = outbox.db.client().await;
    producer.batch_execute("begin; savepoint a").await.unwrap();
    emit(&producer, "iu", 2).await;
    producer.batch_execute("rollback to a; savepoint b").await.unwrap();
    emit(&producer, "iu", 3).await;
    producer.batch_execute("savepoint c").await.unwrap();
    emit(&producer, "iu", 4).await;
    producer.batch_execute("release c; savepoint d").await.unwrap();
    assert_eq!(outbox.drain(2).await, 0);
    emit(&producer, "iu", 5).await;
    producer.batch_execute("rollback to d; commit").await.unwrap();
    assert_eq!(outbox.drain(2).await, 7);
    outbox.assert_exactly_once().await;
}

#[tokio::test]
async fn copy_and_several_domains_in_one_statement_are_read() {
    let outbox = Outbox::with_two_consumers().await;
    outbox.consumer("three", "tac", json!({})).await;
    let copy = "copy event_outbox (event_domain, event_type, event_stream, delivery_lane) from stdin";
    let mut sink = pin!(outbox.client.copy_in::<_, &[u8]>(copy).await.unwrap());
    sink.send(&b"iu\ta\tupdate\timmediate\ntac\tb\ttask\tdelayed\niu\tc\treview\timmediate\n"[..])
        .await
        .unwrap();
    assert_eq!(sink.close().await.map(|()| 3).unwrap(), 3);
    let insert = "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane)
                  select d, 'happened', 'update', 'immediate' from unnest('{iu,tac,dot,tac,iu}'::text[]) d";
    outbox.client.batch_execute(insert).await.unwrap();
    // two statements in one, and one whose rows are all refused
    let nested = "with a as (insert into event_outbox (event_domain, event_type, event_stream, delivery_lane)
                    values ('iu', 'x', 'update', 'immediate') returning id)
                  insert into event_outbox (id, event_domain, event_type, event_stream, delivery_lane)
                  select gen_random_uuid(), 'tac', 'y', 'update', 'immediate' from a";
    outbox.client.batch_execute(nested).await.unwrap();
    let nothing = "insert into event_outbox (id, event_domain, event_type, event_stream, delivery_lane)
                   select id, 'iu', 'x', 'update', 'immediate' from event_outbox on conflict do nothing";
    outbox.client.batch_execute(nothing).await.unwrap();
    assert_eq!(outbox.drain(1000).await, 5);
    assert_eq!(outbox.answer("fn_consumer_dispatch_batch('tac', 1000)").await["events"], json!(4));
    assert_eq!(outbox.answer("fn_consumer_dispatch_batch('dot', 1000)").await["events"], json!(1));
    outbox.assert_exactly_once().await;
    assert_eq!(outbox.jobs().await, 14);
}

#[tokio::test]
async fn producers_at_every_isolation_level_are_read_and_do_not_fail_each_other() {
    let outbox = Outbox::with_two_consumers().await;
    for level in ["repeatable read", "serializable"] {
        let (first, second) = (outbox.db.client().await, outbox.db.client().await);
        for client in [&first, &second] {
            client.batch_execute(&format!("begin isolation level {level}; select 1")).await.unwrap();
        }
        outbox.emit(1).await; // their snapshots do not see this one
        emit(&second, "iu", 2).await;
        assert_eq!(outbox.drain(1000).await, 1, "{level}");
        emit(&first, "iu", 3).await;
        second.batch_execute("commit").await.unwrap();
        assert_eq!(outbox.drain(1000).await, 2, "{level}");
        first.batch_execute("commit").await.unwrap_or_else(|e| panic!("{level}: {e:?}"));
        assert_eq!(outbox.drain(1000).await, 3, "{level}");
    }
    outbox.assert_exactly_once().await;
}

#[tokio::test]
async fn a_pass_is_refused_to_a_caller_whose_snapshot_may_be_old() {
    let outbox = Outbox::with_two_consumers().await;
    outbox.emit(1).await;
    for level in ["repeatable read", "serializable"] {
        let client = outbox.db.client().await;
        client.batch_execute(&format!("begin isolation level {level}")).await.unwrap();
        let refused = client.batch_execute("select fn_consumer_dispatch_batch('iu')").await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "25001", "{refused:?}");
    }
    assert_eq!(outbox.drain(1000).await, 1);
    outbox.assert_exactly_once().await;
}

#[tokio::test]
async fn transactions_open_for_the_whole_test_hold_up_nobody_and_are_read_when_they_end() {
    let outbox = Outbox::with_two_consumers().await;
    let (unrelated, reader, heavy) =
        (outbox.db.client().await, outbox.db.client().await, outbox.db.client().await);
    unrelated.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    reader.batch_execute("begin isolation level repeatable read; select 1 from event_outbox").await.unwrap();
    heavy.batch_execute("begin").await.unwrap();
    emit(&heavy, "iu", 10_000).await;
    for n in 1..=50 {
        outbox.emit(n % 7 + 1).await;
        assert_eq!(outbox.drain(5).await, i64::from(n % 7 + 1));
    }
    outbox.assert_exactly_once().await;
    heavy.batch_execute("commit").await.unwrap();
    assert_eq!(outbox.drain(3000).await, 10_000);
    outbox.assert_exactly_once().await;
    unrelated.batch_execute("commit").await.unwrap();
    assert_eq!(outbox.drain(5).await, 0);
}

#[tokio::test]
async fn events_that_a_pass_itself_causes_are_read_by_the_next() {
    let outbox = Outbox::open().await;
    outbox.consumer("one", "iu", json!({"event_type": "happened"})).await;
    let echo = "create function echo() returns trigger language plpgsql as $$ begin
                  insert into event_outbox (event_domain, event_type, event_stream, delivery_lane)
                  values ('iu', 'echoed', 'update', 'immediate');
                  return null;
                end $$;
                create trigger echo after insert on job_queue for each row execute function echo()";
    outbox.client.batch_execute(echo).await.unwrap();
    outbox.consumer("two", "iu", json!({"event_type": "echoed", "job_kind": null})).await;
    outbox.emit(1).await;
    // the pass has its transaction id before others get theirs and commit: its own id lies below the new position
    let pass = outbox.db.client().await;
    pass.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    outbox.client.batch_execute("select pg_current_xact_id()").await.unwrap();
    pass.batch_execute("select fn_consumer_dispatch_batch('iu'); commit").await.unwrap();
    assert_eq!(outbox.jobs().await, 1);
    assert_eq!(outbox.drain(10).await, 1, "the echo is read");
}
