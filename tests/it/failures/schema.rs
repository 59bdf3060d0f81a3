//! The database answers, and what we need is not in it: nothing is tried again, the line says what mends it.

use tokio_postgres::Client;

use crate::support::{Ended, Program, TestDb, all_became_jobs, emit_each, flow, shared_server};

const MIGRATE: &str = "hint: run `reveille migrate up`";

/// `run` and `tick` end with 1 and the same words; these.
async fn both_give_up(url: &str) -> String {
    let run = Program::run(url, &[]).ends().await;
    let tick = Program::start(url, &["tick"], &[]).ends().await;
    assert_eq!((run.code, tick.code), (Some(1), Some(1)), "{run:?} {tick:?}");
    let error = |ended: &Ended| ended.err[ended.err.find("error: ").expect("an error is told")..].to_owned();
    assert_eq!(error(&run), error(&tick));
    assert!(!run.err.contains("trying again"), "{}", run.err);
    error(&run)
}

async fn migrate_up(db: &TestDb) {
    let ended = Program::start(&db.url(), &["migrate", "up"], &[]).ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

/// After `reveille migrate up`, `run` dispatches.
async fn migrate_up_mends_it(db: &TestDb, client: &Client) {
    migrate_up(db).await;
    emit_each(client, 1).await;
    let mut sidecar = Program::run(&db.url(), &[]);
    sidecar.says(&["INFO", "is running"]).await;
    all_became_jobs(client).await;
    sidecar.stops().await;
}

#[tokio::test]
async fn an_unknown_database_is_named() {
    let error = both_give_up(&shared_server().await.url("no_such_app")).await;
    assert!(
        error.contains("/no_such_app: database \"no_such_app\" does not exist (SQLSTATE 3D000)\n"),
        "{error}"
    );
    assert!(
        error.contains("hint: create the database first, or correct its name in DATABASE_URL"),
        "{error}"
    );
}

#[tokio::test]
async fn a_missing_schema_names_the_command_that_makes_it() {
    let db = TestDb::empty().await;
    let error = both_give_up(&db.url()).await;
    assert!(error.starts_with("error: Reveille is not installed in schema `public`\n"), "{error}");
    assert!(
        error.contains(MIGRATE) && error.contains("or set [database] schema to where it is installed"),
        "{error}"
    );
    migrate_up(&db).await;
    let client = flow(&db).await;
    migrate_up_mends_it(&db, &client).await;
}

#[tokio::test]
async fn a_schema_of_a_newer_reveille_names_the_version_to_install() {
    let db = TestDb::new().await;
    let newer =
        "insert into reveille_migration (number, name, up_checksum, functions_checksum, binary_version)
                 values ((select max(number) + 1 from reveille_migration), 'future', 'x', 'x', '9.8.7')";
    db.client().await.batch_execute(newer).await.unwrap();
    let error = both_give_up(&db.url()).await;
    assert!(error.starts_with("error: schema_too_new: the schema has phase "), "{error}");
    assert!(error.contains("_future of reveille 9.8.7"), "{error}");
    assert!(error.ends_with("hint: install reveille 9.8.7 or newer"), "{error}");
}

#[tokio::test]
async fn a_schema_of_an_older_reveille_names_the_command_that_renews_it() {
    let db = TestDb::new().await;
    let ended = Program::start(&db.url(), &["migrate", "down"], &[]).ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let error = both_give_up(&db.url()).await;
    assert!(error.starts_with("error: schema `public` is at phase "), "{error}");
    assert!(error.contains(", and this reveille needs phase ") && error.contains(MIGRATE), "{error}");
    migrate_up(&db).await;
    let client = flow(&db).await;
    migrate_up_mends_it(&db, &client).await;
}

#[tokio::test]
async fn functions_of_an_older_reveille_name_the_command_that_renews_them() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let older = "update reveille_migration set functions_checksum = 'older' where number = 2";
    client.batch_execute(older).await.unwrap();
    let error = both_give_up(&db.url()).await;
    assert!(error.contains("the functions of phase 002_event_arrival in schema `public`"), "{error}");
    assert!(error.contains(MIGRATE), "{error}");
    migrate_up_mends_it(&db, &client).await;
}

#[tokio::test]
async fn a_function_that_is_missing_at_the_start_is_named_and_made_again() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    client.batch_execute("drop function fn_consumer_dispatch_batch").await.unwrap();
    let error = both_give_up(&db.url()).await;
    assert!(
        error.starts_with("error: fn_consumer_dispatch_batch is missing from schema `public`"),
        "{error}"
    );
    assert!(error.contains(MIGRATE), "{error}");
    let status = Program::start(&db.url(), &["migrate", "status"], &[]).ends().await;
    assert!(status.code == Some(1) && status.out.contains("functions missing"), "{status:?}");
    migrate_up_mends_it(&db, &client).await;
}

#[tokio::test]
async fn a_function_dropped_under_a_running_sidecar_ends_it_and_loses_nothing() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let mut sidecar = Program::run(&db.url(), &[]);
    sidecar.says(&["is running"]).await;
    emit_each(&client, 1).await;
    all_became_jobs(&client).await;
    client.batch_execute("drop function fn_consumer_dispatch_batch").await.unwrap();
    emit_each(&client, 3).await;
    let ended = sidecar.ends().await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.err.contains(": function fn_consumer_dispatch_batch(")
            && ended.err.contains("does not exist (SQLSTATE 42883)"),
        "{}",
        ended.err
    );
    assert!(ended.err.contains(MIGRATE), "{}", ended.err);
    migrate_up_mends_it(&db, &client).await;
}

#[tokio::test]
async fn a_schema_that_anybody_may_write_to_is_warned_of() {
    let db = TestDb::empty().await;
    let client = db.client().await;
    client.batch_execute("grant create on schema public to public").await.unwrap();
    let up = async || Program::start(&db.url(), &["migrate", "up"], &[]).ends().await;
    let told = up().await;
    assert!(told.err.contains("revoke create on schema public from public"), "{}", told.err);
    assert_eq!(told.code, Some(0));
    let again = up().await;
    assert!(!again.err.contains("revoke create"), "nothing was applied: {}", again.err);
}
