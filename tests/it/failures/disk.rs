//! No space left on the server.

use std::sync::Arc;

use reveille::postgres::embedded::Options;

use crate::support::{
    DOMAIN, Program, SOON, SmallDisk, TestDb, all_became_jobs, connect, emit_at_once, emit_each, flow,
    open_flow, own_server, quiet_options, wait_until,
};

/// What a full disk looks like to a statement, on a disk that is not full.
const FULL: &str = r#"
    create sequence tries;
    create function disk_full() returns trigger language plpgsql as $$
    begin
      perform nextval('tries');
      raise exception 'could not extend file "base/16384/16400": No space left on device'
        using errcode = '53100', hint = 'Check free disk space.';
    end $$;
    create trigger disk_full before insert on job_queue execute function disk_full();"#;

#[tokio::test]
async fn a_full_disk_is_told_once_and_holds_only_what_it_hits() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    client.batch_execute(FULL).await.unwrap();
    let mut sidecar = Program::run(&db.url(), &[]);
    emit_each(&client, 3).await;
    let line = sidecar.says(&["ERROR", "No space left on device (SQLSTATE 53100); trying again"]).await;
    assert!(line.contains(&format!("dispatching {DOMAIN}: could not extend file")), "{line}");
    assert!(line.contains("(free disk space on the server; work goes on by itself afterwards)"), "{line}");
    wait_until("several tries have failed", SOON, async || {
        let tries = client.query_one("select last_value from tries", &[]).await.unwrap();
        tries.get::<_, i64>(0) >= 5
    })
    .await;
    client.batch_execute("drop trigger disk_full on job_queue").await.unwrap();
    let line = sidecar.says(&["INFO", "goes on, after "]).await;
    assert!(line.contains(&format!("domain {DOMAIN} goes on")), "{line}");
    all_became_jobs(&client).await;
    assert_eq!(sidecar.lines_with("ERROR").len(), 1);
    sidecar.stops().await;
}

#[tokio::test]
async fn a_disk_that_is_really_full_stops_dispatch_until_there_is_room() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let server = own_server(quiet_options()).await;
    let folder = disk.folder_like("tablespace", &server.data_dir());
    let admin = connect(&server.url("postgres")).await;
    let make = format!("create tablespace small location '{}'", folder.display());
    admin.batch_execute(&make).await.unwrap();
    admin.batch_execute("create database app tablespace small").await.unwrap();
    let url = server.url("app");
    let migrated = Program::start(&url, &["migrate", "up"], &[]).ends().await;
    assert_eq!(migrated.code, Some(0), "{}", migrated.err);
    let client = connect(&url).await;
    open_flow(&client).await;
    emit_at_once(&client, 5000).await.unwrap();
    disk.fill();
    let mut sidecar = Program::run(&url, &[]);
    let line = sidecar.says(&["ERROR", "No space left on device (SQLSTATE 53100); trying again ("]).await;
    assert!(line.contains("(free disk space on the server; work goes on by itself afterwards)"), "{line}");
    let tick = Program::start(&url, &["tick"], &[]).ends().await;
    assert!(tick.code == Some(1) && tick.err.contains("hint: free disk space on the server"), "{tick:?}");
    disk.free();
    sidecar.says(&["INFO", "goes on, after "]).await;
    all_became_jobs(&client).await;
    sidecar.stops().await;
}

#[tokio::test]
async fn a_server_that_dies_of_a_full_disk_loses_nothing() {
    let Some(disk) = SmallDisk::mount(160) else { return };
    let options = Options { parent: Some(disk.path().to_owned()), ..Options::default() };
    let options = options.set("fsync", "on").set("max_wal_size", "48MB").set("min_wal_size", "32MB");
    let server = Arc::new(own_server(options).await);
    let db = TestDb::on(Arc::clone(&server)).await;
    let client = flow(&db).await;
    let mut sidecar = Program::run(&db.url(), &[]);
    sidecar.says(&["is running"]).await;
    emit_each(&client, 3).await;
    all_became_jobs(&client).await;
    emit_each(&client, 3).await;
    disk.fill();
    // no room for the next segment of its log: the server panics
    let log = "select pg_logical_emit_message(false, 'test', repeat('x', 1000000))";
    wait_until("the server dies", SOON, async || client.batch_execute(log).await.is_err()).await;
    sidecar.says(&["ERROR", "; trying again ("]).await;
    server.stop().await.ok();
    disk.free();
    server.start_again().await.unwrap();
    sidecar.says(&["INFO", "the database can be used again, after "]).await;
    let client = db.client().await;
    all_became_jobs(&client).await;
    let count = "select count(*) from event_outbox";
    assert_eq!(client.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 6);
    sidecar.stops().await;
}
