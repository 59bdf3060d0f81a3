//! The newcomer: ten faults planted at once beside the pilot host, found and mended with nothing but what `doctor`, `explain`
//! and the dashboard say. Commands are taken from their answers as they stand there, never from this file.

mod faults;
mod page;
mod shell;

use serde_json::Value;
use uuid::Uuid;

use self::shell::Newcomer;
use crate::doctor;
use crate::support::{SOON, steps, wait_until};

/// Each fault: the finding that names it, what its subject has, and how the command that mends it begins.
const TEN: [(&str, &str, &str); 10] = [
    (
        "gate_closed",
        "gate queue.job_substrate.enabled",
        "reveille gate open queue.job_substrate.enabled --reason",
    ),
    ("trigger_disabled", "on event_outbox", "alter table event_outbox enable trigger reveille_event_arrival"),
    ("consumer_never_matches", "consumer letters.noted", "select fn_consumer_put("),
    ("executor_silent", "executor hermes-1", "reveille executors forget hermes-1"),
    ("poison_job", "job ", "reveille dlq triage "),
    ("key_blocked", "ordering key letters/7", "reveille dlq triage "),
    ("snapshot_held", "process ", "select pg_terminate_backend("),
    ("event_type_unregistered", "event type staging.record_cleaned", "insert into event_type_registry "),
    ("function_drifted", "function fn_gate_list()", "reveille migrate up"),
    ("pooler_in_the_way", "127.0.0.1", "export REVEILLE__DATABASE__LISTEN_URL=postgresql://"),
];

fn named<'a>(found: &'a [Value], name: &str, subject: &str) -> &'a Value {
    let is_it = |one: &&Value| one["finding"] == name && one["subject"].as_str().unwrap().contains(subject);
    found.iter().find(is_it).unwrap_or_else(|| panic!("no {name} about {subject}: {found:#?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_finds_and_mends_ten_faults_by_what_doctor_explain_and_the_dashboard_say() {
    let planted = faults::plant().await;
    let mut newcomer = Newcomer::arrive(planted).await;
    let found = newcomer.doctor().await;
    for (name, subject, command) in TEN {
        let mend = doctor::mend(&found, name, subject);
        let steps = steps(&mend);
        assert!(steps.iter().any(|step| step.starts_with(command)), "{name}: {mend}: {steps:?}");
    }
    explained(&newcomer, &found).await;
    shown(&newcomer).await;

    let (ill, health, _) = newcomer.asks("reveille health").await;
    assert_eq!(ill, Some(1), "{health}");
    assert!(health.contains("gate closed: queue.job_substrate.enabled"), "{health}");
    let mut rounds = 0;
    let mut found = found;
    while found.iter().any(|one| one["severity"] != "info") {
        rounds += 1;
        assert!(rounds <= 5, "still wrong: {found:#?}");
        for finding in sorted(&found) {
            newcomer.follows(finding).await;
        }
        found = newcomer.doctor().await;
    }
    let (well, health, _) = newcomer.asks("reveille health").await;
    assert_eq!(well, Some(0), "{health}");
    the_event_becomes_a_finished_job(&mut newcomer).await;
    assert!(newcomer.doctor().await.iter().all(|one| one["severity"] == "info"), "and stays well");
    newcomer.leaves().await;
}

/// What is in the way of the other commands comes first, as a person would have it.
fn sorted(found: &[Value]) -> Vec<&Value> {
    let mut sorted: Vec<&Value> = found.iter().filter(|one| one["severity"] != "info").collect();
    sorted.sort_by_key(|one| one["finding"] != "pooler_in_the_way");
    sorted
}

/// `explain` names what concerns one event or job, and so does `doctor` in its sentence.
async fn explained(newcomer: &Newcomer, found: &[Value]) {
    let what = |name, subject| named(found, name, subject)["what"].as_str().unwrap().to_owned();
    let instead = what("consumer_never_matches", "letters.noted");
    assert!(instead.contains("($.\"payload\".\"collection\" == \"leters\")"), "which value: {instead}");
    assert!(instead.contains("$.\"payload\".\"collection\" is \"letters\" (12 of them)"), "{instead}");
    assert!(what("key_blocked", "letters/7").contains(&format!("wait behind job {}", newcomer.holder())));
    assert!(what("poison_job", &newcomer.poison().to_string()).contains("its workers went away"));

    let event = newcomer.explains("events", newcomer.event()).await;
    assert!(event.contains("do: reveille gate open queue.job_substrate.enabled --reason TEXT"), "{event}");
    let filtered = newcomer.explains("events", newcomer.filtered()).await;
    assert!(filtered.contains("letters.noted: no job, filtered"), "{filtered}");
    assert!(filtered.contains("$.\"payload\".\"collection\" is \"letters\""), "{filtered}");
    let behind = newcomer.explains("jobs", newcomer.behind()).await;
    let comes_first =
        format!("job {} (letter.send) of its ordering key letters/7 comes first", newcomer.holder());
    assert!(
        behind.contains(&comes_first) && behind.contains("to free the key: reveille dlq triage "),
        "{behind}"
    );
    for (job, reason) in [(newcomer.poison(), "lease_lost"), (newcomer.holder(), "permanent")] {
        let text = newcomer.explains("jobs", job).await;
        assert!(text.contains("dead_letter") && text.contains(reason), "{text}");
        assert!(text.contains("do: reveille dlq triage ") && text.contains("reveille dlq replay "), "{text}");
    }
}

/// The dashboard's pages name what can be seen in a browser.
async fn shown(newcomer: &Newcomer) {
    let job = |id: Uuid| format!("/jobs/{id}");
    for (path, words) in [
        ("/".to_owned(), vec!["queue.job_substrate.enabled", "hermes-1", "dead letters"]),
        ("/gates".to_owned(), vec!["queue.job_substrate.enabled", "closed"]),
        ("/executors".to_owned(), vec!["hermes-1"]),
        ("/consumers".to_owned(), vec!["letters.noted"]),
        ("/dead-letters".to_owned(), vec!["report.render", "letter.send", "the address is wrong"]),
        (format!("/events/{}", newcomer.event()), vec!["reveille gate open"]),
        (format!("/events/{}", newcomer.filtered()), vec!["letters.noted", "filtered", "leters"]),
        (job(newcomer.behind()), vec!["comes first", "letters/7", "reveille dlq triage"]),
        (job(newcomer.poison()), vec!["reveille dlq triage", "reveille dlq replay"]),
    ] {
        newcomer.sees(&path, &words).await;
    }
}

async fn the_event_becomes_a_finished_job(newcomer: &mut Newcomer) {
    let text = newcomer.explains("events", newcomer.event()).await;
    if text.starts_with("waits") {
        let hint = text.lines().find_map(|line| line.trim().strip_prefix("do: ")).unwrap().to_owned();
        newcomer.does(&steps(&hint)[0]).await;
    }
    let sql = format!(
        "select count(*) from job_queue where causation_event_id = '{}' and job_kind = 'cut.cut' and status = 'succeeded'",
        newcomer.event()
    );
    wait_until("the waiting event is a finished job", SOON, async || newcomer.count(&sql).await == 1).await;
    let text = newcomer.explains("events", newcomer.event()).await;
    assert!(text.contains("mark_cut.cut: job") && text.contains("which is succeeded"), "{text}");
    let freed = format!(
        "select count(*) from job_queue where job_id = '{}' and status = 'succeeded'",
        newcomer.behind()
    );
    wait_until("what was behind the blocked key is finished", SOON, async || {
        newcomer.count(&freed).await == 1
    })
    .await;
}

#[test]
fn commands_are_read_from_a_mend_as_a_person_reads_it() {
    for (mend, expected) in [
        ("reveille gate open k --reason TEXT", vec!["reveille gate open k --reason TEXT"]),
        ("as the owner of the table: alter table t enable trigger x", vec!["alter table t enable trigger x"]),
        (
            "start its program again; if it does not come back: reveille executors forget x",
            vec!["reveille executors forget x"],
        ),
        ("let it end; or: select pg_terminate_backend(7)", vec!["select pg_terminate_backend(7)"]),
        ("reveille migrate up (it puts back what the phase had made)", vec!["reveille migrate up"]),
        (
            "reveille a; then reveille b --note TEXT; or, else: reveille c, then reveille d",
            vec!["reveille a", "reveille b --note TEXT"],
        ),
        ("reveille run; or, for once, reveille tick", vec!["reveille tick"]),
        (
            "as a role that may create roles: create role x nologin; then reveille migrate up",
            vec!["create role x nologin", "reveille migrate up"],
        ),
        ("reveille dlq list; then for each of them reveille dlq triage ID x", vec!["reveille dlq list"]),
        ("export A=b (or a in [b]: c); the pooler may stay", vec!["export A=b"]),
    ] {
        assert_eq!(steps(mend), expected, "{mend}");
    }
}
