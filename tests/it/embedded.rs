//! The throw-away server, and the tests' own tools.

use crate::support::{TestDb, connect, own_server, quiet_options};

async fn answer(url: &str) -> i32 {
    let client = connect(url).await;
    client.query_one("select 42", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_throw_away_server_starts_answers_and_leaves_nothing() {
    let server = own_server(quiet_options()).await;
    assert_eq!(answer(&server.url("postgres")).await, 42);
    let directory = server.directory().to_path_buf();
    assert!(directory.exists());
    drop(server);
    assert!(!directory.exists(), "{}", directory.display());
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (one, other) = (TestDb::new().await, TestDb::new().await);
    one.client().await.batch_execute("create table only_here ()").await.unwrap();
    let there = other.client().await.query_one("select to_regclass('only_here')::text", &[]).await.unwrap();
    assert_eq!(there.get::<_, Option<String>>(0), None);
}
