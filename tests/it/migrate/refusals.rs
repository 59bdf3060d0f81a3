//! What the migrator refuses, and what it says then.

use std::time::Duration;

use reveille::config::Database;
use reveille::error::Kind;
use reveille::postgres::Server;
use reveille::postgres::migrator::{Migrator, Phase, State};

use super::{ONE, TWO, catalog, done, migrator, number};
use crate::support::{SOON, TestDb, database_at, server_at, wait_until};

#[tokio::test]
async fn a_failed_phase_leaves_nothing_half_done_and_names_file_and_line() {
    let cases = [
        (
            "create table second ();\n\ncreate table third (\n  id intt);",
            "up.sql:4",
            "type \"intt\" does not exist",
        ),
        (
            "-- a comment; with a semicolon\ncreate table second ();\nselect 1;\nselect 1/0;",
            "up.sql:4",
            "division by zero",
        ),
        (
            "create table second ();\ndo $$ begin\n  raise exception 'no; never';\nend $$;",
            "up.sql:2",
            "no; never",
        ),
    ];
    for (up, place, message) in cases {
        let database = TestDb::empty().await;
        let broken = Phase { up: Box::leak(up.to_owned().into_boxed_str()), ..TWO };
        let migrator = migrator(&database, &[ONE, broken]);
        let error = migrator.up(None, false).await.unwrap_err().to_string();
        let expected = format!("migrations/002_two/{place}: {message}");
        assert!(error.starts_with(&expected), "{error}");
        let tables = "select count(*) from pg_class where relname in ('second', 'third')";
        assert_eq!(number(&database, tables).await, 0);
        assert_eq!(number(&database, "select max(number)::bigint from reveille_migration").await, 1);
        Migrator::with_phases(server_at(&database.url()), vec![ONE, TWO]).up(None, false).await.unwrap();
    }
}

#[tokio::test]
async fn an_applied_up_that_has_changed_is_refused_as_drift() {
    let database = TestDb::empty().await;
    migrator(&database, &[ONE]).up(None, false).await.unwrap();
    let changed = Phase { up: "create table first (id bigint primary key);", ..ONE };
    let drifted = migrator(&database, &[changed, TWO]);
    let before = catalog(&database).await;
    for error in [
        drifted.up(None, false).await.unwrap_err(),
        drifted.up(None, true).await.unwrap_err(),
        drifted.check(&database.client().await).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Schema);
        assert!(error.to_string().contains("migrations/001_one/up.sql is not the text"), "{error}");
        assert!(error.hint_text().unwrap().contains("reveille migrate down --to 0"), "{error}");
    }
    assert_eq!(drifted.status().await.unwrap()[0].state, State::Drifted);
    assert_eq!(catalog(&database).await, before);
    drifted.down(Some(0), false).await.unwrap();
    assert_eq!(done(&drifted.up(None, false).await.unwrap()).len(), 2);
}

#[tokio::test]
async fn a_schema_newer_than_the_binary_is_left_alone() {
    let database = TestDb::empty().await;
    migrator(&database, &[ONE, TWO]).up(None, false).await.unwrap();
    let before = catalog(&database).await;
    let old = migrator(&database, &[ONE]);
    for error in [
        old.up(None, false).await.unwrap_err(),
        old.down(Some(0), false).await.unwrap_err(),
        old.check(&database.client().await).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Schema);
        assert!(error.to_string().contains("schema_too_new"), "{error}");
        assert!(error.hint_text().unwrap().contains("install reveille"), "{error}");
    }
    let states: Vec<State> = old.status().await.unwrap().iter().map(|phase| phase.state).collect();
    assert_eq!(states, [State::Applied, State::Unknown]);
    assert_eq!(catalog(&database).await, before);
}

#[tokio::test]
async fn going_back_is_refused_while_rows_would_be_lost() {
    let database = TestDb::empty().await;
    let migrator = migrator(&database, &[ONE, TWO]);
    migrator.up(None, false).await.unwrap();
    let client = database.client().await;
    client.batch_execute("insert into first values (7)").await.unwrap();
    let error = migrator.down(Some(0), false).await.unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (Kind::Refused, 3));
    assert!(error.to_string().contains("migrations/001_one/down.sql:1: first still has rows"), "{error}");
    assert_eq!(number(&database, "select id::bigint from first").await, 7);
    assert_eq!(number(&database, "select max(number)::bigint from reveille_migration").await, 1);
}

#[tokio::test]
async fn no_down_step_loses_a_history_or_a_right_that_somebody_gave() {
    let cases = [
        (
            "insert into job_attempt (job_id, lease_token, lease_owner, picked_at, outcome)
             values (gen_random_uuid(), 1, 'one', now(), 'transient')",
            "job_attempt holds how runs ended, which would be lost",
            "delete from job_attempt",
        ),
        (
            "select fn_dead_letter_authority_set('iu', 'pg_monitor', true, false, 'test', 'a test')",
            "dead_letter_authority holds rights that would be lost",
            "select fn_dead_letter_authority_set('iu', 'pg_monitor', false, false, 'test', 'a test')",
        ),
        (
            "select fn_dead_letter_authority_set('*', 'reveille_operator', true, false, 'test', 'a test')",
            "dead_letter_authority holds rights that would be lost",
            "select fn_dead_letter_authority_set('*', 'reveille_operator', false, false, 'test', 'a test')",
        ),
        (
            "select fn_schedule_put('s', 'test.tick', 'test', p_every => '1 hour')",
            "job_schedule holds schedules that would be lost",
            "select fn_schedule_remove('s', 'test', 'a test')",
        ),
        (
            "insert into job_handler (job_kind, handler) values ('m', 'fn_maintenance_reap(jsonb)')",
            "job_handler names functions fn_maintenance_",
            "delete from job_handler",
        ),
    ];
    for (write, message, remove) in cases {
        let database = TestDb::new().await;
        let (client, migrator) = (database.client().await, Migrator::new(server_at(&database.url())));
        client.batch_execute(write).await.unwrap();
        let error = migrator.down(Some(2), false).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        assert!(error.to_string().contains(message) && error.hint_text().is_some(), "{error}");
        client.batch_execute(remove).await.unwrap();
        migrator.down(Some(2), false).await.unwrap();
    }
}

#[tokio::test]
async fn a_missing_schema_is_named_with_the_command_that_makes_it() {
    let database = TestDb::empty().await;
    let settings = Database { schema: "nowhere".to_owned(), ..database_at(&database.url()) };
    let server = Server::from_settings(&settings).unwrap();
    let client = server.client("test", &server.session()).await.unwrap();
    let error = Migrator::new(server).check(&client).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Schema);
    assert!(error.to_string().contains("not installed in schema `nowhere`"), "{error}");
    assert!(error.hint_text().unwrap().contains("reveille migrate up"), "{error}");
}

#[tokio::test]
async fn waiting_for_another_migrator_has_an_end_and_names_it() {
    let database = TestDb::empty().await;
    let slow = Phase { up: "select pg_sleep(60);", ..ONE };
    let holder = tokio::spawn({
        let migrator = migrator(&database, &[slow]);
        async move { migrator.up(None, false).await }
    });
    wait_until("the first one works", SOON, async || {
        number(&database, "select count(*) from pg_stat_activity where query like '%pg_sleep(60)%' and state = 'active' and pid <> pg_backend_pid()").await > 0
    })
    .await;
    let patience = Duration::from_millis(200);
    let error = migrator(&database, &[ONE]).patience(patience).up(None, false).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout);
    assert!(error.to_string().contains("reveille/migrate"), "{error}");
    holder.abort();
    assert!(holder.await.unwrap_err().is_cancelled());
}
