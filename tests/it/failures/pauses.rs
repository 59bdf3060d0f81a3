//! A pause is a state, not a failure: told when it begins and when it ends, nothing is lost, and the rest goes on.

use serde_json::Value;
use tokio_postgres::Client;

use crate::support::{DOMAIN, Program, SOON, TestDb, all_became_jobs, emit_each, flow, wait_until};

async fn pause(client: &Client, scope: &str, name: &str) {
    client.execute("select fn_pause($1, $2, 'test', 'test')", &[&scope, &name]).await.unwrap();
}

async fn resume(client: &Client, scope: &str, name: &str) {
    client.execute("select fn_resume($1, $2, 'test', 'test')", &[&scope, &name]).await.unwrap();
}

async fn polls(client: &Client) -> i64 {
    let calls = "select xact_commit from pg_stat_database where datname = current_database()";
    client.query_one(calls, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_paused_domain_with_unread_events_is_told_once_however_often_it_is_polled() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    pause(&client, "domain", DOMAIN).await;
    emit_each(&client, 3).await;
    let mut sidecar = Program::run(&db.url(), &[]);
    let line = sidecar.says(&["WARN", "is paused, its position stays where it is"]).await;
    assert!(line.contains(DOMAIN) && line.contains("`reveille pause` says by whom and why"), "{line}");
    sidecar.has_said("listening").await;
    let before = polls(&client).await;
    wait_until("it has polled several times", SOON, async || polls(&client).await > before + 20).await;
    assert_eq!(sidecar.lines_with("WARN").len(), 1, "{:?}", sidecar.lines_with("WARN"));
    assert!(sidecar.lines_with("dispatch is open").is_empty(), "no gate was ever closed");
    resume(&client, "domain", DOMAIN).await;
    sidecar.says(&["INFO", "is not paused any more"]).await;
    all_became_jobs(&client).await;
    sidecar.stops().await;
}

#[tokio::test]
async fn a_pause_of_everything_is_told_once_and_not_for_each_domain() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    pause(&client, "domain", DOMAIN).await;
    pause(&client, "all", "").await;
    let mut sidecar = Program::run(&db.url(), &[("REVEILLE__DISPATCH__POLL_INTERVAL", "1h")]);
    sidecar.says(&["WARN", "everything is paused, positions stay", "`reveille pause` says by whom"]).await;
    sidecar.has_said("listening").await;
    let domains = "select count(*) from dispatch_cursor";
    assert!(client.query_one(domains, &[]).await.unwrap().get::<_, i64>(0) > 1);
    resume(&client, "all", "").await;
    sidecar.says(&["INFO", "the pause of everything is over"]).await;
    sidecar.says(&["WARN", "domain system is paused"]).await; // as it was all the time
    resume(&client, "domain", DOMAIN).await;
    sidecar.says(&["INFO", "domain system is not paused any more"]).await;
    assert_eq!(sidecar.lines_with("WARN").len(), 2, "{:?}", sidecar.lines_with("WARN"));
    sidecar.stops().await;
}

#[tokio::test]
async fn a_sidecar_that_was_paused_goes_on_at_resume_without_a_poll() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let mut sidecar = Program::run(&db.url(), &[("REVEILLE__DISPATCH__POLL_INTERVAL", "1h")]);
    sidecar.says(&["listening"]).await;
    for (scope, name, begins, ends) in [
        ("all", "", "everything is paused", "the pause of everything is over"),
        ("domain", DOMAIN, "domain system is paused", "domain system is not paused any more"),
    ] {
        pause(&client, scope, name).await;
        sidecar.says(&["WARN", begins]).await;
        emit_each(&client, 3).await;
        resume(&client, scope, name).await;
        sidecar.says(&["INFO", ends]).await;
        all_became_jobs(&client).await;
    }
    sidecar.stops().await;
}

#[tokio::test]
async fn a_sidecar_that_may_not_listen_goes_on_at_its_next_poll() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    pause(&client, "all", "").await;
    emit_each(&client, 3).await;
    let mut sidecar = Program::run(&db.url(), &[("REVEILLE__DISPATCH__LISTEN", "false")]);
    sidecar.says(&["WARN", "everything is paused"]).await;
    resume(&client, "all", "").await;
    all_became_jobs(&client).await;
    sidecar.stops().await;
}

#[tokio::test]
async fn tick_leaves_a_paused_domain_alone_and_does_the_rest() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    emit_each(&client, 3).await;
    pause(&client, "domain", "dot").await; // before DOMAIN in every order
    let ended = Program::start(&db.url(), &["tick", "--json"], &[]).ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let tick: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&tick["jobs"], &tick["paused"]), (&3.into(), &serde_json::json!(["dot"])), "{tick}");
    pause(&client, "all", "").await;
    let ended = Program::start(&db.url(), &["tick"], &[]).ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.out.contains("\npaused ") && ended.out.contains(DOMAIN), "{}", ended.out);
}
