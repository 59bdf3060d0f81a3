//! No database: refused, silent, unknown, gone for a while.

use std::time::Duration;

use reveille::postgres::embedded::free_port;

use crate::support::{Mode, Program, Proxy, SOON, TestDb, all_became_jobs, emit_each, flow, wait_until};

#[tokio::test]
async fn a_refused_connection_is_told_once_and_tried_until_it_is_accepted() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let proxy = Proxy::to(db.server().port()).await;
    proxy.set(Mode::Refuse).await;
    emit_each(&client, 3).await;
    let mut sidecar = Program::run(&db.url_through(proxy.port()), &[]);
    let line = sidecar.says(&["ERROR", "Connection refused"]).await;
    assert!(line.contains(&format!(
        "connecting to 127.0.0.1:{}/{}: Connection refused",
        proxy.port(),
        db.name()
    )));
    assert!(line.contains("; trying again (is Postgres running there"), "{line}");
    proxy.set(Mode::Pass).await;
    sidecar.says(&["INFO", "is running", db.name()]).await;
    all_became_jobs(&client).await;
    assert_eq!(sidecar.lines_with("ERROR").len(), 1);
    sidecar.stops().await;
}

#[tokio::test]
async fn tick_does_not_wait_for_a_database_that_is_not_there() {
    let url = format!("postgresql://postgres@127.0.0.1:{}/app", free_port().unwrap());
    let ended = Program::start(&url, &["tick"], &[]).ends().await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.starts_with("error: connecting to 127.0.0.1:"), "{}", ended.err);
    assert!(
        ended.err.contains("/app: Connection refused (os error 111)\nhint: is Postgres running"),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn a_silent_host_is_told_and_tried_again_and_does_not_delay_a_stop() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let proxy = Proxy::to(db.server().port()).await;
    proxy.set(Mode::BlackHole).await;
    emit_each(&client, 3).await;
    let quick = ("REVEILLE__DATABASE__CONNECT_TIMEOUT", "400ms");
    let mut sidecar = Program::run(&db.url_through(proxy.port()), &[quick]);
    let line = sidecar.says(&["ERROR", "no answer within 400ms"]).await;
    assert!(line.contains("does a firewall let us through?"), "{line}");

    // hanging in a connection attempt, it still stops at once
    let mut patient = Program::run(&db.url_through(proxy.port()), &[]);
    wait_until("it connects", SOON, async || proxy.open() >= 2).await;
    assert!(patient.runs());
    patient.signal("TERM");
    let ended = patient.ends_within(Duration::from_secs(5)).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);

    drop(sidecar);
    proxy.set(Mode::Pass).await;
    let mut sidecar = Program::run(&db.url_through(proxy.port()), &[]);
    sidecar.says(&["is running"]).await;
    all_became_jobs(&client).await;
    sidecar.stops().await;
}

#[tokio::test]
async fn a_host_name_that_nobody_knows_is_told_and_tried_again() {
    // two dots in a row: no name server is asked
    let mut sidecar = Program::run("postgresql://postgres@db..invalid:5432/app", &[]);
    let line = sidecar.says(&["ERROR", "connecting to db..invalid:5432/app: failed to lookup address"]).await;
    assert!(line.contains("trying again (is the host's name in DATABASE_URL right"), "{line}");
    assert!(sidecar.runs());
    sidecar.stops().await;
}

#[tokio::test]
async fn a_database_that_goes_and_comes_back_costs_two_lines_and_no_event() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let proxy = Proxy::to(db.server().port()).await;
    let mut sidecar = Program::run(&db.url_through(proxy.port()), &[("REVEILLE__DISPATCH__LISTEN", "false")]);
    emit_each(&client, 3).await;
    all_became_jobs(&client).await;
    proxy.set(Mode::Refuse).await;
    emit_each(&client, 3).await;
    sidecar.says(&["ERROR", "trying again"]).await;
    proxy.set(Mode::Pass).await;
    sidecar.says(&["INFO", "the database can be used again, after ", db.name()]).await;
    all_became_jobs(&client).await;
    let lines = sidecar.stops().await.err;
    let lines: Vec<_> =
        lines.lines().filter(|line| !line.contains("stop") && !line.contains("is running")).collect();
    assert!(lines.len() <= 3, "{lines:#?}");
}

#[tokio::test]
async fn a_link_that_dies_without_a_word_is_noticed_and_left() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let proxy = Proxy::to(db.server().port()).await;
    let quick =
        [("REVEILLE__DATABASE__CONNECT_TIMEOUT", "1s"), ("REVEILLE__DATABASE__STATEMENT_TIMEOUT", "1s")];
    let mut sidecar = Program::run(&db.url_through(proxy.port()), &quick);
    emit_each(&client, 1).await;
    all_became_jobs(&client).await;
    proxy.set(Mode::BlackHole).await;
    emit_each(&client, 1).await;
    let line = sidecar.says(&["ERROR", "has not answered within", "trying again"]).await;
    assert!(line.contains("is the server still there, and the network in between?"), "{line}");
    proxy.set(Mode::Pass).await;
    sidecar.says(&["INFO", "the database can be used again"]).await;
    all_became_jobs(&client).await;
    sidecar.stops().await;
}
