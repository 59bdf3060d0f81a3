//! LISTEN does not work where a transaction pooler stands between: polling does, and the line names the way out.

use crate::support::{Pooler, Pooling, Program, TestDb, all_became_jobs, emit_each, flow};

const QUICK: [(&str, &str); 2] =
    [("REVEILLE__LISTENER__CANARY_INTERVAL", "500ms"), ("REVEILLE__LISTENER__CANARY_TIMEOUT", "400ms")];

#[tokio::test]
async fn a_pooler_that_swallows_notifications_is_told_once_and_polling_does_the_work() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let pooler = Pooler::to(db.server().port(), Pooling::Deaf).await;
    let mut sidecar = Program::run(&db.url_through(pooler.port()), &QUICK);
    let line = sidecar.says(&["WARN", "LISTEN does not work on this connection"]).await;
    assert!(
        line.contains("as behind a transaction pooler: polling only. Set [database] listen_url to"),
        "{line}"
    );
    assert!(line.contains(&format!("127.0.0.1:{}/{}", pooler.port(), db.name())), "{line}");
    emit_each(&client, 3).await;
    all_became_jobs(&client).await;
    assert_eq!(sidecar.lines_with("LISTEN does not work").len(), 1);
    sidecar.stops().await;
}

#[tokio::test]
async fn a_pooler_that_forbids_listen_is_told_once_and_polling_does_the_work() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let pooler = Pooler::to(db.server().port(), Pooling::Forbidding).await;
    let mut sidecar = Program::run(&db.url_through(pooler.port()), &QUICK);
    let line = sidecar.says(&["WARN", "LISTEN is not supported here (SQLSTATE 0A000)"]).await;
    assert!(
        line.contains("polling only. Set [database] listen_url to the server's direct address"),
        "{line}"
    );
    emit_each(&client, 3).await;
    all_became_jobs(&client).await;
    assert_eq!(sidecar.lines_with("WARN").len(), 1, "{:?}", sidecar.lines_with("WARN"));
    sidecar.stops().await;
}

#[tokio::test]
async fn a_direct_address_for_listen_goes_round_the_pooler() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let pooler = Pooler::to(db.server().port(), Pooling::Deaf).await;
    let direct = db.url();
    let settings = [QUICK[0], QUICK[1], ("REVEILLE__DATABASE__LISTEN_URL", &direct)];
    let never = ("REVEILLE__DISPATCH__POLL_INTERVAL", "1h");
    let mut sidecar = Program::run(&db.url_through(pooler.port()), &[&settings[..], &[never]].concat());
    sidecar.says(&["INFO", "listening", db.name()]).await;
    emit_each(&client, 3).await;
    all_became_jobs(&client).await;
    assert!(sidecar.lines_with("WARN").is_empty(), "{:?}", sidecar.lines_with("WARN"));
    sidecar.stops().await;
}
