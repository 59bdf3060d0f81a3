//! The server itself goes through something: restart, crash, demotion, too many guests.

use std::fs;

use crate::support::wait_until;
use crate::support::{
    Program, SOON, TestDb, all_became_jobs, connect, emit_each, flow, login, own_server, quiet_options,
};

#[tokio::test]
async fn a_restart_and_a_crash_of_the_server_cost_no_event() {
    let server = std::sync::Arc::new(own_server(quiet_options()).await);
    let db = TestDb::on(std::sync::Arc::clone(&server)).await;
    let client = flow(&db).await;
    let mut sidecar = Program::run(&db.url(), &[]);
    emit_each(&client, 3).await;
    all_became_jobs(&client).await;
    emit_each(&client, 3).await;
    drop(client);
    server.stop().await.unwrap();
    sidecar.says(&["ERROR", "; trying again ("]).await;
    server.start_again().await.unwrap();
    sidecar.says(&["INFO", "the database can be used again, after "]).await;
    let client = db.client().await;
    emit_each(&client, 3).await;
    all_became_jobs(&client).await;
    assert!(sidecar.lines_with("recycled").is_empty(), "the pool's own words are nobody's news");

    drop(client);
    server.kill9().await.unwrap();
    sidecar.says(&["ERROR", "; trying again ("]).await;
    server.start_again().await.unwrap();
    sidecar.says(&["INFO", "the database can be used again, after "]).await;
    let client = db.client().await;
    emit_each(&client, 3).await;
    all_became_jobs(&client).await;
    let ended = sidecar.stops().await;
    assert!(ended.err.lines().count() < 25, "{}", ended.err);
}

#[tokio::test]
async fn a_server_that_becomes_a_standby_is_waited_for_until_it_is_promoted() {
    let server = std::sync::Arc::new(own_server(quiet_options()).await);
    let db = TestDb::on(std::sync::Arc::clone(&server)).await;
    let client = flow(&db).await;
    let mut sidecar = Program::run(&db.url(), &[]);
    emit_each(&client, 3).await;
    all_became_jobs(&client).await;
    emit_each(&client, 3).await;
    drop(client);
    server.stop().await.unwrap();
    fs::write(server.data_dir().join("standby.signal"), "").unwrap();
    server.start_again().await.unwrap();
    let line =
        sidecar.says(&["ERROR", "this server is a standby, or set read-only: it takes no writes"]).await;
    assert!(line.contains("; trying again (name all hosts in DATABASE_URL"), "{line}");
    let tick = Program::start(&db.url(), &["tick"], &[]).ends().await;
    assert!(tick.code == Some(1) && tick.err.contains("this server is a standby"), "{tick:?}");

    connect(&server.url("postgres")).await.batch_execute("select pg_promote()").await.unwrap();
    sidecar.says(&["INFO", "the database can be used again, after "]).await;
    let client = db.client().await;
    emit_each(&client, 3).await;
    all_became_jobs(&client).await;
    sidecar.stops().await;
}

#[tokio::test]
async fn a_server_that_is_set_read_only_under_open_sessions_is_told_once() {
    let server = std::sync::Arc::new(own_server(quiet_options()).await);
    let db = TestDb::on(std::sync::Arc::clone(&server)).await;
    let client = flow(&db).await;
    // any server will do: so the sidecar meets the refusal of a statement again and again
    let url = format!("{}?target_session_attrs=any", db.url());
    let mut sidecar = Program::run(&url, &[]);
    sidecar.says(&["is running"]).await;
    emit_each(&client, 3).await;
    all_became_jobs(&client).await;
    let turn = async |setting: &str| {
        let set = format!("alter system set default_transaction_read_only = {setting}");
        client.batch_execute(&set).await.unwrap();
        client.batch_execute("select pg_reload_conf()").await.unwrap();
    };
    client.batch_execute("set default_transaction_read_only = off").await.unwrap();
    turn("on").await;
    wait_until("it counts", SOON, async || {
        let show =
            connect(&db.url()).await.query_one("show default_transaction_read_only", &[]).await.unwrap();
        show.get::<_, &str>(0) == "on"
    })
    .await;
    emit_each(&client, 3).await;
    let line = sidecar.says(&["ERROR", "in a read-only transaction (SQLSTATE 25006); trying again ("]).await;
    assert!(line.contains("the server is read-only (a standby?)"), "{line}");
    let sessions = async || {
        let count = "select sessions from pg_stat_database where datname = current_database()";
        client.query_one(count, &[]).await.unwrap().get::<_, i64>(0)
    };
    let before = sessions().await;
    wait_until("it has tried again several times", SOON, async || sessions().await >= before + 4).await;
    turn("off").await;
    sidecar.says(&["INFO", "the database can be used again, after "]).await;
    all_became_jobs(&client).await;
    assert_eq!(sidecar.lines_with("25006").len(), 1, "{:?}", sidecar.lines_with("ERROR"));
    sidecar.stops().await;
}

#[tokio::test]
async fn too_many_connections_are_waited_out_at_the_start_and_later() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let user = format!("guest_{}", uuid::Uuid::new_v4().simple());
    let url = login(&client, &db.url(), &user, "connection limit 0 in role reveille_dispatcher").await;
    emit_each(&client, 3).await;
    let mut sidecar = Program::run(&url, &[]);
    let line =
        sidecar.says(&["ERROR", "too many connections for role", "(SQLSTATE 53300); trying again ("]).await;
    assert!(line.contains("raise max_connections"), "{line}");

    // enough to begin, not enough to dispatch
    client.batch_execute(&format!("alter role {user} connection limit 2")).await.unwrap();
    sidecar.says(&["INFO", "is running"]).await;
    sidecar.says(&["ERROR", "too many connections for role", "; trying again ("]).await;
    client.batch_execute(&format!("alter role {user} connection limit -1")).await.unwrap();
    all_became_jobs(&client).await;
    sidecar.says(&["INFO", "the database can be used again, after "]).await;
    sidecar.stops().await;
    wait_until("the role can go", SOON, async || {
        client.batch_execute(&format!("drop role {user}")).await.is_ok()
    })
    .await;
}
