//! Each tick once, with any number of sidecars, and whatever ends one of them.

use std::time::Instant;

use reveille::maintain::Scheduled;

use super::stage::{Stage, scheduler};
use crate::support::{NEVER, Program, SOON, Sidecar, listening, wait_until, woken};

/// Rounds of so many schedulers at the same moment: how many jobs they say they made.
async fn race(stage: &Stage, sidecars: usize, now: &str) -> u64 {
    let now: jiff::Timestamp = now.parse().unwrap();
    let rounds = (0..sidecars).map(|_| {
        let scheduler = scheduler(&stage.db);
        tokio::spawn(async move {
            let mut made = Scheduled::default();
            scheduler.run_at(now, &mut made).await.unwrap();
            made.jobs
        })
    });
    let mut made = 0;
    for round in rounds.collect::<Vec<_>>() {
        made += round.await.unwrap();
    }
    made
}

#[tokio::test]
async fn two_and_five_sidecars_over_the_same_due_tick_make_one_job() {
    let stage = Stage::new().await;
    stage.enabled("hourly", "p_cron => '0 * * * *', p_time_zone => 'UTC'", "2026-06-01T09:30:00Z").await;
    for (hour, sidecars) in [(10, 2), (11, 5), (12, 5), (13, 2)] {
        assert_eq!(
            race(&stage, sidecars, &format!("2026-06-01T{hour}:00:01Z")).await,
            1,
            "{sidecars} at {hour}:00"
        );
    }
    assert_eq!(stage.jobs().await.len(), 4);
}

#[tokio::test]
async fn a_sidecar_that_dies_between_its_look_and_its_commit_costs_no_tick() {
    let stage = Stage::new().await;
    stage.enabled("hourly", "p_cron => '0 * * * *', p_time_zone => 'UTC'", "2026-06-01T09:30:00Z").await;
    stage.at("2026-06-01T09:30:00Z").await;
    let tick = "select fn_schedule_tick('hourly', '2026-06-01T10:00:00Z', array['2026-06-01T10:00:00Z'::timestamptz],
        '2026-06-01T11:00:00Z', 0, '2026-06-01T10:00:05Z')::text";
    let dying = stage.db.client().await;
    dying.batch_execute("begin").await.unwrap();
    dying.query_one(tick, &[]).await.unwrap();
    // while it lives, nobody waits for it
    let (made, pause) = stage.round("2026-06-01T10:00:05Z").await;
    assert_eq!((made.jobs, pause.as_secs()), (0, 1), "come back soon");
    drop(dying);
    wait_until("its transaction is gone", SOON, async || stage.at("2026-06-01T10:00:05Z").await.jobs == 1)
        .await;
    // one that looked before, and comes late, changes nothing
    let late: String = stage.client.query_one(tick, &[]).await.unwrap().get(0);
    assert!(late.contains("\"taken\""), "{late}");
    assert_eq!(stage.jobs().await, ["06-01 10:00:00"]);
}

#[tokio::test]
async fn an_old_row_that_was_restored_makes_no_job_again_not_even_one_that_is_archived() {
    let stage = Stage::new().await;
    stage
        .enabled(
            "hourly",
            "p_cron => '0 * * * *', p_time_zone => 'UTC', p_missed => 'all'",
            "2026-06-01T09:30:00Z",
        )
        .await;
    stage.at("2026-06-01T09:30:00Z").await;
    stage.client.batch_execute("create table saved as table job_schedule").await.unwrap();
    for hour in 10..13 {
        stage.at(&format!("2026-06-01T{hour}:00:00Z")).await;
    }
    let end = "update job_queue set status = 'cancelled', finished_at = now() - interval '1 day', created_at = now() - interval '1 day'
        where scheduled_at = '2026-06-01T10:00:00Z'";
    stage.client.batch_execute(end).await.unwrap();
    let archive = "select fn_gate_set('queue.archive.enabled', 'true', 'test', 'test');
        select fn_job_archive(p_dry_run => false, p_now => clock_timestamp() + interval '2 hours')";
    stage.client.batch_execute(archive).await.unwrap();
    assert_eq!(stage.text("select count(*)::text from job_archive").await, "1");
    let restore = "delete from job_schedule; insert into job_schedule select * from saved";
    stage.client.batch_execute(restore).await.unwrap();
    let made = stage.at("2026-06-01T13:00:00Z").await;
    assert_eq!(made.jobs, 1, "13:00 alone is new");
    assert_eq!(stage.jobs().await, ["06-01 11:00:00", "06-01 12:00:00", "06-01 13:00:00"]);
}

#[tokio::test]
async fn a_thousand_schedules_due_at_once_are_made_by_one_round_and_shared_by_five() {
    let stage = Stage::new().await;
    let put = "
        select count(fn_schedule_put('s' || n, 'test.tick', 'test', p_cron => '0 * * * *', p_time_zone => 'UTC', p_now => '2026-06-01T09:30:00Z')),
               count(fn_schedule_enable('s' || n, true, 'test', 'test', '2026-06-01T09:30:00Z'))
        from generate_series(1, 1000) n";
    stage.client.query_one(put, &[]).await.unwrap();
    stage.at("2026-06-01T09:30:00Z").await;
    let begun = Instant::now();
    assert_eq!(stage.at("2026-06-01T10:00:00Z").await.jobs, 1000);
    eprintln!("1000 schedules due at once: {:?}", begun.elapsed());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(race(&stage, 5, "2026-06-01T11:00:00Z").await, 1000);
    assert_eq!(stage.text("select count(distinct idempotency_key)::text from job_queue").await, "2000");
}

#[tokio::test]
async fn a_look_reads_what_is_due_and_the_next_one_however_many_wait() {
    let stage = Stage::new().await;
    let waiting = "insert into job_schedule (schedule_key, every, job_kind, actor, enabled, next_tick_at)
        select 's' || n, '1 day', 'test.tick', 'test', true, '2026-06-01T10:00:00Z'::timestamptz + n * interval '1 minute'
        from generate_series(1, 5000) n";
    stage.client.batch_execute(waiting).await.unwrap();
    let read = "select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables where relname = 'job_schedule'";
    stage.client.batch_execute("begin").await.unwrap();
    let look = "select fn_schedule_due(p_now => '2026-06-01T10:03:00Z')";
    let answer: serde_json::Value = stage.client.query_one(look, &[]).await.unwrap().get(0);
    assert_eq!(answer["schedules"].as_array().unwrap().len(), 3, "{answer}");
    let read: i64 = stage.client.query_one(read, &[]).await.unwrap().get(0);
    assert!(read <= 10, "three twice, for those that are held, and one: {read}");
    stage.client.batch_execute("commit").await.unwrap();
}

#[tokio::test]
async fn a_sidecar_that_sleeps_is_woken_by_a_new_schedule_and_wakes_itself_for_its_ticks() {
    let stage = Stage::new().await;
    let mut settings = woken(&stage.db);
    settings.maintenance.schedule_interval = NEVER;
    let sidecars = [Sidecar::start(settings.clone()), Sidecar::start(settings)];
    listening(&stage.client, 2).await;
    let put = "select fn_schedule_put('often', 'test.tick', 'test', p_every => '1 second');
        select fn_schedule_enable('often', true, 'test', 'test')";
    stage.client.batch_execute(put).await.unwrap();
    wait_until("three ticks became jobs", SOON, async || stage.jobs().await.len() >= 3).await;
    for sidecar in sidecars {
        sidecar.stop().await;
    }
    let counts = "select (count(*) = count(distinct scheduled_at))::text from job_queue";
    assert_eq!(stage.text(counts).await, "true");
    let punctual = "select (max(created_at - scheduled_at) < interval '10 seconds' and min(created_at - scheduled_at) >= '0')::text from job_queue";
    assert_eq!(stage.text(punctual).await, "true");
}

#[tokio::test]
async fn a_schedule_in_trouble_is_told_once_in_the_log_of_a_sidecar_that_goes_on() {
    let stage = Stage::new().await;
    let mut sidecar = Program::run(&stage.db.url(), &[("REVEILLE__MAINTENANCE__SCHEDULE_INTERVAL", "1s")]);
    sidecar.says(&["listening"]).await;
    let put = "select fn_schedule_put('bad', 'test.tick', 'test', p_cron => 'hello', p_time_zone => 'UTC');
        select fn_schedule_put('often', 'test.tick', 'test', p_every => '1 second');
        select fn_schedule_enable(k, true, 'test', 'test') from unnest(array['bad', 'often']) k";
    stage.client.batch_execute(put).await.unwrap();
    sidecar.says(&["WARN", "schedule bad makes no jobs: cron `hello`: "]).await;
    wait_until("the other goes on", SOON, async || stage.jobs().await.len() >= 3).await;
    assert_eq!(sidecar.lines_with("schedule bad").len(), 1, "told once");
    sidecar.stops().await;
}
