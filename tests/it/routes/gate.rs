//! The gate for all routes, and how a route goes for good.

use serde_json::{Value, json};

use super::stage::{CODE, Stage, route, with};
use crate::commands::{json, words};

#[tokio::test]
async fn behind_the_closed_gate_every_write_passes_and_routes_neither_emit_nor_count_nor_refuse() {
    let stage = Stage::live(&with(route("insert"), &json!({ "fail_closed": true }))).await;
    stage.gate(false).await;
    stage.run("insert into entity_species (code) values ('cat')").await;
    stage.enable(Some(true)).await;
    stage.run("insert into entity_species (code) values ('dog')").await;
    stage.enable(Some(false)).await;
    stage.run("alter table entity_species drop column mode").await;
    stage.run("insert into entity_species (code) values ('cow')").await;
    assert_eq!(stage.count("entity_species").await, 3);
    for kept in ["event_outbox", "event_route_fault", "event_route_sample", "event_route_key"] {
        assert_eq!(stage.count(kept).await, 0, "{kept}");
    }
}

#[tokio::test]
async fn the_closed_gate_is_told_by_gate_list_routes_list_enable_doctor_and_health() {
    let stage = Stage::live(&route("insert")).await;
    let db = &stage.db;
    assert!(!words(db, &["routes", "list"]).1.contains("gate"), "it is open");
    assert_eq!(words(db, &["doctor"]).0, Some(0));
    let (code, _, err) = words(db, &["gate", "close", "queue.route.enabled", "--reason", "trouble"]);
    assert_eq!(code, Some(0), "{err}");
    let told =
        "the gate for all routes is closed, and they do nothing: `reveille gate open queue.route.enabled`";
    let (_, text, _) = words(db, &["routes", "list"]);
    assert!(text.contains(told), "{text}");
    let (_, shown, _) = json(db, &["routes", "show", CODE]);
    assert_eq!(shown["gate_open"], false);
    let (_, text, _) = words(db, &["routes", "enable", CODE, "--reason", "x"]);
    assert!(text.ends_with(&format!("{told}\n")), "{text}");
    let (_, gates, _) = json(db, &["gate", "list"]);
    let gate = gates.as_array().unwrap().iter().find(|gate| gate["key"] == "queue.route.enabled").unwrap();
    assert_eq!((&gate["open"], &gate["reason"]), (&false.into(), &"trouble".into()));
    let (code, found, _) = json(db, &["doctor"]);
    assert_eq!((code, &found["findings"][0]["finding"]), (Some(1), &"gate_closed".into()), "{found}");
    let (code, text, _) = words(db, &["health"]);
    let line = "route *: the gate queue.route.enabled is closed, so 1 enabled routes do nothing";
    assert!(code == Some(0) && text.contains(line), "{text}");

    stage.disable().await;
    assert_eq!(words(db, &["doctor"]).0, Some(0), "with nothing enabled the gate may be closed");
}

#[tokio::test]
async fn a_route_is_removed_when_it_is_disabled_after_a_dry_run_and_its_faults_stay() {
    let stage = Stage::live(&with(route("insert"), &json!({ "idempotency_policy": "per_row" }))).await;
    let db = &stage.db;
    stage
        .run("insert into entity_species values ('cat'), ('dog'); insert into entity_species values ('')")
        .await;
    stage.run("update event_type_registry set active = false where event_type = 'entity_born'").await;
    stage.run("insert into entity_species values ('cow')").await;
    assert_eq!(stage.faults().await.len(), 1);
    let remove = ["routes", "remove", CODE, "--reason", "it goes"];
    let (code, _, err) = words(db, &remove);
    assert!(
        code == Some(3) && err.contains("species.born is enabled") && err.contains("routes disable"),
        "{err}"
    );
    stage.run("update iu_sql_event_route set enabled = false").await;
    let (code, _, err) = words(db, &remove);
    assert!(code == Some(3) && err.contains("its trigger still stands"), "{err}");
    stage.disable().await;

    let what = "with 0 samples and 3 keys of rows that it has told; 1 faults stay";
    let (code, text, _) = words(db, &remove);
    let told = format!("dry run: species.born would be removed, {what}; --apply does it\n");
    assert_eq!((code, text), (Some(0), told));
    assert_eq!((stage.count("event_route").await, stage.count("event_route_key").await), (1, 3));
    let apply = [&remove[..], &["--apply"]].concat();
    assert_eq!(words(db, &apply).1, format!("species.born: removed, {what}\n"));
    for (table, left) in
        [("event_route", 0), ("iu_sql_event_route", 0), ("event_route_key", 0), ("event_route_fault", 1)]
    {
        assert_eq!(stage.count(table).await, left, "{table}");
    }
    let audit: Value =
        stage.answer("jsonb_build_array(old_value, new_value, reason) from dot_config_audit where key = 'route.species.born' order by audit_id desc limit 1", &[]).await;
    assert_eq!(audit, json!(["disabled", null, "it goes"]));
    assert_eq!(words(db, &remove).0, Some(1), "there is none any more");
}
