//! What goes wrong: refused where the route is `fail_closed`, kept where it is not, and seen by the doctor.

use serde_json::json;

use super::stage::{CODE, Stage, route, with};

const CAT: &str = "insert into entity_species values ('cat', 'Cat', 'wild', '{}')";

/// What can happen after a route was enabled, and the SQLSTATE that tells it.
const MISHAPS: [(&str, &str); 4] = [
    ("alter table entity_species drop column mode", "42703"),
    ("update event_type_registry set active = false where event_type = 'entity_born'", "22023"),
    ("alter table entity_species drop constraint entity_species_pkey", "55000"),
    ("alter table event_outbox add constraint small check (event_subject_ref = 'x') not valid", "23514"),
];

#[tokio::test]
async fn fail_open_lets_the_write_pass_and_keeps_what_went_wrong() {
    for (mishap, sqlstate) in MISHAPS {
        let stage = Stage::live(&route("insert")).await;
        stage.run(mishap).await;
        stage.run("insert into entity_species (code) values ('cat')").await;
        assert_eq!(stage.count("entity_species").await, 1, "{mishap}");
        assert_eq!(stage.faults().await, [sqlstate], "{mishap}");
        assert_eq!(stage.count("event_outbox").await, 0);
        assert!(stage.findings().await.contains(&"faults".to_owned()), "{mishap}");
    }
}

#[tokio::test]
async fn fail_closed_refuses_the_write_and_says_which_route_why_and_what_to_do() {
    for (mishap, sqlstate) in MISHAPS {
        let stage = Stage::live(&with(route("insert"), &json!({ "fail_closed": true }))).await;
        stage.run(mishap).await;
        let error = stage.fails("insert into entity_species (code) values ('cat')").await;
        assert_eq!(error.code().code(), sqlstate, "{error:?}");
        let told = "route species.born refuses this insert of public.entity_species: ";
        assert!(error.message().starts_with(told), "{error:?}");
        assert!(error.hint().unwrap().contains("reveille routes disable species.born"), "{error:?}");
        assert_eq!(stage.count("entity_species").await, 0, "{mishap}");
        assert_eq!(stage.faults().await, Vec::<String>::new(), "whoever wrote was told");
        stage.disable().await;
        stage.run("insert into entity_species (code) values ('cat')").await;
    }
}

#[tokio::test]
async fn a_payload_that_may_not_travel_stays_behind_alone() {
    let notes = json!({ "payload_contract": { "columns": ["code", "notes"], "subject_ref": "{code}" } });
    let rows = r#"insert into entity_species (code, notes) values
        ('a', '{"deep": [{"Password": "x"}]}'), ('b', '{"n": 1}'), ('', '{}'),
        ('c', to_jsonb(repeat('x', 20000)))"#;
    let stage = Stage::live(&with(route("insert"), &notes)).await;
    stage.run(rows).await;
    assert_eq!(stage.subjects().await, ["b"]);
    let fault = stage.answer("to_jsonb(f) from event_route_fault f", &[]).await;
    assert_eq!((&fault["changes"], &fault["sqlstate"]), (&json!(3), &json!("23514")), "{fault}");

    stage.put(&with(with(route("insert"), &notes), &json!({ "fail_closed": true }))).await;
    let error = stage
        .fails(r#"insert into entity_species (code, notes) values ('d', '{"token": 1}'), ('e', '{}')"#)
        .await;
    assert!(error.message().ends_with("1 of 2 changes have no payload that may travel"), "{error:?}");
    stage.run("insert into entity_species (code, notes) values ('e', '{}')").await;
}

#[tokio::test]
async fn a_host_that_allows_one_event_a_subject_is_told_of_the_second() {
    let index = "create unique index once on event_outbox (event_domain, event_type, event_subject_ref)";
    let stage = Stage::live(&route("update")).await;
    stage.run(index).await;
    stage.run("insert into entity_species (code) values ('cat'); update entity_species set mode = 'a'").await;
    stage.run("insert into entity_species (code) values ('dog'); update entity_species set mode = 'b'").await;
    assert_eq!(stage.subjects().await, ["entity_species:cat", "entity_species:dog"]);
    assert_eq!(stage.faults().await, ["23505"]);
    stage.put(&with(route("update"), &json!({ "fail_closed": true }))).await;
    assert_eq!(stage.fails("update entity_species set mode = 'c'").await.code().code(), "23505");
}

#[tokio::test]
async fn a_dry_run_refuses_no_write_and_keeps_its_faults_as_such() {
    let stage = Stage::new().await;
    stage.put(&with(route("insert"), &json!({ "fail_closed": true }))).await;
    stage.enable(None).await;
    stage
        .run("alter table entity_species drop column mode; insert into entity_species (code) values ('cat')")
        .await;
    assert_eq!(stage.count("event_route_fault f where f.dry_run").await, 1);
    assert_eq!(stage.findings().await, ["column_missing"], "nothing was lost");
}

#[tokio::test]
async fn faults_are_kept_for_their_time_and_no_more_than_a_thousand_of_a_route() {
    let stage = Stage::new().await;
    let many = "insert into event_route_fault (route_code, sqlstate, message, dry_run, noted_at)
        select 'a', '22023', 'x', false, now() - case when n <= 500 then interval '40 days' else '0' end from generate_series(1, 1800) n";
    stage.run(many).await;
    while stage.answer("fn_route_prune(400)", &[]).await["more"] == true {}
    assert_eq!(stage.count("event_route_fault").await, 1000);
    stage.run("select fn_gate_set('queue.route.fault_seconds', '60', 'test', 'a test')").await;
    let later = "fn_route_prune(p_now => clock_timestamp() + interval '2 minutes')";
    assert_eq!(stage.answer(later, &[]).await["faults"], 1000);
}

#[tokio::test]
async fn the_doctor_sees_a_trigger_that_was_dropped_disabled_left_over_or_lost_with_its_table() {
    let stage = Stage::live(&route("insert")).await;
    assert_eq!(stage.findings().await, Vec::<String>::new());
    stage.run(r#"alter table entity_species disable trigger "reveille_route_species.born""#).await;
    assert_eq!(stage.findings().await, ["trigger_disabled"]);
    stage.enable(None).await;
    stage.run(CAT).await;
    assert_eq!(stage.count("event_outbox").await, 1, "enabling mends it");
    stage.run(r#"drop trigger "reveille_route_species.born" on entity_species"#).await;
    assert_eq!(stage.findings().await, ["trigger_missing"]);
    stage.enable(None).await;
    stage.run("alter table entity_species rename to species").await;
    assert_eq!(stage.findings().await, ["table_missing", "trigger_left_over"]);
    stage.run("insert into species (code) values ('dog')").await;
    assert_eq!(stage.faults().await, ["55000"], "it does not pretend to be another table");
    stage.run("alter table species rename to entity_species; delete from event_route_fault").await;
    stage.run("update event_type_registry set active = false where event_type = 'entity_born'").await;
    assert_eq!(stage.findings().await, ["type_inactive"]);
    stage.run("update event_type_registry set active = true where event_type = 'entity_born'").await;
    stage.run("update iu_sql_event_route set enabled = false").await;
    assert_eq!(stage.findings().await, ["trigger_left_over"]);
    stage.run("insert into entity_species (code) values ('cow')").await;
    assert_eq!(stage.count("event_outbox").await, 1, "the row alone stops it");
    assert_eq!(stage.disable().await["trigger_left"], json!(null));
    assert_eq!(stage.findings().await, Vec::<String>::new());
}

#[tokio::test]
async fn enabling_and_disabling_twice_changes_nothing_more() {
    let stage = Stage::new().await;
    stage.put(&route("insert")).await;
    for was in ["disabled", "live"] {
        let answer = stage.enable(Some(false)).await;
        assert_eq!((&answer["state"], &answer["was"]), (&json!("live"), &json!(was)));
    }
    for was in ["live", "disabled"] {
        let answer = stage.disable().await;
        assert_eq!((&answer["state"], &answer["was"]), (&json!("disabled"), &json!(was)));
    }
    assert_eq!(stage.count("dot_config_audit where key = 'route.species.born'").await, 2);
    assert_eq!(stage.count("pg_trigger t where t.tgname like 'reveille_route%'").await, 0);
    let unknown = stage.answer("fn_route_enable('nobody', 'test', 'a test')", &[]).await;
    assert_eq!(unknown["reason"], "not_found");
}

#[tokio::test]
async fn a_busy_table_is_not_waited_for_longer_than_three_seconds() {
    let stage = Stage::new().await;
    stage.put(&route("insert")).await;
    let other = stage.db.client().await;
    other.batch_execute("begin; insert into entity_species (code) values ('cat')").await.unwrap();
    let busy = stage.answer("fn_route_enable($1, 'test', 'a test')", &[&CODE]).await;
    assert_eq!(busy["reason"], "table_busy");
    other.batch_execute("commit").await.unwrap();
    stage.enable(Some(false)).await;
    other.batch_execute("begin; insert into entity_species (code) values ('dog')").await.unwrap();
    assert_eq!(stage.disable().await["trigger_left"], "table_busy", "it is stopped all the same");
    other.batch_execute("commit").await.unwrap();
    assert_eq!(stage.findings().await, ["trigger_left_over"]);
}
