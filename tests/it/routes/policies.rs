//! How often a write is told, and that a dry run tells nobody.

use reveille::maintain::{Housekeeper, Pruned};
use serde_json::json;

use super::stage::{CODE, Stage, route, with};
use crate::support::server_at;

#[tokio::test]
async fn an_insert_becomes_one_event_with_the_columns_of_the_contract_and_the_registrys_words() {
    let stage = Stage::live(&route("insert")).await;
    stage.run("insert into entity_species values ('cat', 'Cat', 'wild', '{}')").await;
    let event = stage.answer("to_jsonb(e) from event_outbox e", &[]).await;
    for (column, value) in [
        ("event_domain", json!("birth_registry")),
        ("event_type", json!("entity_born")),
        ("event_stream", json!("birth")),
        ("delivery_lane", json!("delayed")),
        ("event_severity", json!("info")),
        ("event_subject_table", json!("public.entity_species")),
        ("event_subject_ref", json!("entity_species:cat")),
        ("source_system", json!("route:species.born")),
        ("safe_payload", json!({ "code": "cat", "mode": "wild" })),
    ] {
        assert_eq!(event[column], value, "{column}");
    }
    assert_eq!(stage.count("event_arrival").await, 1, "the dispatcher will read it");
    stage.run("update entity_species set mode = 'tame'; delete from entity_species").await;
    assert_eq!(stage.count("event_outbox").await, 1, "other statements are not its own");
}

#[tokio::test]
async fn per_change_tells_each_change() {
    let stage = Stage::live(&route("update")).await;
    stage.run("insert into entity_species values ('cat', 'Cat', 'wild', '{}')").await;
    for mode in ["tame", "wild", "tame"] {
        stage.run(&format!("update entity_species set mode = '{mode}'")).await;
    }
    assert_eq!(stage.subjects().await, ["entity_species:cat"; 3]);
}

#[tokio::test]
async fn per_row_tells_a_row_once_ever_also_when_it_was_deleted_and_came_again() {
    let stage = Stage::live(&with(route("insert"), &json!({ "idempotency_policy": "per_row" }))).await;
    for _ in 0..2 {
        stage
            .run("insert into entity_species (code) values ('cat'), ('dog'); delete from entity_species")
            .await;
    }
    stage.run("insert into entity_species (code) values ('dog'), ('cow')").await;
    let subjects = stage.subjects().await;
    assert_eq!(subjects, ["entity_species:cat", "entity_species:dog", "entity_species:cow"]);
    assert_eq!(stage.faults().await, Vec::<String>::new());
    // what was rolled back was not told
    stage.run("begin; insert into entity_species (code) values ('ox'); rollback").await;
    stage.run("insert into entity_species (code) values ('ox')").await;
    assert_eq!(stage.subjects().await.last().unwrap(), "entity_species:ox");
}

#[tokio::test]
async fn per_transaction_tells_a_row_once_in_each_transaction() {
    let stage =
        Stage::live(&with(route("update"), &json!({ "idempotency_policy": "per_transaction" }))).await;
    stage
        .run("insert into entity_species values ('cat', 'Cat', 'wild', '{}'), ('dog', 'Dog', 'wild', '{}')")
        .await;
    for _ in 0..2 {
        let twice = "begin; update entity_species set mode = 'a' || random(); update entity_species set mode = 'b'; commit";
        stage.run(twice).await;
    }
    assert_eq!(stage.count("event_outbox").await, 4);
    let prune = "fn_route_prune(p_now => clock_timestamp() + interval '25 hours')";
    assert_eq!(stage.answer(prune, &[]).await["keys"], 4, "they mean nothing after their transaction");
}

#[tokio::test]
async fn an_update_that_changes_nothing_of_the_contract_emits_nothing() {
    let stage = Stage::live(&route("update")).await;
    stage
        .run("insert into entity_species values ('cat', 'Cat', 'wild', '{}'), ('dog', 'Dog', null, '{}')")
        .await;
    stage.run("update entity_species set name = 'Kitty', mode = mode; update entity_species set mode = 'x' where false").await;
    assert_eq!(stage.subjects().await, Vec::<String>::new());
    stage.run("update entity_species set mode = 'wild'").await;
    assert_eq!(stage.subjects().await, ["entity_species:dog"], "from null to a value is a change");
    stage.run("update entity_species set code = 'hound' where code = 'dog'").await;
    assert_eq!(stage.subjects().await[1..], ["entity_species:hound"], "another key is another row");

    let any = json!({ "payload_contract": { "columns": [], "when_changed": "any" } });
    stage.put(&with(route("update"), &any)).await;
    stage.run("update entity_species set name = 'Cat' where code = 'cat'; update entity_species set name = name").await;
    assert_eq!(stage.subjects().await[2..], ["cat"], "the subject is the key when nothing else is said");
}

#[tokio::test]
async fn a_delete_tells_what_was_there() {
    let stage = Stage::live(&route("delete")).await;
    stage
        .run("insert into entity_species values ('cat', 'Cat', 'wild', '{}'); delete from entity_species")
        .await;
    let payload = stage.answer("safe_payload from event_outbox", &[]).await;
    assert_eq!(payload, json!({ "code": "cat", "mode": "wild" }));
}

#[tokio::test]
async fn a_dry_run_emits_nothing_and_counts_and_goes_live_with_the_same_numbers() {
    let stage = Stage::new().await;
    stage.put(&with(route("insert"), &json!({ "idempotency_policy": "per_row", "fail_closed": true }))).await;
    assert_eq!(stage.enable(None).await["state"], "dry run", "a new route begins so");
    stage
        .run("insert into entity_species select 's' || n, 'S', 'wild', '{}' from generate_series(1, 7) n")
        .await;
    stage.run("insert into entity_species (code) values (''), ('t')").await;
    stage.run("delete from entity_species where false; insert into entity_species select * from entity_species limit 0").await;
    assert_eq!(stage.count("event_outbox").await, 0);
    assert_eq!(stage.count("event_route_key").await, 0, "nor does it remember what it did not tell");
    let seen = stage.answer("fn_route_seen($1)", &[&CODE]).await;
    let counts = ["statements", "changes", "events", "duplicates", "unfit"].map(|name| seen[name].as_i64());
    assert_eq!(counts, [2, 9, 9, 0, 0].map(Some), "{seen}");
    let sample = &seen["samples"][1]["events"];
    assert_eq!(sample.as_array().unwrap().len(), 3);
    assert_eq!(sample[0]["payload"], json!({ "code": "s1", "mode": "wild" }), "nothing beyond the contract");

    assert_eq!(stage.enable(Some(false)).await["state"], "live");
    stage.run("delete from entity_species; insert into entity_species select 's' || n from generate_series(1, 9) n").await;
    assert_eq!(stage.count("event_outbox").await, 9);
    assert_eq!(stage.answer("fn_route_seen($1)", &[&CODE]).await["statements"], 2);
}

#[tokio::test]
async fn samples_are_added_up_and_their_sum_stays() {
    let stage = Stage::new().await;
    stage.put(&route("insert")).await;
    stage.enable(None).await;
    for n in 0..45 {
        stage.run(&format!("insert into entity_species (code) values ('a{n}'), ('b{n}')")).await;
    }
    let before = stage.answer("fn_route_seen($1)", &[&CODE]).await;
    assert_eq!(stage.answer("fn_route_prune(10)", &[]).await["more"], true, "in batches");
    let settings = reveille::config::Maintenance::default();
    let housekeeper = Housekeeper::new(server_at(&stage.db.url()), stage.db.pool(1), &settings);
    housekeeper.run_once(&mut Pruned::default()).await.unwrap();
    assert!(stage.count("event_route_sample").await < 30);
    let after = stage.answer("fn_route_seen($1)", &[&CODE]).await;
    assert_eq!((&after["changes"], &after["since"]), (&json!(90), &before["since"]));
    assert_eq!(after["samples"], before["samples"], "the newest are kept");
}

#[tokio::test]
async fn ten_thousand_rows_at_once_become_ten_thousand_events_in_one_savepoint() {
    let stage = Stage::live(&with(route("insert"), &json!({ "idempotency_policy": "per_row" }))).await;
    let many =
        "insert into entity_species select 's' || n, 'S', 'wild', '{}' from generate_series(1, 10000) n";
    stage.run(many).await;
    assert_eq!(stage.count("(select distinct id, event_subject_ref from event_outbox) e").await, 10_000);
    assert_eq!(stage.count("event_arrival").await, 10_000);
    // one savepoint wrote them all
    assert_eq!(stage.count("(select distinct xmin::text from event_outbox) x").await, 1);
    assert_eq!(stage.faults().await, Vec::<String>::new());
}
