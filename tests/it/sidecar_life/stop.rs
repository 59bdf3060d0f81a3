//! Stopping: softly at the first signal, at once at the second, and at the deadline.

use std::time::{Duration, Instant};

use super::{HANDLER, hold, pass_is_held};
use crate::support::{
    Program, SOON, SmallDisk, TestDb, all_became_jobs, emit_each, flow, lacking, wait_until,
};

/// What "at once" may take on a busy machine; the deadline of stopping is 25 s.
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn both_signals_stop_both_commands_cleanly_and_at_once() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    client.batch_execute(HANDLER).await.unwrap();
    for signal in ["INT", "TERM"] {
        let mut sidecar = Program::run(&db.url(), &[]);
        let mut worker = Program::start(&db.url(), &["work", "--executor-name", "desk"], &[]);
        sidecar.says(&["listening"]).await;
        worker.says(&["listening"]).await;
        emit_each(&client, 3).await;
        all_became_jobs(&client).await;
        for program in [sidecar, worker] {
            program.signal(signal);
            let ended = program.ends_within(AT_ONCE).await;
            assert_eq!(ended.code, Some(0), "{}", ended.err);
            assert!(ended.err.contains("INFO  stopping: "), "{}", ended.err);
            assert!(!ended.err.contains("WARN") && !ended.err.contains("ERROR"), "{}", ended.err);
        }
    }
    let left = "select count(*) from job_queue where status in ('leased', 'in_progress')";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_soft_stop_lets_the_running_pass_end() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let mut sidecar = Program::run(&db.url(), &[]);
    sidecar.says(&["listening"]).await;
    let lock = hold(&db).await;
    emit_each(&client, 1).await;
    pass_is_held(&client).await;
    sidecar.signal("TERM");
    sidecar.says(&["stopping"]).await;
    assert!(sidecar.runs());
    drop(lock);
    let ended = sidecar.ends_within(AT_ONCE).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(!ended.err.contains("stopping at once"), "{}", ended.err);
    all_became_jobs(&client).await;
}

#[tokio::test]
async fn the_second_signal_and_the_deadline_cut_a_pass_and_lose_nothing() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    for cut_by_deadline in [false, true] {
        let deadline = if cut_by_deadline { "500ms" } else { "5m" };
        let mut sidecar = Program::run(&db.url(), &[("REVEILLE__SHUTDOWN__DEADLINE", deadline)]);
        sidecar.says(&["listening"]).await;
        let lock = hold(&db).await;
        emit_each(&client, 3).await;
        pass_is_held(&client).await;
        sidecar.signal("INT");
        sidecar.says(&["stopping: running work may finish within"]).await;
        if cut_by_deadline {
            sidecar.says(&["WARN", "the deadline is over: stopping at once"]).await;
        } else {
            assert!(sidecar.runs());
            sidecar.signal("INT");
            sidecar.says(&["WARN", "stopping at once"]).await;
        }
        let ended = sidecar.ends_within(AT_ONCE).await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        drop(lock);
        let tick = Program::start(&db.url(), &["tick"], &[]).ends().await;
        assert_eq!(tick.code, Some(0), "{}", tick.err);
        all_became_jobs(&client).await;
    }
}

#[tokio::test]
async fn the_second_signal_cuts_a_running_handler_and_the_job_is_done_later_once() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    client.batch_execute(HANDLER).await.unwrap();
    let lock = db.client().await;
    lock.batch_execute("begin; lock table handled in access exclusive mode").await.unwrap();
    let mut worker = Program::start(&db.url(), &["work", "--executor-name", "desk"], &[]);
    worker.says(&["is working"]).await;
    let enqueue = ["jobs", "enqueue", "test.seen", "--source-ref", "slow"];
    assert_eq!(Program::start(&db.url(), &enqueue, &[]).ends().await.code, Some(0));
    wait_until("the handler runs", SOON, async || {
        let waits =
            "select exists (select from pg_locks where not granted and relation = 'handled'::regclass)";
        client.query_one(waits, &[]).await.unwrap().get(0)
    })
    .await;
    worker.signal("TERM");
    worker.says(&["stopping"]).await;
    assert!(worker.runs());
    let begun = Instant::now();
    worker.signal("TERM");
    let ended = worker.ends_within(AT_ONCE).await;
    assert_eq!(ended.code, Some(0), "{} after {:?}", ended.err, begun.elapsed());
    drop(lock);
    let mut worker = Program::start(&db.url(), &["work", "--executor-name", "desk"], &[]);
    worker.says(&["is working"]).await;
    wait_until("the job is done", SOON, async || {
        let done = "select count(*) filter (where j.status = 'succeeded'), (select count(*) from handled)
            from job_queue j";
        let row = client.query_one(done, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1)) == (1, 1)
    })
    .await;
    worker.stops().await;
}

#[tokio::test]
async fn a_name_that_is_still_looked_up_does_not_delay_the_end() {
    // a name server that never answers, and a mount of its own to name it: both need root
    let Some(disk) = SmallDisk::mount(1) else { return };
    let Ok(_silent) = std::net::UdpSocket::bind("127.0.0.153:53") else {
        return lacking("it cannot listen on 127.0.0.153, UDP port 53");
    };
    let resolver = disk.path().join("resolv.conf");
    std::fs::write(&resolver, "nameserver 127.0.0.153\noptions timeout:20 attempts:3\n").unwrap();
    let script = format!("mount --bind '{}' /etc/resolv.conf && exec \"$0\" \"$@\"", resolver.display());
    let wrapper = ["unshare", "--mount", "sh", "-c", &script];
    let url = "postgresql://postgres@db.example.org/app";
    let mut sidecar =
        Program::start_in(&wrapper, url, &["run"], &[("REVEILLE__DATABASE__CONNECT_TIMEOUT", "500ms")]);
    sidecar.says(&["ERROR", "connecting to db.example.org:5432/app: ", "; trying again ("]).await;
    sidecar.signal("TERM");
    let ended = sidecar.ends_within(AT_ONCE).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}
