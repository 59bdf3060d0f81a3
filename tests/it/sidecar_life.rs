//! The life of `reveille run` and `reveille work` as their operator sees it: start, work, stop, and what they say.

mod connections;
mod log;
mod stop;
mod tick;

use std::net::SocketAddr;

use serde_json::Value;
use tokio_postgres::Client;

use crate::http::client::get;
use crate::support::{Program, SOON, TestDb, all_became_jobs, emit_each, flow, wait_until};

/// A job's handler that notes what it was given.
pub(super) const HANDLER: &str = "
    create table handled (source_ref text, at timestamptz default clock_timestamp());
    create function handle(p_job jsonb) returns jsonb language plpgsql as $$
    begin
      insert into handled (source_ref) values (p_job ->> 'source_ref');
      return jsonb_build_object('result_ref', 'seen ' || (p_job ->> 'source_ref'));
    end $$;
    insert into job_handler (job_kind, handler) values ('test.seen', 'handle(jsonb)');";

/// Holds every pass that makes a job, until this is dropped.
async fn hold(db: &TestDb) -> Client {
    let lock = db.client().await;
    lock.batch_execute("begin; lock table job_queue in exclusive mode").await.unwrap();
    lock
}

/// Waits until a pass is held.
async fn pass_is_held(client: &Client) {
    wait_until("a pass is held", SOON, async || {
        let waits =
            "select exists (select from pg_locks where not granted and relation = 'job_queue'::regclass)";
        client.query_one(waits, &[]).await.unwrap().get(0)
    })
    .await;
}

#[tokio::test]
async fn an_event_of_one_process_becomes_a_job_of_the_second_and_is_run_by_the_third() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    client.batch_execute(HANDLER).await.unwrap();
    let mut sidecar = Program::run(&db.url(), &[]);
    let mut worker =
        Program::start(&db.url(), &["work", "--executor-name", "desk-1", "--kind", "PG_worker"], &[]);
    sidecar.says(&["is running"]).await;
    worker.says(&["desk-1 is working"]).await;
    let subject = "Ünï '\"; drop table job_queue; -- ☃";
    let emit = ["events", "emit", "system.queue_worker_silent", subject];
    let ended = Program::start(&db.url(), &emit, &[]).ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    wait_until("the job has succeeded", SOON, async || {
        let done = "select count(*) from job_queue j join handled h using (source_ref)
            where j.status = 'succeeded' and j.source_ref = $1 and j.result_ref = 'seen ' || $1";
        client.query_one(done, &[&subject]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    let list = Program::start(&db.url(), &["jobs", "list", "--json"], &[]).ends().await;
    let jobs: Value = serde_json::from_str(&list.out).unwrap();
    assert_eq!((&jobs[0]["status"], &jobs[0]["job_kind"]), (&"succeeded".into(), &"test.seen".into()));
    let health = Program::start(&db.url(), &["health"], &[]).ends().await;
    assert_eq!(health.code, Some(0), "{}", health.out);
    sidecar.stops().await;
    worker.stops().await;
}

#[tokio::test]
async fn a_worker_asks_for_its_schema_as_the_sidecar_does() {
    let db = TestDb::empty().await;
    for arguments in [&["work"][..], &["work", "--once"], &["run"]] {
        let ended = Program::start(&db.url(), arguments, &[]).ends().await;
        assert_eq!(ended.code, Some(1));
        assert!(
            ended.err.starts_with("error: Reveille is not installed in schema `public`\n"),
            "{}",
            ended.err
        );
        assert!(ended.err.contains("hint: run `reveille migrate up`"), "{}", ended.err);
    }
}

#[tokio::test]
async fn poll_only_hears_nothing_and_misses_nothing() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let mut sidecar = Program::start(&db.url(), &["run", "--poll-only"], &[]);
    sidecar.says(&["is running", "mode=\"poll only\""]).await;
    emit_each(&client, 5).await;
    all_became_jobs(&client).await;
    let listening = "select count(*) from pg_stat_activity
        where datname = current_database() and application_name = 'reveille/listener'";
    assert_eq!(client.query_one(listening, &[]).await.unwrap().get::<_, i64>(0), 0);
    sidecar.stops().await;
}

#[tokio::test]
async fn the_face_tells_that_it_stops_while_a_pass_is_still_running() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let face = [("REVEILLE__HTTP__ENABLED", "true"), ("REVEILLE__HTTP__LISTEN", "127.0.0.1:0")];
    let mut sidecar = Program::run(&db.url(), &face);
    let line = sidecar.says(&["http://"]).await;
    let address = line.split_once("http://").unwrap().1.split_once(": ").unwrap().0;
    let address: SocketAddr = address.parse().unwrap();
    wait_until("ready", SOON, async || get(address, "/ready").await.status == 200).await;
    let lock = hold(&db).await;
    emit_each(&client, 1).await;
    pass_is_held(&client).await;
    sidecar.signal("TERM");
    sidecar.says(&["stopping: running work may finish within 25s"]).await;
    wait_until("not ready any more", SOON, async || get(address, "/ready").await.status == 503).await;
    let ready = get(address, "/ready").await;
    assert!(ready.body.contains("stopping"), "{}", ready.body);
    assert_eq!(get(address, "/live").await.status, 200, "it is alive until it has ended");
    assert!(get(address, "/metrics").await.body.contains("reveille_ready{latch=\"dispatcher\"} 0"));
    drop(lock);
    let ended = sidecar.ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    all_became_jobs(&client).await;
}
