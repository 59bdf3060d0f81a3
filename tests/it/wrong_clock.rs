//! Programs whose clock is wrong by a day: the database's clock decides, and no other one is asked.

use std::path::PathBuf;
use std::process::Command;

use jiff::Timestamp;
use serde_json::Value;

use crate::support::{DOMAIN, Folder, Program, SOON, TestDb, emit_each, flow, lacking, wait_until};

const DAY: i64 = 86400;

/// What stands between a program and its wall clock. Waits and deadlines go by another clock, as they do when somebody
/// has set the wall clock wrong.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int answer = real(clock, now);
  const char *wrong_by = getenv("CLOCK_WRONG_BY");
  if (answer == 0 && wrong_by && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += atol(wrong_by);
  return answer;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec t;
  int answer = clock_gettime(CLOCK_REALTIME, &t);
  now->tv_sec = t.tv_sec;
  now->tv_usec = t.tv_nsec / 1000;
  return answer;
}

time_t time(time_t *now) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  if (now) *now = t.tv_sec;
  return t.tv_sec;
}
"#;

/// The shim as a library, made with the compiler that Rust itself links with; none where there is none.
pub(crate) fn shim(folder: &Folder) -> Option<PathBuf> {
    let (source, library) = (folder.path().join("clock.c"), folder.path().join("clock.so"));
    std::fs::write(&source, SHIM).unwrap();
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    let output = compile.output().ok()?;
    assert!(output.status.success(), "{output:?}");
    Some(library)
}

/// A sidecar and a worker whose clocks are wrong: leases are renewed in time, reaped in time only, and a failure is
/// tried again when it is due.
async fn all_goes_well_though_the_clock_is_wrong_by(seconds: i64) {
    let folder = Folder::open_to_all();
    let Some(shim) = shim(&folder) else { return lacking("there is no C compiler") };
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let stage = "select fn_gate_set(key, value, 'test', 'a test') from (values
          ('queue.lease_reaper.enabled', 'true'), ('queue.lease_reaper.dry_run_only', 'false'),
          ('queue.lease.duration_sec', '3'), ('job.test.seen.backoff_seconds', '1')) g (key, value);
        create sequence runs;
        create table begun as select clock_timestamp() as at;
        create function seen(p_job jsonb) returns jsonb language plpgsql as $$ begin
          if nextval('runs') = 1 then raise exception 'later' using errcode = '40001'; end if;
          perform pg_advisory_xact_lock(7);
          return '{}';
        end $$;
        insert into job_handler (job_kind, handler) values ('test.seen', 'seen(jsonb)');
        select pg_advisory_lock(7)";
    client.batch_execute(stage).await.unwrap();
    let wrong_by = seconds.to_string();
    let wrong = [
        ("LD_PRELOAD", shim.to_str().unwrap()),
        ("CLOCK_WRONG_BY", &wrong_by),
        ("REVEILLE__MAINTENANCE__REAP_INTERVAL", "1s"),
        ("REVEILLE__MAINTENANCE__HEARTBEAT_INTERVAL", "1s"),
    ];
    let mut sidecar = Program::run(&db.url(), &wrong);
    let worker = Program::start(&db.url(), &["work", "--poll-only"], &wrong);
    let line = sidecar.says(&["is running"]).await;
    let told: Timestamp = line.split_whitespace().next().unwrap().parse().unwrap();
    let off = told.as_second() - Timestamp::now().as_second();
    assert!((off - seconds).abs() < DAY / 24, "its clock is wrong by {off} s");

    emit_each(&client, 3).await;
    let is =
        async |sql: &str| client.query_one(&format!("select {sql}"), &[]).await.unwrap().get::<_, bool>(0);
    wait_until("two leases are renewed again and again", SOON, async || {
        is("count(*) >= 2 from job_queue where status = 'in_progress'
              and lease_until > clock_timestamp() and picked_at < clock_timestamp() - interval '7 seconds'")
        .await
    })
    .await;
    client.batch_execute("select pg_advisory_unlock(7)").await.unwrap();
    wait_until("all have succeeded", SOON, async || {
        is("count(*) = 3 from job_queue where status = 'succeeded'").await
    })
    .await;
    for truth in [
        "count(*) = 1 and min(outcome) = 'transient' from job_attempt",
        "bool_and(least(created_at, scheduled_at, picked_at, started_at, finished_at) > at
           and greatest(created_at, scheduled_at, picked_at, started_at, finished_at, updated_at) <= clock_timestamp())
         from job_queue, begun",
        "count(*) = 6 and bool_and(last_beat_at between at and clock_timestamp()) from queue_heartbeat, begun",
        "bool_and(finished_at between at and clock_timestamp()) from dispatch_pass, begun where events > 0",
        "fn_queue_stale_check() -> 'stale' = '[]'",
    ] {
        assert!(is(truth).await, "{seconds}: {truth}");
    }
    worker.stops().await;
    sidecar.stops().await;
}

#[tokio::test]
async fn a_clock_that_is_a_day_fast_changes_nothing() {
    all_goes_well_though_the_clock_is_wrong_by(DAY).await;
}

#[tokio::test]
async fn a_clock_that_is_a_day_slow_changes_nothing() {
    all_goes_well_though_the_clock_is_wrong_by(-DAY).await;
}

#[tokio::test]
async fn an_hour_ago_is_an_hour_by_the_clock_of_the_database() {
    let folder = Folder::open_to_all();
    let Some(shim) = shim(&folder) else { return lacking("there is no C compiler") };
    let db = TestDb::new().await;
    let client = flow(&db).await;
    emit_each(&client, 1).await;
    let older = format!(
        "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, created_at)
         select '{DOMAIN}', 'older', 'update', 'immediate', now() - make_interval(hours => h) from unnest(array[2, 30]) h"
    );
    client.batch_execute(&older).await.unwrap();
    for (wrong_by, ago, events) in
        [(0, "1h", 1), (DAY, "1h", 1), (-DAY, "1h", 1), (DAY, "3h", 2), (-DAY, "90years", 3)]
    {
        let wrong = [("LD_PRELOAD", shim.to_str().unwrap()), ("CLOCK_WRONG_BY", &wrong_by.to_string())];
        let preview = ["consumers", "preview", "one_job_each", "--since", ago, "--json"];
        let ended = Program::start(&db.url(), &preview, &wrong).ends().await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        let answer: Value = serde_json::from_str(&ended.out).unwrap();
        assert_eq!(answer["events"], events, "{ago}, the clock is wrong by {wrong_by} s");
    }
}
