//! The schema against the binary: phases, functions, triggers, indexes.

use reveille::postgres::Server;
use reveille::postgres::migrator::{Migrator, PHASES};

use super::{Patient, findings, mend};
use crate::commands::{json, words};
use crate::support::TestDb;

#[tokio::test]
async fn a_schema_that_is_not_there_is_the_first_thing_to_say_and_the_rest_is_not_asked() {
    let db = TestDb::empty().await;
    let found = findings(&db, &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(mend(&found, "schema_missing", "schema public").starts_with("reveille migrate up"));
    assert_eq!(words(&db, &["migrate", "up"]).0, Some(0));
    assert!(findings(&db, &[]).is_empty());
}

#[tokio::test]
async fn a_phase_that_is_missing_and_functions_of_another_version_are_named() {
    let db = TestDb::new().await;
    assert_eq!(words(&db, &["migrate", "down"]).0, Some(0));
    let last = PHASES.last().unwrap().folder();
    assert_eq!(mend(&findings(&db, &[]), "schema_behind", &last), "reveille migrate up");
    assert_eq!(words(&db, &["migrate", "up"]).0, Some(0));
    assert!(findings(&db, &[]).is_empty());
    let old = "update reveille_migration set functions_checksum = 'old' where number = 3";
    db.client().await.batch_execute(old).await.unwrap();
    assert_eq!(mend(&findings(&db, &[]), "schema_behind", "003_"), "reveille migrate up");
    assert_eq!(words(&db, &["migrate", "up"]).0, Some(0));
    assert!(findings(&db, &[]).is_empty());
}

#[tokio::test]
async fn a_changed_up_sql_and_a_phase_of_a_newer_reveille_are_named() {
    let patient = Patient::new().await;
    patient.run("create table kept as select * from reveille_migration where number = 3").await;
    patient.run("update reveille_migration set up_checksum = 'other' where number = 3").await;
    let said = patient.sees("schema_drifted", "003_job_substrate");
    assert!(said.contains("reveille migrate down --to 2"), "{said}");
    patient
        .run("update reveille_migration m set up_checksum = k.up_checksum from kept k where m.number = 3")
        .await;
    patient
        .run("insert into reveille_migration (number, name, up_checksum, functions_checksum, binary_version) values (99, 'far', 'x', 'x', '9.0.0')")
        .await;
    assert_eq!(patient.sees("schema_too_new", "099_far"), "install reveille 9.0.0");
    patient.run("delete from reveille_migration where number = 99").await;
    patient.is_healthy();
}

#[tokio::test]
async fn a_function_view_or_trigger_changed_by_hand_is_named_and_migrate_up_puts_it_back() {
    let patient = Patient::new().await;
    for (harm, name, subject) in [
        ("drop function fn_route_counts(timestamptz)", "function_missing", "function fn_route_counts("),
        ("alter function fn_gate_list() volatile", "function_drifted", "function fn_gate_list()"),
        ("alter function fn_gate_list() set work_mem = '5MB'", "function_drifted", "function fn_gate_list()"),
        (
            "create or replace function fn_event_time_hacked() returns int language sql as 'select 1';
             do $$ begin execute replace(pg_get_functiondef('fn_gate_list()'::regprocedure), 'new jobs', 'old jobs'); end $$",
            "function_drifted",
            "function fn_gate_list()",
        ),
        (
            "do $$ begin execute 'create or replace view v_ordering_blocked as '
               || rtrim(pg_get_viewdef('v_ordering_blocked'::regclass), ';') || ' limit 5'; end $$",
            "function_drifted",
            "view v_ordering_blocked",
        ),
        ("drop trigger job_queue_moves on job_queue", "trigger_missing", "trigger job_queue_moves on job_queue"),
        ("revoke execute on function fn_gate_list() from reveille_reader", "grant_missing", "function fn_gate_list()"),
        ("revoke select on job_queue from reveille_operator", "grant_missing", "table job_queue"),
    ] {
        patient.run(harm).await;
        let mend = patient.sees(name, subject);
        let (code, status, _) = json(&patient.db, &["migrate", "status"]);
        assert_eq!(code, Some(1), "{harm}: {status}");
        patient.mends(&mend).await;
        patient.is_healthy();
    }
    assert_eq!(words(&patient.db, &["migrate", "status"]).0, Some(0));
}

#[tokio::test]
async fn a_function_changed_by_hand_does_not_keep_run_and_work_from_starting() {
    let patient = Patient::new().await;
    patient.run("alter function fn_gate_list() volatile").await;
    let server = Server::from_settings(&patient.db.settings().database).unwrap();
    Migrator::new(server).check(&patient.client).await.unwrap();
}

#[tokio::test]
async fn a_disabled_trigger_and_an_index_that_is_gone_or_broken_are_mended_by_the_statement_that_is_named() {
    let patient = Patient::new().await;
    for (harm, name, subject) in [
        (
            "alter table job_queue disable trigger job_queue_moves",
            "trigger_disabled",
            "trigger job_queue_moves",
        ),
        (
            "alter table job_queue enable replica trigger job_queue_moves",
            "trigger_disabled",
            "trigger job_queue_moves",
        ),
        ("drop index job_queue_lease_idx", "index_missing", "index job_queue_lease_idx"),
        (
            "update pg_index set indisvalid = false where indexrelid = 'job_queue_lease_idx'::regclass",
            "index_invalid",
            "index job_queue_lease_idx",
        ),
    ] {
        patient.run(harm).await;
        patient.mends(&patient.sees(name, subject)).await;
        patient.is_healthy();
    }
    patient.run("drop trigger reveille_event_arrival on event_outbox").await;
    assert!(
        patient
            .sees("trigger_missing", "on event_outbox")
            .starts_with("as the owner of the table: create trigger")
    );
}
