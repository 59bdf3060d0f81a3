//! Each role can do its own part, and a login that is a member of one role alone needs no other.

use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{Ended, Program, SOON, TestDb, all_became_jobs, emit_each, flow, login, wait_until};

const CONSUMERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/consumers");

/// A login that is a member of one role; it goes with the test.
struct Login {
    name: String,
    url: String,
}

impl Login {
    async fn of(db: &TestDb, client: &Client, role: &str) -> Self {
        let name = format!("login_{}", uuid::Uuid::new_v4().simple());
        let url = login(client, &db.url(), &name, &format!("in role {role}")).await;
        Self { name, url }
    }

    async fn does(&self, arguments: &[&str]) -> Ended {
        Program::start(&self.url, arguments, &[]).ends().await
    }

    /// Does it, with exit code 0.
    async fn can(&self, arguments: &[&str]) -> String {
        let ended = self.does(arguments).await;
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.err);
        ended.out
    }

    /// Fails, and is told what to ask for.
    async fn cannot(&self, arguments: &[&str]) {
        let ended = self.does(arguments).await;
        assert_eq!(ended.code, Some(1), "{arguments:?}: {}", ended.out);
        let told = ended.err.contains("permission denied for ") && ended.err.contains("hint: grant the user");
        assert!(told, "{arguments:?}: {}", ended.err);
    }

    /// The role goes when nobody is connected any more; nothing may depend on it.
    async fn goes(self, client: &Client) {
        wait_until("the role can go", SOON, async || {
            client.batch_execute(&format!("drop role {}", self.name)).await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn a_dispatcher_can_run_and_tick_and_see_health() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let login = Login::of(&db, &client, "reveille_dispatcher").await;
    let mut sidecar = Program::run(&login.url, &[]);
    sidecar.says(&["is running"]).await;
    sidecar.says(&["listening"]).await;
    emit_each(&client, 3).await;
    all_became_jobs(&client).await;
    assert!(sidecar.lines_with("WARN").is_empty(), "{:?}", sidecar.lines_with("WARN"));
    let executors: Value = serde_json::from_str(&login.can(&["executors", "list", "--json"]).await).unwrap();
    let names: Vec<&str> = (0..5).map(|part| executors[part]["name"].as_str().unwrap()).collect();
    assert!(names.iter().any(|name| name.contains("-dispatcher-")), "{executors}");
    assert_eq!(executors[0]["status_hint"], "fresh", "{executors}");
    drop(sidecar); // killed
    for name in names {
        login.can(&["executors", "forget", name]).await;
    }
    emit_each(&client, 3).await;
    login.can(&["tick"]).await;
    all_became_jobs(&client).await;
    assert_eq!(login.can(&["executors", "list", "--json"]).await.trim(), "[]");
    login.cannot(&["gate", "close", "queue.worker.enabled"]).await;
    login.cannot(&["jobs", "list"]).await;
    login.goes(&client).await;
}

#[tokio::test]
async fn a_reader_can_look_and_nothing_else() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    emit_each(&client, 1).await;
    let login = Login::of(&db, &client, "reveille_reader").await;
    for arguments in [&["health"][..], &["jobs", "list"], &["gate", "list"], &["consumers", "list"]] {
        login.can(arguments).await;
    }
    for arguments in [
        &["pause"][..],
        &["jobs", "backlog"],
        &["jobs", "blocked"],
        &["executors", "list"],
        &["schedules", "list"],
    ] {
        login.can(arguments).await;
    }
    login.cannot(&["pause", "all", "--reason", "test"]).await;
    let event = "select id::text from event_outbox";
    let event: String = client.query_one(event, &[]).await.unwrap().get(0);
    login.can(&["events", "show", &event]).await;
    login.can(&["consumers", "preview", "one_job_each"]).await;
    login.cannot(&["tick"]).await;
    login.cannot(&["gate", "open", "queue.worker.enabled"]).await;
    login.cannot(&["events", "emit", "system.queue_worker_silent", "1"]).await;
    login.cannot(&["consumers", "disable", "one_job_each"]).await;
    login.cannot(&["jobs", "enqueue", "test.seen"]).await;
    login.cannot(&["schedules", "put", "s", "--every", "1h", "--kind", "test.seen"]).await;
    login.goes(&client).await;
}

#[tokio::test]
async fn an_operator_can_turn_gates_emit_events_and_keep_consumers() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let login = Login::of(&db, &client, "reveille_operator").await;
    login.can(&["gate", "close", "queue.worker.enabled", "--reason", "test"]).await;
    login.can(&["gate", "open", "queue.worker.enabled", "--reason", "test"]).await;
    login.can(&["events", "emit", "system.queue_worker_silent", "1"]).await;
    login.can(&["consumers", "disable", "one_job_each"]).await;
    login.can(&["consumers", "enable", "one_job_each"]).await;
    login.can(&["consumers", "sync", "--apply", "--dir", CONSUMERS]).await;
    login.can(&["jobs", "enqueue", "test.seen"]).await;
    login.can(&["pause", "all", "--reason", "test"]).await;
    login.can(&["resume", "all", "--reason", "test"]).await;
    login.can(&["schedules", "put", "s", "--every", "1h", "--kind", "test.seen"]).await;
    for action in ["preview", "enable", "show", "disable", "remove"] {
        login.can(&["schedules", action, "s"]).await;
    }
    login.can(&["executors", "subscribe", "desk", "--kind", "test.*"]).await;
    login.can(&["executors", "unsubscribe", "desk"]).await;
    for arguments in [&["health"][..], &["jobs", "list"], &["gate", "list"], &["consumers", "list"]] {
        login.can(arguments).await;
    }
    login.cannot(&["tick"]).await;
    login.goes(&client).await;
}

#[tokio::test]
async fn an_executor_can_work_and_emit_and_nothing_else() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let handler = "
        create table handled (source_ref text);
        create function handle(p_job jsonb) returns jsonb language sql security definer set search_path from current
        as $$ insert into handled values (p_job ->> 'source_ref') returning '{}'::jsonb $$;
        insert into job_handler (job_kind, handler) values ('test.seen', 'handle(jsonb)')";
    client.batch_execute(handler).await.unwrap();
    let enqueue = "select fn_job_enqueue('test.seen', 'test', p_source_ref => $1)";
    client.execute(enqueue, &[&"first"]).await.unwrap();
    let login = Login::of(&db, &client, "reveille_executor").await;
    login.can(&["work", "--once", "--executor-name", "desk"]).await;
    let mut worker = Program::start(&login.url, &["work", "--executor-name", "desk"], &[]);
    worker.says(&["listening"]).await;
    client.execute(enqueue, &[&"second"]).await.unwrap();
    wait_until("both are handled", SOON, async || {
        let done =
            "select count(*) from handled h join job_queue j using (source_ref) where j.status = 'succeeded'";
        client.query_one(done, &[]).await.unwrap().get::<_, i64>(0) == 2
    })
    .await;
    assert!(worker.lines_with("WARN").is_empty(), "{:?}", worker.lines_with("WARN"));
    worker.stops().await;
    let (executor, connection) = tokio_postgres::connect(&login.url, tokio_postgres::NoTls).await.unwrap();
    let driven = tokio::spawn(connection);
    let late = "select fn_job_run($1::text::uuid, 1)";
    let job: String = client.query_one("select max(job_id::text) from job_queue", &[]).await.unwrap().get(0);
    let answer: Value = executor.query_one(late, &[&job]).await.unwrap().get(0);
    assert_eq!(answer["reason"], "lease_lost", "{answer}");
    drop(executor);
    driven.await.unwrap().unwrap();
    login.can(&["events", "emit", "system.queue_worker_silent", "1"]).await;
    login.can(&["health"]).await;
    login.cannot(&["tick"]).await;
    login.cannot(&["run"]).await;
    login.cannot(&["gate", "open", "queue.worker.enabled"]).await;
    login.goes(&client).await;
}

#[tokio::test]
async fn a_reader_who_may_not_write_templates_is_told_that_checking_one_was_denied() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let folder = crate::support::Folder::open_to_all();
    let file = folder.path().join("t.json");
    std::fs::write(&file, "{}").unwrap();
    let login = Login::of(&db, &client, "reveille_reader").await;
    let ended = login.does(&["workflows", "validate", file.to_str().unwrap()]).await;
    assert!(ended.err.contains("checking a template: permission denied"), "{}", ended.err);
    assert!(ended.err.contains("reveille_operator"), "{}", ended.err);
    login.goes(&client).await;
}
