//! Commands against a real database: gates, events, jobs, health; answers, refusals and mistakes.

mod gates;
mod pauses;
mod progress;
mod subscriptions;
mod waiting;
mod watching;

use serde_json::Value;

use crate::cli::{output, reveille};
use crate::support::TestDb;

/// Runs a command with `--json` against the database: exit code, answer, error.
pub(crate) fn json(db: &TestDb, arguments: &[&str]) -> (Option<i32>, Value, Value) {
    let (code, out, err) =
        output(reveille(arguments).arg("--json").env("DATABASE_URL", db.url()).env("USER", "operator"));
    let parse = |text: &str| match text {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")),
    };
    (code, parse(&out), parse(&err))
}

/// Runs a command for people against the database: exit code, answer, error.
pub(crate) fn words(db: &TestDb, arguments: &[&str]) -> (Option<i32>, String, String) {
    output(reveille(arguments).env("DATABASE_URL", db.url()).env("USER", "operator"))
}

async fn register(db: &TestDb, domain: &str, event_type: &str) {
    let insert = "insert into event_type_registry
        (event_domain, event_type, event_stream, delivery_lane, description) values ($1, $2, 'update', 'immediate', 'test')";
    db.client().await.execute(insert, &[&domain, &event_type]).await.unwrap();
}

#[tokio::test]
async fn gates_are_closed_until_opened_and_the_audit_says_by_whom_and_why() {
    let db = TestDb::new().await;
    let (code, gates, _) = json(&db, &["gate", "list"]);
    assert_eq!(code, Some(0));
    let gates = gates.as_array().unwrap();
    let open: Vec<_> = gates.iter().filter(|gate| gate["open"] == true).map(|gate| &gate["key"]).collect();
    // they make nothing happen: one alarms, the other only tells
    assert_eq!(
        open,
        ["queue.lease_reaper.dry_run_only", "queue.heartbeat.enabled", "queue.audit.enabled"],
        "{gates:?}"
    );

    let key = "queue.worker.enabled";
    let (code, answer, _) = json(&db, &["gate", "open", key, "--reason", "it's \"time\""]);
    assert_eq!((code, &answer["open"], &answer["was_open"]), (Some(0), &true.into(), &false.into()));
    let (_, gates, _) = json(&db, &["gate", "list"]);
    let gate = gates.as_array().unwrap().iter().find(|gate| gate["key"] == key).unwrap();
    assert_eq!(gate["open"], true);
    assert_eq!(gate["actor"], "user:operator");
    assert_eq!(gate["reason"], "it's \"time\"");

    assert_eq!(words(&db, &["gate", "open", key]).1, format!("{key}: open (was so before)\n"));
    assert_eq!(words(&db, &["gate", "close", key, "--actor", "me"]).1, format!("{key}: closed (was open)\n"));
    let (_, table, _) = words(&db, &["gate", "list"]);
    assert!(table.contains("claims by executors"), "{table}");
}

#[tokio::test]
async fn a_misspelt_gate_is_refused_with_a_guess_and_nothing_is_written() {
    let db = TestDb::new().await;
    let (code, _, error) = json(&db, &["gate", "open", "queue.worker.enable"]);
    assert_eq!(code, Some(2));
    assert_eq!(error["error"]["hint"], "did you mean `queue.worker.enabled`?");
    let count = "select count(*) from dot_config where key = 'queue.worker.enable'";
    let row = db.client().await.query_one(count, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);
}

#[tokio::test]
async fn an_emitted_event_is_shown_as_it_was_typed() {
    let db = TestDb::new().await;
    register(&db, "staging", "record_approved").await;
    let subject = "staging_record:'; drop table job_queue; -- ☃ \"é\"";
    let arguments = [
        "events",
        "emit",
        "staging.record_approved",
        subject,
        "--payload",
        r#"{"pieces": 12, "name": "Ünï'"}"#,
        "--table",
        "staging_record",
        "--address",
        "a/b",
        "--correlation-id",
        "story-1",
        "--occurred-at",
        "2026-01-31T09:30:00+01:00",
    ];
    let (code, answer, _) = json(&db, &arguments);
    assert_eq!(code, Some(0));
    let id = answer["event_id"].as_str().unwrap();

    let (code, shown, _) = json(&db, &["events", "show", id]);
    assert_eq!(code, Some(0));
    let event = &shown["event"];
    assert_eq!(event["event_subject_ref"], subject);
    assert_eq!(event["safe_payload"]["name"], "Ünï'");
    assert_eq!(event["canonical_address"], "a/b");
    assert_eq!(event["actor_ref"], "user:operator");
    assert!(event["occurred_at"].as_str().unwrap().starts_with("2026-01-31T08:30:00"));
    assert_eq!(shown["jobs"], Value::Array(Vec::new()));
    let (_, text, _) = words(&db, &["events", "show", id]);
    assert!(text.contains("no job was made of it so far") && text.contains('☃'), "{text}");
}

#[tokio::test]
async fn an_event_is_shown_with_the_jobs_it_made_and_the_consumers_that_failed() {
    let db = TestDb::new().await;
    db.open_gates().await;
    register(&db, "staging", "record_approved").await;
    let client = db.client().await;
    let consumer =
        "insert into consumer_registry (consumer_key, event_domain, event_type, job_kind, actor, enabled)
        values ('cutter', 'staging', 'record_approved', 'cut.cut', 'test', true)";
    client.execute(consumer, &[]).await.unwrap();
    let (_, answer, _) = json(&db, &["events", "emit", "staging.record_approved", "rec:1"]);
    let id = answer["event_id"].as_str().unwrap();
    let event: uuid::Uuid = id.parse().unwrap();
    client.execute("select fn_consumer_dispatch($1)", &[&event]).await.unwrap();
    let failed = "insert into dispatch_error (event_id, consumer_key, event_domain, sqlstate, message)
        values ($1, 'picky', 'staging', '22023', 'too much')";
    client.execute(failed, &[&event]).await.unwrap();

    let (_, shown, _) = json(&db, &["events", "show", id]);
    assert_eq!(shown["jobs"][0]["consumer_key"], "cutter");
    assert_eq!(shown["errors"][0]["message"], "too much");
    let (_, text, _) = words(&db, &["events", "show", id]);
    assert!(text.contains("cut.cut") && text.contains("could not digest it:\nconsumer"), "{text}");
}

#[tokio::test]
async fn an_event_of_an_unknown_type_is_refused_with_a_guess() {
    let db = TestDb::new().await;
    register(&db, "staging", "record_approved").await;
    let (code, out, error) = json(&db, &["events", "emit", "staging.record_aproved", "x"]);
    assert_eq!((code, out), (Some(3), Value::Null));
    assert_eq!(error["error"]["kind"], "refused");
    assert_eq!(error["error"]["hint"], "did you mean `staging.record_approved`?");
    assert_eq!(words(&db, &["events", "emit", "staging", "x"]).0, Some(2));
    assert_eq!(words(&db, &["events", "show", "01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10"]).0, Some(1));
}

#[tokio::test]
async fn a_bad_payload_is_shown_with_its_place_and_a_denied_key_with_its_rule() {
    let db = TestDb::new().await;
    let (code, _, err) = words(&db, &["jobs", "enqueue", "a.b", "--payload", "{\"é\": tru}"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("error: --payload: not JSON: expected ident at line 1 column 11\n"), "{err}");
    assert!(err.contains("\n  {\"é\": tru}\n           ^\n"), "{err}");
    assert_eq!(words(&db, &["jobs", "enqueue", "a.b", "--payload", "[1]"]).0, Some(2));

    db.open_gates().await;
    let (code, _, error) = json(&db, &["jobs", "enqueue", "a.b", "--payload", r#"{"a": [{"body": "x"}]}"#]);
    assert_eq!(code, Some(1));
    assert!(error["error"]["hint"].as_str().unwrap().contains("signals, not data"), "{error}");
}

#[tokio::test]
async fn enqueue_is_refused_while_the_gate_is_closed() {
    let db = TestDb::new().await;
    let (code, answer, error) = json(&db, &["jobs", "enqueue", "cut.cut"]);
    assert_eq!((code, error), (Some(3), Value::Null));
    assert_eq!(answer["refused"], true);
    assert_eq!(answer["reason"], "job_substrate_disabled");
    let (code, out, err) = words(&db, &["jobs", "enqueue", "cut.cut"]);
    assert_eq!((code, out.as_str()), (Some(3), ""));
    assert!(err.starts_with("refused: job_substrate_disabled\nhint: open the gate"), "{err}");
}

#[tokio::test]
async fn the_same_key_twice_is_one_job_and_lists_show_the_newest_first() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let enqueue = ["jobs", "enqueue", "cut.cut", "--key", "k1", "--source-ref", "rec:1", "--priority", "5"];
    let (code, first, _) = json(&db, &enqueue);
    assert_eq!((code, &first["created"]), (Some(0), &true.into()));
    let (code, second, _) = json(&db, &enqueue);
    assert_eq!((code, &second["created"]), (Some(0), &false.into()));
    assert_eq!(first["job_id"], second["job_id"]);
    let at = ["jobs", "enqueue", "mark_file", "--executor", "Agent", "--at", "2099-01-01T00:00:00Z"];
    let (_, later, _) = json(&db, &at);

    let (_, jobs, _) = json(&db, &["jobs", "list"]);
    let ids: Vec<&Value> = jobs.as_array().unwrap().iter().map(|job| &job["job_id"]).collect();
    assert_eq!(ids, [&later["job_id"], &first["job_id"]]);
    let (_, jobs, _) = json(&db, &["jobs", "list", "--kind", "cut.cut", "--status", "queued"]);
    assert_eq!(jobs.as_array().unwrap().len(), 1);
    assert_eq!(jobs[0]["priority"], 5);
    let (_, text, _) = words(&db, &["jobs", "list", "--limit", "1"]);
    assert!(text.contains("mark_file") && text.contains("--limit shows more"), "{text}");

    let (code, job, _) = json(&db, &["jobs", "show", first["job_id"].as_str().unwrap()]);
    assert_eq!(code, Some(0));
    assert_eq!(job["source_ref"], "rec:1");
    assert_eq!(job["actor"], "user:operator");
    let (_, text, _) = words(&db, &["jobs", "show", later["job_id"].as_str().unwrap()]);
    assert!(text.contains("scheduled_at") && text.contains("2099-01-01 00:00:00Z (in "), "{text}");
}

#[tokio::test]
async fn health_names_what_is_silent_first_and_exits_with_1() {
    let db = TestDb::new().await;
    let (code, text, err) = words(&db, &["health"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{text}");
    assert!(text.starts_with("nothing is silent\ngate closed: queue.job_substrate.enabled\n"), "{text}");

    let client = db.client().await;
    let silent = "insert into queue_heartbeat (executor_name, executor_kind, last_beat_at, last_beat_status)
        values ('quiet one', 'Agent', clock_timestamp() - interval '4 days', 'ok')";
    client.execute(silent, &[]).await.unwrap();
    let (code, text, _) = words(&db, &["health"]);
    assert_eq!(code, Some(1));
    assert!(text.starts_with("executor quiet one has been silent for 4d\n"), "{text}");
    let (code, components, _) = json(&db, &["health"]);
    assert_eq!(code, Some(1));
    assert_eq!(components[0]["status_hint"], "stale");
}

#[tokio::test]
async fn an_executor_that_is_gone_for_good_can_be_forgotten() {
    let db = TestDb::new().await;
    let silent = "insert into queue_heartbeat (executor_name, executor_kind, last_beat_at, last_beat_status)
        values ('quiet one', 'Agent', clock_timestamp() - interval '4 days', 'ok')";
    db.client().await.execute(silent, &[]).await.unwrap();
    let (_, text, _) = words(&db, &["executors", "list"]);
    let line: Vec<&str> = text.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(line, ["stale", "quiet", "one", "Agent", "4d", "postgres", "all", "of", "its", "kind"]);
    let (code, text, _) = words(&db, &["executors", "forget", "quiet one"]);
    assert_eq!((code, text.as_str()), (Some(0), "quiet one is forgotten\n"));
    assert_eq!(words(&db, &["health"]).0, Some(0));
    let (code, _, err) = words(&db, &["executors", "forget", "quiet one"]);
    assert_eq!(code, Some(3));
    assert!(err.contains("executor_not_registered") && err.contains("`reveille executors list`"), "{err}");
}

#[tokio::test]
async fn a_database_without_our_schema_says_what_to_do() {
    let db = TestDb::empty().await;
    for arguments in [&["health"][..], &["gate", "list"], &["jobs", "list"]] {
        let (code, _, error) = json(&db, arguments);
        assert_eq!(code, Some(1), "{error}");
        assert_eq!(error["error"]["kind"], "schema");
        assert!(error["error"]["hint"].as_str().unwrap().contains("reveille migrate up"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_its_password() {
    let url = "postgres://me:hush@127.0.0.1:1/nowhere";
    let (code, out, err) = output(reveille(&["health"]).env("DATABASE_URL", url));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("127.0.0.1:1") && err.contains("hint:") && !err.contains("hush"), "{err}");
    let (code, _, err) = output(&mut reveille(&["health"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("DATABASE_URL"), "{err}");
}
