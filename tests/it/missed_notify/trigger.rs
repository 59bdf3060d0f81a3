//! Nothing announces an event, or nothing even records its arrival.

use std::time::Duration;

use serde_json::json;

use crate::support::{NEVER, Outbox, SOON, Sidecar, emit, polling, wait_until, woken};

/// A sidecar that sweeps often, and polls never: what the trigger does not record only a sweep can find.
async fn sweeping(outbox: &Outbox) -> Sidecar {
    let mut settings = woken(&outbox.db);
    settings.sweep.interval = Duration::from_millis(200);
    Sidecar::start_listening(settings, &outbox.client).await
}

#[tokio::test]
async fn with_the_notify_gate_closed_the_poll_finds_everything() {
    let outbox = Outbox::with_two_consumers().await;
    outbox.gate("queue.notify.bridge_enabled", false).await;
    let sidecar = Sidecar::start_listening(polling(&outbox.db), &outbox.client).await;
    outbox.settle("poll").await;
    outbox.emit_found_by("poll", 5).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn opening_the_notify_gate_is_heard_and_what_waited_is_found() {
    let outbox = Outbox::with_two_consumers().await;
    outbox.gate("queue.notify.bridge_enabled", false).await;
    let sidecar = Sidecar::start_listening(woken(&outbox.db), &outbox.client).await;
    outbox.emit(2).await;
    outbox.gate("queue.notify.bridge_enabled", true).await;
    outbox.exactly_once_soon().await;
    outbox.settle("notify").await;
    outbox.emit_found_by("notify", 3).await;
    sidecar.stop().await;
}

#[tokio::test]
async fn while_the_dispatch_gate_is_closed_the_position_is_kept() {
    let outbox = Outbox::with_two_consumers().await;
    let sidecar = Sidecar::start_listening(woken(&outbox.db), &outbox.client).await;
    outbox.emit(2).await;
    outbox.exactly_once_soon().await;
    let passes = "select count(*) from dispatch_pass";
    for _ in 0..2 {
        outbox.gate("queue.job_substrate.enabled", false).await;
        let before = outbox.count(passes).await;
        for _ in 0..5 {
            outbox.emit(3).await;
        }
        assert_eq!(outbox.count(passes).await, before);
        outbox.gate("queue.job_substrate.enabled", true).await;
        outbox.exactly_once_soon().await;
    }
    sidecar.stop().await;
}

#[tokio::test]
async fn with_the_trigger_disabled_the_sweep_repairs_and_raises_one_alarm() {
    let outbox = Outbox::with_two_consumers().await;
    outbox.consumer("alarms", "system", json!({"event_type": "queue_dispatch_gap"})).await;
    let sidecar = sweeping(&outbox).await;
    let trigger = |how| format!("alter table event_outbox {how} trigger reveille_event_arrival");
    outbox.client.batch_execute(&trigger("disable")).await.unwrap();
    outbox.emit(3).await;
    emit(&outbox.client, "tac", 1).await;
    outbox.exactly_once_soon().await;
    let found = "select coalesce(sum(missing), 0)::bigint from dispatch_sweep";
    // a sweep may come between the two statements, and find the second's event the next time
    wait_until("all four are found", SOON, async || outbox.count(found).await == 4).await;
    // with the trigger still off, the alarms themselves are no gap, and reach their consumer
    let alarms = outbox.count("select count(*) from dispatch_sweep where missing > 0").await;
    let served = "select count(*) from job_queue where consumer_key = 'alarms'";
    wait_until("the alarms have their jobs", SOON, async || outbox.count(served).await == alarms).await;
    for _ in 0..2 {
        let before = last_sweep(&outbox).await;
        wait_until("it sweeps again", SOON, async || last_sweep(&outbox).await > before).await;
    }
    assert_eq!(outbox.count("select count(*) from event_outbox").await, 4 + alarms, "no alarm about alarms");
    let said = "select sum((safe_payload -> 'missing' ->> 'iu')::int) from event_outbox
                 where event_domain = 'system' and event_type = 'queue_dispatch_gap'";
    assert_eq!(outbox.count(said).await, 3);

    outbox.client.batch_execute(&trigger("enable")).await.unwrap();
    outbox.settle("notify").await;
    assert_eq!(outbox.count(found).await, 4);
    sidecar.stop().await;
}

/// When the sidecar last swept, kept or not.
async fn last_sweep(outbox: &Outbox) -> String {
    let query = "select coalesce(max(state_change)::text, '') from pg_stat_activity
                  where datname = current_database() and query like '%fn_event_sweep(p_margin%' and state = 'idle'";
    outbox.client.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn with_the_trigger_dropped_the_sweep_repairs_until_there_is_one_again() {
    let outbox = Outbox::with_two_consumers().await;
    let sidecar = sweeping(&outbox).await;
    outbox.client.batch_execute("drop trigger reveille_event_arrival on event_outbox").await.unwrap();
    for _ in 0..3 {
        outbox.emit(2).await;
        outbox.exactly_once_soon().await;
    }
    let missing = "select sum(missing)::bigint from dispatch_sweep";
    assert_eq!(outbox.count(missing).await, 6);
    let functions = include_str!("../../../migrations/002_event_arrival/functions.sql");
    let from = functions.find("create or replace trigger reveille_event_arrival").unwrap();
    let to = from + functions[from..].find(';').unwrap();
    outbox.client.batch_execute(&functions[from..to]).await.unwrap();
    outbox.settle("notify").await;
    outbox.emit_found_by("notify", 3).await;
    assert_eq!(outbox.count(missing).await, 6);
    sidecar.stop().await;
}

#[tokio::test]
async fn an_unrecorded_event_of_a_transaction_that_outlives_many_sweeps_is_found() {
    let outbox = Outbox::with_two_consumers().await;
    let mut settings = woken(&outbox.db);
    settings.sweep.interval = Duration::from_millis(100);
    settings.sweep.margin = Duration::ZERO;
    let late = outbox.db.client().await;
    late.batch_execute("begin; set local session_replication_role = replica").await.unwrap();
    emit(&late, "iu", 2).await;
    let prepared = outbox.db.client().await;
    prepared.batch_execute("begin; set local session_replication_role = replica").await.unwrap();
    emit(&prepared, "iu", 3).await;
    prepared.batch_execute(&format!("prepare transaction '{}'", outbox.db.name())).await.unwrap();
    let sidecar = Sidecar::start_listening(settings, &outbox.client).await;
    for commit in
        [(&late, "commit".to_owned()), (&prepared, format!("commit prepared '{}'", outbox.db.name()))]
    {
        let replica = outbox.db.client().await;
        replica.batch_execute("set session_replication_role = replica").await.unwrap();
        for _ in 0..3 {
            emit(&replica, "iu", 1).await;
            outbox.exactly_once_soon().await; // swept meanwhile
        }
        commit.0.batch_execute(&commit.1).await.unwrap();
        outbox.exactly_once_soon().await;
    }
    sidecar.stop().await;
    assert_eq!(outbox.count("select sum(missing)::bigint from dispatch_sweep").await, 11);
}

#[tokio::test]
async fn tick_does_it_all_once_and_one_broken_domain_does_not_stop_the_others() {
    let outbox = Outbox::with_two_consumers().await;
    outbox.consumer("three", "tac", json!({})).await;
    let replica = outbox.db.client().await;
    replica.batch_execute("set session_replication_role = replica").await.unwrap();
    emit(&replica, "iu", 2).await;
    outbox.emit(2).await;
    emit(&outbox.client, "tac", 2).await;
    // whatever the host hangs on job_queue may fail
    let broken = "create function broken() returns trigger language plpgsql as
                    $$ begin raise exception 'broken' using errcode = '55000'; end $$;
                  create trigger broken before insert on job_queue for each row
                    when (new.event_domain = 'iu') execute function broken()";
    outbox.client.batch_execute(broken).await.unwrap();
    let mut settings = woken(&outbox.db);
    settings.dispatch.poll_interval = NEVER;
    let failed = reveille::app::tick(&settings, SOON).await.unwrap().failed.unwrap();
    assert_eq!(failed.sqlstate(), Some("55000"), "{failed}");
    assert_eq!(outbox.jobs().await, 2, "tac comes after iu, and has its jobs");
    outbox.client.batch_execute("drop trigger broken on job_queue").await.unwrap();
    let tick = reveille::app::tick(&settings, SOON).await.unwrap();
    assert!(tick.failed.is_none() && tick.left.is_empty(), "{tick:?}");
    assert_eq!((tick.pass.events, tick.pass.jobs), (4, 8));
    outbox.assert_exactly_once().await;
}

#[tokio::test]
async fn an_alarm_that_the_outbox_refuses_does_not_undo_the_repair() {
    let outbox = Outbox::with_two_consumers().await;
    let refuses = "alter table event_outbox add constraint none check (event_domain <> 'system')";
    outbox.client.batch_execute(refuses).await.unwrap();
    let replica = outbox.db.client().await;
    replica.batch_execute("set session_replication_role = replica").await.unwrap();
    emit(&replica, "iu", 2).await;
    let answer = outbox.answer("fn_event_sweep('0 seconds')").await;
    assert_eq!(answer["missing"], json!(2), "{answer}");
    assert!(answer["alarm_error"].as_str().unwrap().contains("\"none\""), "{answer}");
    assert_eq!(outbox.drain(10).await, 2);
    outbox.assert_exactly_once().await;
}
