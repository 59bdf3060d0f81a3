//! What may not leave a table leaves it in no way: not as a key, in a template, or because the table has changed.

use serde_json::{Value, json};

use super::stage::{CODE, Stage, route, with};

/// A table whose key must not be told.
const PAT: &str = "create table pat (ssn text primary key, name text unique, notes jsonb)";

fn pat(changes: &Value) -> Value {
    let contract = json!({ "source_table": "pat", "payload_contract": { "columns": ["name"] } });
    with(with(route("insert"), &contract), changes)
}

#[tokio::test]
async fn a_key_that_may_not_travel_is_neither_a_subject_nor_kept() {
    let stage = Stage::new().await;
    stage.run(PAT).await;
    let template = |ref_: &str| json!({ "columns": ["name"], "subject_ref": ref_ });
    for changes in [
        json!({}),
        json!({ "idempotency_policy": "per_row", "payload_contract": template("{name}") }),
        json!({ "idempotency_policy": "per_transaction", "payload_contract": template("{name}") }),
        json!({ "payload_contract": template("{ssn}") }),
        json!({ "payload_contract": { "columns": [], "subject_ref": "x", "correlation_id": "{ssn}" } }),
    ] {
        let told = stage.put_fails(&pat(&changes)).await;
        assert_eq!(told, "column ssn may not travel: an event carries signal, not data", "{changes}");
    }
    stage.put(&pat(&json!({ "payload_contract": template("{name}") }))).await;
    stage.enable(Some(false)).await;
    stage.run("insert into pat values ('123-45-6789', 'Ann')").await;
    let all = stage.answer("jsonb_agg(to_jsonb(e))::text::jsonb from event_outbox e", &[]).await.to_string();
    assert!(all.contains("Ann") && !all.contains("123-45"), "{all}");
    assert_eq!(stage.count("event_route_key").await, 0);
}

#[tokio::test]
async fn types_that_hold_what_may_not_travel_do_not_travel_either() {
    let stage = Stage::new().await;
    stage
        .run(
            "create domain blob as bytea; create type part as (a int, b blob[]); create type own as (id int, \"SSN\" text);
        alter table entity_species add parts part[], add o own, add blobs blob[], add x xml[]",
        )
        .await;
    let columns = |column: &str| json!({ "payload_contract": { "columns": [column] } });
    for (column, told) in [
        ("parts", "column parts is of type bytea and may not travel"),
        ("blobs", "column blobs is of type bytea and may not travel"),
        ("x", "column x is of type xml and may not travel"),
        ("o", "column o may not travel"),
    ] {
        let message = stage.put_fails(&with(route("insert"), &columns(column))).await;
        assert!(message.starts_with(told), "{message}");
    }
    stage.run("create table j (k jsonb primary key, v text)").await;
    let json_key = json!({ "source_table": "j", "payload_contract": { "columns": ["v"] } });
    let message = stage.put_fails(&with(route("insert"), &json_key)).await;
    assert!(
        message.starts_with("column k is JSON and may travel only when the contract has it"),
        "{message}"
    );
    let judged = json!({ "source_table": "j", "payload_contract": { "columns": ["v", "k"] } });
    stage.put(&with(route("insert"), &judged)).await;
    stage.enable(Some(false)).await;
    stage.run(r#"insert into j values ('{"token": "x"}'), ('{"n": 1}')"#).await;
    assert_eq!(stage.subjects().await, [r#"{"n": 1}"#]);
}

#[tokio::test]
async fn a_table_that_changes_after_its_route_went_live_lets_nothing_out_that_may_not_travel() {
    for (change, insert) in [
        ("alter table entity_species alter mode type bytea using 'x'", "('cat', 'Cat', '\\x0102')"),
        ("alter table entity_species alter mode type xml using null", "('cat', 'Cat', '<a/>')"),
        (
            "alter table entity_species add ssn text default '123-45-6789', drop constraint entity_species_pkey, add primary key (ssn, code)",
            "('cat', 'Cat', 'wild')",
        ),
    ] {
        let kept = json!({ "idempotency_policy": "per_row" });
        let stage = Stage::live(&with(route("insert"), &kept)).await;
        stage.run("insert into entity_species values ('dog', 'Dog', 'wild')").await;
        stage.run(change).await;
        for _ in 0..2 {
            stage
                .run(&format!("insert into entity_species values {insert}; delete from entity_species"))
                .await;
            stage.answer("fn_route_prune()", &[]).await;
        }
        assert_eq!(stage.subjects().await, ["entity_species:dog"], "{change}");
        assert_eq!(stage.faults().await, ["55000"; 2], "{change}");
        assert_eq!(stage.count("event_route_key").await, 1, "{change}");
        assert_eq!(stage.findings().await, ["column_denied", "faults"], "{change}");
        let preview = stage.answer("fn_route_preview($1)", &[&CODE]).await;
        assert_eq!(preview["reason"], "column_denied", "{preview}");
    }
}
