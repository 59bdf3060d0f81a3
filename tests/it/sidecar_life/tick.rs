//! `reveille tick`: one bounded pass of everything, as cron starts it.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{
    Outbox, Program, SOON, TestDb, all_became_jobs, emit, emit_at_once, emit_each, flow, wait_until, woken,
};

#[tokio::test]
async fn tick_dispatches_what_is_there_and_says_how_much() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    emit_each(&client, 3).await;
    let ended = Program::start(&db.url(), &["tick", "--json"], &[]).ends().await;
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    let tick: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&tick["events"], &tick["jobs"], &tick["swept"]), (&3.into(), &3.into(), &0.into()), "{tick}");
    all_became_jobs(&client).await;
    let ended = Program::start(&db.url(), &["tick"], &[]).ends().await;
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    assert!(ended.out.starts_with("events read            0\n"), "{}", ended.out);
}

#[tokio::test]
async fn ten_thousand_events_are_one_tick() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    for _ in 0..5 {
        emit_at_once(&client, 2000).await.unwrap();
    }
    let ended = Program::start(&db.url(), &["tick", "--json"], &[]).ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let tick: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&tick["events"], &tick["jobs"]), (&10_000.into(), &10_000.into()), "{tick}");
    all_became_jobs(&client).await;
}

#[tokio::test]
async fn two_ticks_at_once_share_the_work_and_neither_fails() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    emit_at_once(&client, 2000).await.unwrap();
    let small = [("REVEILLE__DISPATCH__BATCH_SIZE", "50")];
    let ticks = [(); 3].map(|()| Program::start(&db.url(), &["tick"], &small));
    for tick in ticks {
        let ended = tick.ends().await;
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    }
    all_became_jobs(&client).await;
}

#[tokio::test]
async fn tick_beside_a_running_sidecar_does_no_harm() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let mut sidecar = Program::run(&db.url(), &[]);
    sidecar.says(&["is running"]).await;
    for _ in 0..3 {
        emit_at_once(&client, 500).await.unwrap();
        let ended = Program::start(&db.url(), &["tick"], &[]).ends().await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
    }
    all_became_jobs(&client).await;
    sidecar.stops().await;
}

#[tokio::test]
async fn the_backlog_of_one_domain_does_not_use_up_the_time_of_the_others() {
    let outbox = Outbox::with_two_consumers().await;
    outbox.consumer("three", "tac", json!({})).await;
    emit(&outbox.client, "iu", 3).await;
    emit(&outbox.client, "tac", 2).await;
    let mut settings = woken(&outbox.db);
    (settings.dispatch.batch_size, settings.dispatch.domains) = (1, vec!["iu".to_owned(), "tac".to_owned()]);
    let tick = reveille::app::tick(&settings, SOON).await.unwrap();
    assert_eq!((tick.pass.events, tick.left.len()), (5, 0), "{tick:?}");
    let order = "select array_agg(event_domain order by finished_at) from dispatch_pass where events > 0";
    let order: Vec<String> = outbox.client.query_one(order, &[]).await.unwrap().get(0);
    assert_eq!(order, ["iu", "tac", "iu", "tac", "iu"]);
}

#[tokio::test]
async fn a_tick_ends_in_its_time_and_says_what_it_left() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let lock = db.client().await;
    lock.batch_execute("begin; lock table event_arrival in share mode").await.unwrap(); // the sweep appends to it
    client.execute("alter table event_outbox disable trigger reveille_event_arrival", &[]).await.unwrap();
    emit_each(&client, 1).await;
    let begun = Instant::now();
    let ended = Program::start(&db.url(), &["tick", "--time-limit", "2s", "--json"], &[]).ends().await;
    assert!(begun.elapsed() < SOON / 2, "{:?}", begun.elapsed());
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), ""));
    let tick: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(
        (&tick["left"], &tick["swept"]),
        (&json!(["sweep", "schedule", "reap", "look", "backlog", "archive", "audit", "prune"]), &json!(0)),
        "{tick}"
    );
    let sweep = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and application_name = 'reveille/sweep'";
    wait_until("the sweep that was cut off is gone", SOON, async || {
        client.query(sweep, &[]).await.unwrap().is_empty()
    })
    .await;
    let ended = Program::start(&db.url(), &["tick", "--time-limit", "2s"], &[]).ends().await;
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), ""));
    assert!(
        ended.out.ends_with(
            "not done in time       sweep, schedule, reap, look, backlog, archive, audit, prune\n"
        ),
        "{}",
        ended.out
    );
    drop(lock);
    wait_until("the sweep that was cut off is over", SOON, async || {
        let ended = Program::start(&db.url(), &["tick"], &[]).ends().await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        client.query_one("select count(*) from job_queue", &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
}

#[tokio::test]
async fn a_domain_that_fails_is_told_though_the_sweep_fails_too() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let broken = "create function broken() returns trigger language plpgsql as
          $$ begin raise exception 'the host refuses' using errcode = '55000'; end $$;
        create trigger broken before insert on job_queue for each row execute function broken();
        create or replace function fn_event_sweep(
          p_margin interval default interval '60 seconds', p_now timestamptz default null) returns jsonb
        language plpgsql as $$ begin raise exception 'no sweep today' using errcode = '55000'; end $$";
    client.batch_execute(broken).await.unwrap();
    emit_each(&client, 1).await;
    let ended = Program::start(&db.url(), &["tick"], &[]).ends().await;
    assert_eq!(ended.code, Some(1));
    let told: Vec<_> =
        ["the host refuses", "; and ", "no sweep today"].map(|words| ended.err.find(words)).into();
    assert!(told.iter().all(Option::is_some) && told.is_sorted(), "{}", ended.err);
}

#[tokio::test]
async fn what_a_tick_freed_is_counted_though_its_next_batch_fails() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let one_batch_only = "select fn_gate_set(key, value, 'test', 'a test')
          from (values ('queue.lease_reaper.enabled', 'true'), ('queue.lease_reaper.dry_run_only', 'false')) g (key, value);
        select fn_queue_heartbeat_register('gone', 'PG_worker');
        select fn_job_enqueue('any', 'test') from generate_series(1, 100);
        select fn_job_claim('gone', 100);
        update job_queue set lease_until = clock_timestamp() - interval '1 second';
        create sequence batches;
        alter function fn_job_lease_reaper rename to the_reaper;
        create function fn_job_lease_reaper(p_limit int, p_actor text, p_skip int) returns jsonb language plpgsql as $$ begin
          if nextval('batches') > 1 then raise exception 'one batch a day' using errcode = '55000'; end if;
          return the_reaper(p_limit => p_limit, p_actor => p_actor);
        end $$";
    client.batch_execute(one_batch_only).await.unwrap();
    let ended = Program::start(&db.url(), &["tick", "--json"], &[]).ends().await;
    assert!(ended.code == Some(1) && ended.err.contains("one batch a day"), "{ended:?}");
    let tick: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&tick["reaped"]["found"], &tick["reaped"]["dry_run"]), (&json!(60), &json!(false)), "{tick}");
}
