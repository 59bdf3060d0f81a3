//! The tests' own tools do what the tests believe.

use std::process::Command;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;

use crate::support::{Mode, Proxy, SOON, TestDb, connect, lacking, shared_server, skipped, wait_until};

/// Time in which an answer would have come if it were to come; only ever waited for in vain.
const SILENCE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (one, other) = tokio::join!(TestDb::new(), TestDb::new());
    one.client().await.batch_execute("create table only_here ()").await.unwrap();
    let there = other.client().await.query_one("select to_regclass('only_here')::text", &[]).await.unwrap();
    assert_eq!(there.get::<_, Option<String>>(0), None);
}

#[tokio::test]
async fn a_test_database_is_dropped_with_its_sessions() {
    let database = TestDb::new().await;
    let (name, client) = (database.name().to_owned(), database.client().await);
    drop(database);
    let admin = connect(&shared_server().await.url("postgres")).await;
    wait_until("the database is gone", SOON, async || {
        let left = "select count(*) from pg_database where datname = $1";
        admin.query_one(left, &[&name]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    wait_until("the session has ended", SOON, async || client.is_closed()).await;
}

#[tokio::test]
async fn the_pool_is_the_programs_own() {
    let database = TestDb::new().await;
    let client = database.pool(2).get().await.unwrap();
    let path: String = client.query_one("show search_path", &[]).await.unwrap().get(0);
    assert!(path.contains("public"), "{path}");
}

#[tokio::test]
async fn the_proxy_passes_and_counts() {
    let database = TestDb::new().await;
    let proxy = Proxy::to(database.server().port()).await;
    let client = connect(&database.url_through(proxy.port())).await;
    client.query_one("select repeat('x', 1000000)", &[]).await.unwrap();
    assert_eq!((proxy.accepted(), proxy.open()), (1, 1));
    drop(client);
    wait_until("the connection is closed", SOON, async || proxy.open() == 0).await;
}

#[tokio::test]
async fn a_black_hole_swallows_and_never_closes() {
    let database = TestDb::new().await;
    let proxy = Proxy::to(database.server().port()).await;
    let client = connect(&database.url_through(proxy.port())).await;
    proxy.set(Mode::BlackHole).await;
    assert!(timeout(SILENCE, client.batch_execute("select 1")).await.is_err());
    assert!(!client.is_closed());
    let mut stranger = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    stranger.write_all(b"anybody there?").await.unwrap();
    assert!(timeout(SILENCE, stranger.read_u8()).await.is_err());
    proxy.set(Mode::Pass).await;
    assert!(timeout(SILENCE, client.batch_execute("select 1")).await.is_err(), "what was lost stays lost");
    connect(&database.url_through(proxy.port())).await;
    assert_eq!(proxy.accepted(), 3);
}

#[tokio::test]
async fn a_stalled_path_goes_on_where_it_stopped() {
    let database = TestDb::new().await;
    let proxy = Proxy::to(database.server().port()).await;
    let client = connect(&database.url_through(proxy.port())).await;
    proxy.set(Mode::Stall).await;
    let mut query = Box::pin(client.query_one("select 42", &[]));
    assert!(timeout(SILENCE, &mut query).await.is_err());
    proxy.set(Mode::Pass).await;
    assert_eq!(timeout(SOON, query).await.unwrap().unwrap().get::<_, i32>(0), 42);
}

#[tokio::test]
async fn a_cut_closes_what_exists_and_admits_what_comes() {
    let database = TestDb::new().await;
    let proxy = Proxy::to(database.server().port()).await;
    let client = connect(&database.url_through(proxy.port())).await;
    proxy.cut();
    wait_until("the client has noticed", SOON, async || client.is_closed()).await;
    connect(&database.url_through(proxy.port())).await.batch_execute("select 1").await.unwrap();
}

#[tokio::test]
async fn a_refusing_proxy_closes_and_refuses_until_told_otherwise() {
    let database = TestDb::new().await;
    let proxy = Proxy::to(database.server().port()).await;
    let client = connect(&database.url_through(proxy.port())).await;
    proxy.set(Mode::Refuse).await;
    wait_until("the client has noticed", SOON, async || client.is_closed()).await;
    let refused = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    proxy.set(Mode::Pass).await;
    connect(&database.url_through(proxy.port())).await.batch_execute("select 1").await.unwrap();
}

#[tokio::test]
async fn latency_is_added_in_each_direction() {
    let database = TestDb::new().await;
    let proxy = Proxy::to(database.server().port()).await;
    let client = connect(&database.url_through(proxy.port())).await;
    proxy.set(Mode::Latency(Duration::from_millis(40))).await;
    let begun = Instant::now();
    client.batch_execute("select 1").await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(80), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_shared_server_takes_prepared_transactions_and_many_clients() {
    let database = TestDb::new().await;
    let client = database.client().await;
    let setting = async |name: &str| {
        let row = client.query_one("select current_setting($1)", &[&name]).await.unwrap();
        row.get::<_, String>(0)
    };
    assert_eq!(setting("max_connections").await, "200");
    assert_eq!(setting("max_prepared_transactions").await, "20");
    assert_eq!(setting("fsync").await, "off");
    assert_eq!(setting("autovacuum").await, "on");
    let missing = client.batch_execute("select no_such_column").await.unwrap_err();
    assert_eq!(missing.code(), Some(&SqlState::UNDEFINED_COLUMN));
}

/// Which of the two ways to skip is played by [`skips_when_asked`].
const SKIP: &str = "REVEILLE_TEST_SKIP";

/// Run by the test below alone.
#[test]
fn skips_when_asked() {
    match std::env::var(SKIP).as_deref() {
        Ok("skipped") => skipped("too old"),
        Ok("lacking") => lacking("not installed"),
        _ => {}
    }
}

#[test]
fn a_skip_is_seen_though_the_test_passes_and_fails_where_ci_could_do_better() {
    for (skip, ci, passes, says) in [
        ("skipped", "", true, "SKIPPED harness::skips_when_asked: too old"),
        ("skipped", "true", true, "SKIPPED harness::skips_when_asked: too old"),
        ("lacking", "", true, "SKIPPED harness::skips_when_asked: not installed"),
        ("lacking", "true", false, ""),
    ] {
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "harness::skips_when_asked", "--test-threads=2"]);
        let output = test.env(SKIP, skip).env("CI", ci).output().unwrap();
        assert_eq!(output.status.success(), passes, "{skip} with CI={ci}: {output:?}");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(err.contains(says), "{skip} with CI={ci}: {err}");
    }
}
