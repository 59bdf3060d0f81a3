//! Every bench at a tiny size: it ends, counts right, and says what it measured. Nothing here looks at a clock.

use serde_json::Value;

use crate::cli::{output, reveille};
use crate::support::{connect, own_server, quiet_options, shared_server};

/// Runs a bench on the tests' server: exit code and reports.
async fn bench(arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    let url = shared_server().await.url("postgres");
    let mut command = reveille(&["bench"]);
    command.args(arguments).args(["--json", "--database-url", &url]);
    let (code, out, err) = output(&mut command);
    let reports = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"));
    (code, reports)
}

/// The only report of a bench, after what every report must have.
async fn only_report(arguments: &[&str]) -> Value {
    let (code, mut reports) = bench(arguments).await;
    assert_eq!((code, reports.len()), (Some(0), 1), "{reports:?}");
    let report = reports.remove(0);
    assert_eq!(report["server"]["fsync"], "off", "the tests' server is the one that was asked for");
    assert!(report["machine"]["cores"].as_u64().unwrap() > 0, "{report}");
    assert!(report["machine"]["kernel"].as_str().unwrap().contains('.'), "{report}");
    for check in list(&report, "checks") {
        assert_eq!(check["expected"], check["found"], "{check}");
    }
    for figure in list(&report, "figures") {
        assert!(figure["value"].as_f64().unwrap() >= 0.0, "{figure}");
    }
    for goal in list(&report, "goals") {
        assert!(goal["measured"].as_f64().unwrap().is_finite(), "{goal}");
    }
    report
}

fn list<'a>(report: &'a Value, name: &str) -> &'a [Value] {
    report[name].as_array().unwrap()
}

fn figure(report: &Value, name: &str) -> f64 {
    let found = list(report, "figures").iter().find(|figure| figure["name"] == name);
    found.unwrap_or_else(|| panic!("no `{name}` in {report}"))["value"].as_f64().unwrap()
}

#[tokio::test]
async fn bench_dispatch_counts_a_job_for_every_event_and_consumer_at_every_batch() {
    let report = only_report(&["dispatch", "--events", "400", "--batch", "50", "--rounds", "1"]).await;
    assert_eq!(list(&report, "checks").len(), 9);
    assert!(list(&report, "checks").iter().all(|check| check["found"] == 600), "{report}");
    assert!(figure(&report, "bare INSERT … SELECT") > 0.0);
    assert!(figure(&report, "events to jobs, batches of 50") > 0.0);
    assert_eq!(list(&report, "goals").len(), 2);
}

#[tokio::test]
async fn bench_dispatch_reads_a_backlog_in_tenths() {
    let report = only_report(&["dispatch", "--backlog", "1000", "--batch", "50"]).await;
    let tenths = list(&report, "figures")
        .iter()
        .filter(|figure| figure["name"].as_str().unwrap().starts_with("tenth"));
    assert_eq!(tenths.count(), 10, "{report}");
}

#[tokio::test]
async fn bench_producer_compares_ours_with_none_and_with_notify_and_loses_nothing() {
    let report = only_report(&["producer", "--clients", "2", "--seconds", "1", "--rounds", "1"]).await;
    for way in ["no trigger", "NOTIFY at every insert", "ours, no consumer", "ours, one consumer"] {
        assert!(figure(&report, way) > 0.0, "{way}: {report}");
    }
    let with_jobs =
        list(&report, "checks").iter().find(|check| check["name"] == "ours, one consumer: jobs").unwrap();
    assert!(with_jobs["found"].as_i64().unwrap() > 0, "{report}");
}

#[tokio::test]
async fn bench_wake_times_every_notification_and_every_handler_once() {
    let report = only_report(&["wake", "--seconds", "1", "--rounds", "1"]).await;
    for series in ["bare NOTIFY round trip", "commit → handler", "enqueue → handler"] {
        assert!((figure(&report, &format!("{series}, taken")) - 50.0).abs() < 0.5, "{series}: {report}");
        assert!(figure(&report, &format!("{series}, p50")) > 0.0, "{series}: {report}");
    }
}

#[tokio::test]
async fn bench_idle_finds_statements_and_memory() {
    let report = only_report(&["idle", "--seconds", "2"]).await;
    let memory = list(&report, "goals").iter().find(|goal| goal["name"] == "resident memory, MiB").unwrap();
    assert!(memory["measured"].as_f64().unwrap() > 1.0, "{report}");
}

#[tokio::test]
async fn bench_work_ends_every_job_well_beside_the_bare_limit() {
    let report = only_report(&["work", "--jobs", "300", "--batch", "50", "--rounds", "1"]).await;
    assert!(figure(&report, "bare claim and succeed by 50, one connection") > 0.0);
    assert!(figure(&report, "one worker, Rust handler") > 0.0);
    assert_eq!(list(&report, "checks").len(), 2);
}

#[tokio::test]
async fn bench_workflow_ends_every_step_and_every_workflow_well() {
    let report = only_report(&["workflow", "--jobs", "300", "--rounds", "1"]).await;
    for name in ["emitted, 6 steps each", "one worker, plain jobs", "one worker, workflows of 6 steps"] {
        assert!(figure(&report, name) > 0.0, "{name}: {report}");
    }
    let found: Vec<_> =
        list(&report, "checks").iter().map(|check| check["found"].as_i64().unwrap()).collect();
    assert_eq!(found, [50, 300]);
}

#[tokio::test]
async fn bench_claim_takes_every_job_once_at_every_batch_and_depth() {
    let report = only_report(&["claim", "--jobs", "40", "--waiting", "60", "--rounds", "1"]).await;
    for name in [
        "by 1",
        "by 10",
        "by 100",
        "by 1000",
        "60 waiting",
        "beside 60 scheduled and as many blocked and as many paused",
    ] {
        assert!(figure(&report, &format!("{name}, functions")) > 0.0, "{name}: {report}");
        assert!(figure(&report, &format!("{name}, bare")) > 0.0, "{name}: {report}");
    }
    assert_eq!(list(&report, "checks").len(), 6);
    assert!(list(&report, "checks").iter().all(|check| check["found"] == 80), "{report}");
}

#[tokio::test]
async fn bench_enqueue_makes_every_job_beside_the_same_rows() {
    let report = only_report(&["enqueue", "--jobs", "250", "--batch", "100", "--rounds", "1"]).await;
    assert!(figure(&report, "bare INSERT of 100 rows") > 0.0);
    assert!(figure(&report, "fn_job_enqueue_many of 100 jobs") > 0.0);
    assert!(list(&report, "checks").iter().all(|check| check["found"] == 250), "{report}");
}

#[tokio::test]
async fn bench_held_snapshot_keeps_its_snapshot_and_tells_of_ten_parts() {
    let report = only_report(&["held-snapshot", "--seconds", "1"]).await;
    for part in 1..=10 {
        assert!(figure(&report, &format!("part {part:2}, enqueued → handler, p99")) > 0.0, "{report}");
    }
    assert_eq!(list(&report, "checks").len(), 2);
}

#[tokio::test]
async fn bench_herd_counts_the_claims_of_all_workers() {
    let report = only_report(&["herd", "--clients", "3", "--jobs", "10"]).await;
    assert!(figure(&report, "claims") >= 10.0, "{report}");
    assert!(figure(&report, "enqueue → handler, p50") > 0.0, "{report}");
}

#[tokio::test]
async fn bench_health_asks_with_and_without_finished_jobs() {
    let report = only_report(&["health", "--jobs", "100", "--rounds", "2"]).await;
    for when in ["nothing finished", "100 finished"] {
        for session in ["a new session", "a session that stays"] {
            assert!(figure(&report, &format!("{when}, {session}, p50")) > 0.0, "{report}");
            assert!(
                (figure(&report, &format!("{when}, {session}, taken")) - 2.0).abs() < f64::EPSILON,
                "{report}"
            );
        }
    }
    assert_eq!(list(&report, "goals").len(), 3);
    assert_eq!(list(&report, "checks")[0]["found"], 100);
}

#[tokio::test]
async fn bench_leaves_no_database_behind_and_never_uses_the_operators_own() {
    let server = own_server(quiet_options()).await;
    let url = server.url("postgres");
    let mut command = reveille(&["bench", "work", "--jobs", "20", "--rounds", "1", "--database-url", &url]);
    let (code, words, _) = output(command.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/production"));
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("machine ") && words.contains("settings ") && words.contains("goal"), "{words}");
    let client = connect(&url).await;
    let left = "select count(*) from pg_database where datname like 'reveille_bench_%'";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}
