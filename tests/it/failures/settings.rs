//! Wrong settings end it with 2 before anything is tried; a port that is taken, with 1 and its number.

use tokio::net::TcpListener;

use crate::support::{Program, TestDb};

#[tokio::test]
async fn all_wrong_settings_are_told_at_once() {
    let db = TestDb::empty().await;
    let wrong = [
        ("REVEILLE__DISPATCH__POL_INTERVAL", "1s"),
        ("REVEILLE__DISPATCH__BATCH_SIZE", "many"),
        ("REVEILLE__HTTP__LISTEN", "everywhere"),
        ("REVEILLE__LISTENER__CANARY_TIMEOUT", "1h"),
    ];
    let ended = Program::run(&db.url(), &wrong).ends().await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""));
    assert!(ended.err.starts_with("error: 4 problems in the settings:\n"), "{}", ended.err);
    for words in
        ["did you mean `dispatch.poll_interval`?", "dispatch.batch_size", "`everywhere` is not an address"]
    {
        assert!(ended.err.contains(words), "{words} in {}", ended.err);
    }
}

#[tokio::test]
async fn a_configuration_file_that_is_missing_is_named() {
    let db = TestDb::empty().await;
    let ended = Program::start(&db.url(), &["run", "--config", "no/such.toml"], &[]).ends().await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("no/such.toml"), "{}", ended.err);
}

#[tokio::test]
async fn a_domain_that_is_not_dispatched_is_named_with_a_guess() {
    let db = TestDb::new().await;
    let ended = Program::run(&db.url(), &[("REVEILLE__DISPATCH__DOMAINS", "stagin")]).ends().await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("`stagin`") && ended.err.contains("did you mean `staging`?"), "{}", ended.err);
}

#[tokio::test]
async fn a_domain_that_an_operator_added_can_be_named() {
    let db = TestDb::new().await;
    let named = [("REVEILLE__DISPATCH__DOMAINS", "customer")];
    let ended = Program::run(&db.url(), &named).ends().await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("`select fn_dispatch_domain_add('customer')` adds it"), "{}", ended.err);
    db.client().await.execute("select fn_dispatch_domain_add('customer')", &[]).await.unwrap();
    let mut sidecar = Program::run(&db.url(), &named);
    sidecar.says(&["is running", "domains=customer"]).await;
    sidecar.stops().await;
}

#[tokio::test]
async fn a_port_that_is_taken_ends_it_before_the_database_is_asked() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let face = [("REVEILLE__HTTP__ENABLED", "true"), ("REVEILLE__HTTP__LISTEN", address.as_str())];
    let ended = Program::run("postgresql://postgres@127.0.0.1:1/app", &face).ends().await;
    assert_eq!(ended.code, Some(1));
    let words = format!("error: [http] listen: {address} is taken by another program");
    assert!(ended.err.starts_with(&words), "{}", ended.err);
    assert!(
        ended.err.contains("hint: stop the other program, choose another address in [http] listen"),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn the_file_of_the_dashboards_token_is_read_by_nobody_but_run() {
    let db = TestDb::new().await;
    let secret =
        [("REVEILLE__HTTP__TOKEN_FILE", "/no/such/token"), ("REVEILLE__HTTP__LISTEN", "127.0.0.1:0")];
    let health = Program::start(&db.url(), &["health"], &secret).ends().await;
    assert_eq!(health.code, Some(0), "{}", health.err);
    let run =
        Program::run(&db.url(), &[&secret[..], &[("REVEILLE__HTTP__ENABLED", "true")]].concat()).ends().await;
    assert_eq!(run.code, Some(2), "{}", run.err);
    assert!(run.err.contains("[http] token_file: the file `/no/such/token` cannot be read"), "{}", run.err);
}

#[tokio::test]
async fn an_address_that_cannot_be_read_is_not_printed_with_its_password() {
    for url in ["postgresql://postgres@127.0.0.1:port/app", "http://postgres@127.0.0.1/app"] {
        let ended = Program::run(url, &[]).ends().await;
        assert_eq!(ended.code, Some(2), "{}", ended.err);
        assert!(ended.err.contains("DATABASE_URL"), "{}", ended.err);
    }
}
