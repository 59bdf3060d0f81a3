//! One server's life: start, stop, crash, another life as a standby.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use reveille::error::Kind;
use reveille::postgres::embedded::{Options, Throwaway};

use crate::support::{connect, own_server, password, quiet_options, server_at};

async fn number(server: &Throwaway, query: &str) -> i32 {
    connect(&server.url("postgres")).await.query_one(query, &[]).await.unwrap().get(0)
}

async fn remember(server: &Throwaway) {
    let statement = "create table remembered as select 42 as answer";
    connect(&server.url("postgres")).await.batch_execute(statement).await.unwrap();
}

#[tokio::test]
async fn it_starts_answers_and_leaves_nothing() {
    let server = own_server(quiet_options()).await;
    assert_eq!(number(&server, "select 42").await, 42);
    let directory = server.directory().to_path_buf();
    assert!(directory.join("data/PG_VERSION").exists());
    drop(server);
    assert!(!directory.exists(), "{}", directory.display());
}

#[tokio::test]
async fn nobody_gets_in_without_the_password_and_only_the_address_has_it() {
    let server = own_server(quiet_options()).await;
    let url = server.url("postgres");
    let password = password(&url);
    for wrong in [url.replacen(&format!(":{password}@"), "@", 1), url.replacen(password, "wrong", 1)] {
        let refused = server_at(&wrong).connect("test").await.map(drop).unwrap_err();
        assert_eq!(refused.kind(), Kind::Denied, "{refused}");
    }
    assert_eq!(number(&server, "select 42").await, 42);
    let found = Command::new("grep").args(["-rlF", password]).arg(server.directory()).output().unwrap();
    assert_eq!((found.status.code(), found.stdout), (Some(1), Vec::new()), "a file with the password");
    assert!(!format!("{server:?}").contains(password), "{server:?}");
}

#[tokio::test]
async fn two_run_at_once() {
    let (one, other) = tokio::join!(own_server(quiet_options()), own_server(quiet_options()));
    assert_ne!(one.port(), other.port());
    remember(&one).await;
    assert_eq!(number(&other, "select count(*)::int from pg_class where relname = 'remembered'").await, 0);
    drop(other);
    assert_eq!(number(&one, "select answer from remembered").await, 42);
}

#[tokio::test]
async fn a_restart_keeps_port_and_data() {
    let server = own_server(quiet_options()).await;
    remember(&server).await;
    let (port, pid) = (server.port(), server.pid());
    server.restart().await.unwrap();
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), pid);
    assert_eq!(number(&server, "select answer from remembered").await, 42);
}

#[tokio::test]
async fn a_stopped_server_stays_stopped_until_started() {
    let server = own_server(quiet_options()).await;
    server.stop().await.unwrap();
    server.stop().await.unwrap();
    assert_eq!(server.pid(), None);
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", server.port())).await.is_err());
    server.start_again().await.unwrap();
    assert_eq!(server.start_again().await.unwrap_err().kind(), Kind::Usage);
    assert_eq!(number(&server, "select 42").await, 42);
}

#[tokio::test]
async fn a_killed_server_breaks_its_sessions_and_recovers() {
    let server = own_server(Options { durable: true, ..quiet_options() }).await;
    remember(&server).await;
    let busy = connect(&server.url("postgres")).await;
    let (slept, killed) = tokio::join!(busy.batch_execute("select pg_sleep(600)"), server.kill9());
    killed.unwrap();
    slept.unwrap_err();
    assert_eq!(server.pid(), None);
    server.start_again().await.unwrap();
    assert_eq!(number(&server, "select answer from remembered").await, 42);
    assert!(server.log_tail().contains("was not properly shut down"), "{}", server.log_tail());
}

#[tokio::test]
async fn it_can_become_a_standby_and_a_primary_again() {
    let server = own_server(quiet_options()).await;
    server.stop().await.unwrap();
    let signal = server.data_dir().join("standby.signal");
    fs::write(&signal, "").unwrap();
    server.start_again().await.unwrap();
    let client = connect(&server.url("postgres")).await;
    assert!(client.query_one("select pg_is_in_recovery()", &[]).await.unwrap().get::<_, bool>(0));
    let refused = client.batch_execute("create table no_way ()").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25006");
    server.stop().await.unwrap();
    fs::remove_file(&signal).unwrap();
    server.start_again().await.unwrap();
    remember(&server).await;
}

#[tokio::test]
async fn settings_of_the_options_stay_and_those_of_a_start_replace_each_other() {
    let server = own_server(quiet_options().set("work_mem", "1MB")).await;
    let show = async |name: &str| -> String {
        connect(&server.url("postgres")).await.query_one(&format!("show {name}"), &[]).await.unwrap().get(0)
    };
    server.stop().await.unwrap();
    server.start_with(vec![("application_name".into(), r"it's a \ name".into())]).await.unwrap();
    assert_eq!(show("application_name").await, r"it's a \ name");
    assert_eq!(show("work_mem").await, "1MB");
    server.stop().await.unwrap();
    server.start_with(Vec::new()).await.unwrap();
    assert_eq!(show("application_name").await, "");
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_the_end_of_its_log() {
    let begun = Instant::now();
    let wrong = quiet_options().set("no_such_setting", "1");
    let error = Throwaway::start(wrong).await.unwrap_err();
    assert!(error.to_string().contains("unrecognized configuration parameter"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20), "it did not wait for the deadline");
}

#[tokio::test]
async fn it_is_utf8_with_locale_c_and_answers_on_the_loopback_only() {
    let server = own_server(Options::default()).await;
    let client = connect(&server.url("postgres")).await;
    let query = "select pg_encoding_to_char(encoding), datcollate::text, current_setting('listen_addresses'), \
                 current_setting('unix_socket_directories') from pg_database where datname = 'postgres'";
    let row = client.query_one(query, &[]).await.unwrap();
    let shown: Vec<String> = (0..4).map(|column| row.get(column)).collect();
    assert_eq!(shown, ["UTF8", "C", "127.0.0.1", ""]);
}

#[tokio::test]
async fn names_of_databases_may_hold_anything() {
    let server = own_server(quiet_options()).await;
    let name = "Ünï \"quoted\" 100%/?";
    let admin = connect(&server.url("postgres")).await;
    admin.batch_execute(&format!("create database \"{}\"", name.replace('"', "\"\""))).await.unwrap();
    let client = connect(&server.url(name)).await;
    let there: String = client.query_one("select current_database()::text", &[]).await.unwrap().get(0);
    assert_eq!(there, name);
}
