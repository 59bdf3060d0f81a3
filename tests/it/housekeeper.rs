//! The housekeeper: it beats whatever it does, and stops when it is asked.

use std::time::Duration;

use reveille::alive::Alive;
use reveille::config;
use reveille::error::Result;
use reveille::maintain::Housekeeper;
use reveille::shutdown::Shutdown;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::support::{NEVER, SOON, Sidecar, TestDb, polling, server_at, wait_until, woken};

/// What a stop may take on a busy machine; a statement may take 30 s.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A housekeeper at work, which prunes again and again.
struct Keeping {
    shutdown: Shutdown,
    task: JoinHandle<Result<()>>,
}

impl Keeping {
    fn start(db: &TestDb) -> Self {
        Self::start_with(db, Alive::new(NEVER))
    }

    /// The same, with a reaper beside the dispatcher.
    fn start_with(db: &TestDb, reaper: Alive) -> Self {
        let settings = config::Maintenance {
            interval: Duration::from_millis(1),
            heartbeat_interval: NEVER,
            ..Default::default()
        };
        let housekeeper = Housekeeper::new(server_at(&db.url()), db.pool(1), &settings)
            .beating_for("dispatcher", Alive::new(NEVER))
            .beating_for("reaper", reaper);
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        Self { shutdown, task: tokio::spawn(async move { housekeeper.run(stop).await }) }
    }

    async fn stops_at_once(self) {
        self.shutdown.request();
        timeout(AT_ONCE, self.task).await.expect("it stops at once").unwrap().unwrap();
    }
}

async fn beats(client: &Client) -> i64 {
    let beats = "select coalesce(sum(beats_total), 0)::bigint from queue_heartbeat";
    client.query_one(beats, &[]).await.unwrap().get(0)
}

/// Who is registered, in order.
async fn names(client: &Client) -> Vec<String> {
    let names = "select coalesce(array_agg(executor_name order by executor_name), '{}') from queue_heartbeat";
    client.query_one(names, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn two_sidecars_of_one_host_beat_under_two_names_and_a_clean_stop_forgets_one() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let one = Sidecar::start(woken(&db));
    wait_until("the first beats", SOON, async || names(&client).await.len() == 5).await;
    let first = names(&client).await;
    let two = Sidecar::start(woken(&db));
    wait_until("the second beats, too", SOON, async || names(&client).await.len() == 10).await;
    two.stop().await;
    assert_eq!(names(&client).await, first);
    drop(one);
    wait_until("the first is gone", SOON, async || {
        let sessions = "select count(*) from pg_stat_activity
            where datname = current_database() and application_name like 'reveille/%'";
        client.query_one(sessions, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    assert_eq!(names(&client).await, first, "whoever is killed will be seen to be silent");
}

#[tokio::test]
async fn a_sidecar_that_fails_will_be_seen_to_be_silent() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let sidecar = Sidecar::start(polling(&db));
    wait_until("it beats", SOON, async || names(&client).await.len() == 5).await;
    client.batch_execute("drop function fn_dispatch_poll").await.unwrap();
    sidecar.ended().await.unwrap_err();
    assert_eq!(names(&client).await.len(), 5);
}

#[tokio::test]
async fn a_name_that_was_given_stays() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let mut settings = woken(&db);
    settings.maintenance.executor_name = "the one sidecar".to_owned();
    let sidecar = Sidecar::start(settings);
    wait_until("it beats", SOON, async || beats(&client).await > 0).await;
    sidecar.stop().await;
    let parts =
        ["", "-auditor", "-reaper", "-scheduler", "-sweeper"].map(|part| format!("the one sidecar{part}"));
    assert_eq!(names(&client).await, parts);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_the_housekeeper() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let lock = db.client().await;
    lock.batch_execute("begin; lock table dispatch_pass in share mode").await.unwrap();
    let keeping = Keeping::start(&db);
    wait_until("the prune is held up", SOON, async || {
        let waits =
            "select exists (select from pg_locks where not granted and relation = 'dispatch_pass'::regclass)";
        client.query_one(waits, &[]).await.unwrap().get(0)
    })
    .await;
    keeping.stops_at_once().await;
}

#[tokio::test]
async fn a_prune_without_end_neither_silences_the_sidecar_nor_delays_its_stop() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let endless = "create or replace function fn_dispatch_prune(
          p_keep_passes interval default '24 hours', p_limit int default 50000) returns jsonb language sql
        as $$ select jsonb_build_object('more', true) $$";
    client.batch_execute(endless).await.unwrap();
    let keeping = Keeping::start(&db);
    wait_until("it beats between batches", SOON, async || beats(&client).await > 10).await;
    keeping.stops_at_once().await;
}

#[tokio::test]
async fn the_parts_of_a_sidecar_beat_as_themselves() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let mut settings = polling(&db);
    settings.maintenance.heartbeat_interval = Duration::from_secs(1);
    let sidecar = Sidecar::start(settings); // idle, and all gates are closed
    let fresh = "select coalesce(string_agg(detail -> 'metadata' ->> 'role', ' ' order by name), '') from v_queue_health
        where component = 'executor' and status_hint = 'fresh' and value >= 3
          and name like '%-' || (detail -> 'metadata' ->> 'role') || '-%'";
    wait_until("all of them beat, again and again", SOON, async || {
        client.query_one(fresh, &[]).await.unwrap().get::<_, &str>(0)
            == "auditor dispatcher reaper scheduler sweeper"
    })
    .await;
    sidecar.stop().await;
    assert!(names(&client).await.is_empty(), "a clean stop forgets them all");
}

#[tokio::test]
async fn a_part_that_hangs_is_announced_though_the_sidecar_lives() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let reaper = Alive::default(); // it has never turned
    let keeping = Keeping::start_with(&db, reaper.clone());
    wait_until("both are registered", SOON, async || names(&client).await.len() == 2).await;
    let a_day = "update queue_heartbeat set last_beat_at = last_beat_at - interval '1 day'";
    client.batch_execute(a_day).await.unwrap();
    let silent = async || -> String {
        let silent = "select coalesce(string_agg(metadata ->> 'role', ' '), '') from queue_heartbeat where silent_since is not null";
        client.query_one(silent, &[]).await.unwrap().get(0)
    };
    wait_until("the reaper alone is silent", SOON, async || silent().await == "reaper").await;
    let told = "select exists (select from event_outbox
        where event_type = 'queue_worker_silent' and event_subject_ref like '%-reaper-%')";
    assert!(client.query_one(told, &[]).await.unwrap().get::<_, bool>(0));
    reaper.turns(NEVER);
    wait_until("it beats again", SOON, async || silent().await.is_empty()).await;
    keeping.stops_at_once().await;
}

/// An executor whose last beat is a day old.
async fn quiet_desk(client: &Client) {
    let desk = "select fn_queue_heartbeat_register('desk', 'Agent');
        update queue_heartbeat set last_beat_at = last_beat_at - interval '1 day'";
    client.batch_execute(desk).await.unwrap();
}

#[tokio::test]
async fn a_look_for_unclaimed_backlog_that_fails_keeps_no_silence_untold() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let failing = "create or replace function fn_job_backlog() returns table (
          executor text, job_kind text, event_domain text, consumer_key text, priority int, due int, more boolean,
          oldest_due_at timestamptz, next_due_at timestamptz, reason text) language plpgsql
        as $$ begin raise exception 'no backlog today'; end $$";
    client.batch_execute(failing).await.unwrap();
    quiet_desk(&client).await;
    let keeping = Keeping::start(&db);
    wait_until("the silence is announced", SOON, async || {
        let told = "select exists (select from event_outbox
            where event_type = 'queue_worker_silent' and event_subject_ref = 'desk')";
        client.query_one(told, &[]).await.unwrap().get(0)
    })
    .await;
    keeping.stops_at_once().await;
}

#[tokio::test]
async fn a_look_for_unclaimed_backlog_that_takes_long_holds_up_no_beat() {
    let db = TestDb::new().await;
    let client = db.client().await;
    quiet_desk(&client).await;
    let lock = db.client().await;
    lock.batch_execute("begin; lock table job_queue").await.unwrap();
    let keeping = Keeping::start(&db);
    wait_until("the look is held up", SOON, async || {
        let waits =
            "select exists (select from pg_locks where not granted and relation = 'job_queue'::regclass)";
        client.query_one(waits, &[]).await.unwrap().get(0)
    })
    .await;
    let beat = "set lock_timeout = '2s'; select fn_queue_heartbeat_tick('desk')";
    client.batch_execute(beat).await.unwrap();
    keeping.stops_at_once().await;
}

#[tokio::test]
async fn no_part_of_a_sidecar_hides_that_nobody_takes_the_jobs() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    let sidecar = Sidecar::start(polling(&db));
    wait_until("its parts beat", SOON, async || names(&client).await.len() == 5).await;
    let wait = "select fn_job_enqueue('any', 'test');
        update job_queue set scheduled_at = clock_timestamp() - interval '2 minutes'";
    client.batch_execute(wait).await.unwrap();
    let hint = "select status_hint from v_queue_health where component = 'backlog' and name = 'PG_worker'";
    assert_eq!(client.query_one(hint, &[]).await.unwrap().get::<_, &str>(0), "stale");
    sidecar.stop().await;
}
