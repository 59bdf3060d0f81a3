//! What a route may say, tables of every shape, and strings that mean harm.

use serde_json::json;

use super::stage::{CODE, Stage, route, with};
use crate::cli::{output, reveille};
use crate::support::TestDb;

#[tokio::test]
async fn a_route_that_cannot_work_is_refused_when_it_is_written_with_the_reason() {
    let stage = Stage::new().await;
    stage.run("create view a_view as select 1 as id; create table no_key (id int); create temporary table passing (id int primary key);
        alter table entity_species add vector text, add \"Token\" text, add thumb bytea;
        create domain blob as bytea; create domain hidden as blob; alter table entity_species add picture hidden").await;
    let columns = |columns: &[&str]| json!({ "payload_contract": { "columns": columns } });
    for (changes, told) in [
        (json!({ "source_table": "nowhere" }), "there is no table public.nowhere"),
        (json!({ "source_table": "a_view" }), "there is no table public.a_view (a view,"),
        (json!({ "source_table": "no_key" }), "public.no_key has no primary key"),
        (json!({ "source_table": "event_outbox" }), "a route on it would feed itself"),
        (json!({ "source_schema": "pg_catalog", "source_table": "pg_class" }), "is a table of the system"),
        (columns(&["code", "nothing"]), "public.entity_species has no column nothing"),
        (columns(&["vector"]), "column vector may not travel"),
        (columns(&["Token"]), "column \"Token\" may not travel"),
        (columns(&["thumb"]), "column thumb is of type bytea and may not travel"),
        (columns(&["picture"]), "column picture is of type bytea and may not travel"),
        (columns(&["x"; 41]), "more than 40 columns"),
        (json!({ "payload_contract": { "columns": "code" } }), "columns must be an array of names"),
        (
            json!({ "payload_contract": { "columns": [], "subject": "{code}" } }),
            "payload_contract.subject is unknown",
        ),
        (
            json!({ "payload_contract": { "columns": [], "subject_ref": "{code" } }),
            "must be a template such as {id}",
        ),
        (
            json!({ "payload_contract": { "columns": ["code"], "subject_ref": "{name}" } }),
            "a template names {name}",
        ),
        (json!({ "payload_contract": { "when_changed": "never" } }), "when_changed must be contract or any"),
        (json!({ "sql_event": "update", "payload_contract": {} }), "no update would change any of them"),
        (json!({ "sql_event": "truncate" }), "sql_event must be insert, update or delete"),
        (json!({ "idempotency_policy": "sometimes" }), "must be per_row, per_change or per_transaction"),
        (json!({ "target_event_type": "nothing" }), "birth_registry.nothing is not registered and active"),
        (json!({ "target_event_type": null }), "target_event_type must be text"),
        (json!({ "route_code": "Upper case" }), "route_code must be lower case letters"),
        (json!({ "enabled": true }), "enabled is set by fn_route_enable"),
        (json!({ "fails": true }), "'fails' is not a key of a route"),
    ] {
        let message = stage.put_fails(&with(route("insert"), &changes)).await;
        assert!(message.contains(told), "{changes}: {message}");
    }
    assert_eq!(stage.count("iu_sql_event_route").await, 0);
}

#[tokio::test]
async fn a_live_route_may_change_what_it_says_but_not_its_table_or_statement() {
    let stage = Stage::live(&route("insert")).await;
    let moved = stage.answer("fn_route_put($1, 'test')", &[&route("delete")]).await;
    assert_eq!(moved["reason"], "route_enabled");
    let removed = stage.answer("fn_route_remove($1, 'test', 'a test')", &[&CODE]).await;
    assert_eq!(removed["reason"], "route_enabled");
    stage.put(&with(route("insert"), &json!({ "payload_contract": { "columns": ["name"] } }))).await;
    stage.run("insert into entity_species values ('cat', 'Cat')").await;
    assert_eq!(stage.answer("safe_payload from event_outbox", &[]).await, json!({ "name": "Cat" }));
    stage.disable().await;
    stage.put(&route("delete")).await;
    assert_eq!(stage.enable(None).await["state"], "live");
    stage.run("delete from entity_species").await;
    assert_eq!(stage.subjects().await, ["cat", "entity_species:cat"]);
    stage.disable().await;
    let removed = stage.answer("fn_route_remove($1, 'test', 'a test', false)", &[&CODE]).await;
    assert_eq!(removed["refused"], false);
    assert_eq!(stage.count("iu_sql_event_route").await + stage.count("event_route").await, 0);
}

#[tokio::test]
async fn a_table_of_another_schema_whose_names_need_quotes_is_a_source_like_any_other() {
    let stage = Stage::new().await;
    stage
        .run(
            r#"create schema "Odd ""schema"; create table "Odd ""schema"."My 'table';" (
        "The Key" int, n int, "when'%s" timestamptz, "{x}" text default 'x', primary key (n, "The Key"))"#,
        )
        .await;
    let odd = json!({
        "source_schema": "Odd \"schema", "source_table": "My 'table';", "sql_event": "update",
        "payload_contract": {
            "columns": ["when'%s", "n", "{x}"], "subject_ref": "odd\\':%s:{The Key}:$1", "canonical_address": "{n}/{n}",
            "correlation_id": "{when'%s}",
        },
    });
    stage.put(&with(route("update"), &odd)).await;
    stage.enable(Some(false)).await;
    stage
        .run(
            r#"set timezone = 'Asia/Tokyo';
        insert into "Odd ""schema"."My 'table';" values (1, 2, null);
        update "Odd ""schema"."My 'table';" set "when'%s" = '2026-01-01 09:00+09'"#,
        )
        .await;
    assert_eq!(stage.faults().await, Vec::<String>::new());
    let event = stage.answer("to_jsonb(e) from event_outbox e", &[]).await;
    assert_eq!(event["event_subject_ref"], "odd\\':%s:1:$1");
    assert_eq!(event["canonical_address"], "2/2");
    assert_eq!(event["correlation_id"], "2026-01-01T00:00:00+00:00", "in UTC, whatever the session says");
    assert_eq!(event["safe_payload"], json!({ "when'%s": "2026-01-01T00:00:00+00:00", "n": 2, "{x}": "x" }));
    let preview = stage.answer("fn_route_preview($1)", &[&CODE]).await;
    assert_eq!(preview["rows"][0]["verdict"], "event", "{preview}");
}

#[tokio::test]
async fn values_that_mean_harm_travel_as_they_are() {
    let stage = Stage::live(&with(route("insert"), &json!({ "idempotency_policy": "per_row" }))).await;
    let harm = "'; drop table job_queue; -- {code} %s %I $$ \\ \" ☃ \u{1}";
    stage.client.execute("insert into entity_species (code, mode) values ($1, $1)", &[&harm]).await.unwrap();
    assert_eq!(stage.subjects().await, [format!("entity_species:{harm}")]);
    let long = "x".repeat(1500);
    stage.client.execute("insert into entity_species (code) values ($1)", &[&long]).await.unwrap();
    assert_eq!(stage.count("event_route_key k where k.row_key like 'sha256:%'").await, 1);
    assert_eq!(stage.faults().await, Vec::<String>::new());
}

#[tokio::test]
async fn numbers_that_are_equal_are_one_key_and_one_subject() {
    let stage = Stage::new().await;
    stage.run("create domain amount as numeric; create table price (a numeric, b amount, v text, primary key (a, b))").await;
    let price = json!({ "source_table": "price", "payload_contract": { "columns": ["a"] } });
    stage.put(&with(with(route("insert"), &price), &json!({ "idempotency_policy": "per_row" }))).await;
    stage.enable(Some(false)).await;
    for row in ["(1.0, 2)", "(1.00, 2.0)", "(1, 2.000)", "(100, 20)", "('NaN', 0)"] {
        stage.run(&format!("insert into price values {row}; delete from price")).await;
    }
    assert_eq!(stage.subjects().await, ["1/2", "100/20", "NaN/0"]);
    assert_eq!(
        stage.answer("safe_payload::text::json from event_outbox order by id limit 1", &[]).await.to_string(),
        r#"{"a":1.0}"#
    );
}

#[tokio::test]
async fn partitions_upserts_copies_and_cascades_are_seen_like_plain_writes() {
    let stage = Stage::new().await;
    stage
        .run(
            "drop table entity_species;
        create table entity_species (code text primary key, mode text) partition by list (code);
        create table ab partition of entity_species for values in ('a', 'b');
        create table other partition of entity_species default",
        )
        .await;
    stage.put(&route("insert")).await;
    stage.enable(Some(false)).await;
    stage.put(&with(route("update"), &json!({ "route_code": "species.changed" }))).await;
    let answer = stage.answer("fn_route_enable('species.changed', 'test', 'a test', false, true)", &[]).await;
    assert_eq!(answer["refused"], false, "{answer}");
    let upsert = "insert into entity_species values ('a', 'x'), ('z', 'y') on conflict (code) do update set mode = excluded.mode || '!'";
    stage.run(upsert).await;
    assert_eq!(stage.subjects().await, ["entity_species:a", "entity_species:z"]);
    stage.run(upsert).await;
    assert_eq!(stage.count("event_outbox").await, 4);
    stage.run("update entity_species set code = 'q' where code = 'a'").await;
    assert_eq!(stage.subjects().await[4..], ["entity_species:q"], "a row that moves to another partition");
    assert_eq!(stage.faults().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_type_of_the_tables_owner_runs_no_code_of_his_with_our_rights() {
    let stage = Stage::new().await;
    stage.run("create type mood as enum ('sad', 'glad');
        create type place as (x int, y mood);
        create function spring(mood) returns json language plpgsql as $$ begin raise exception 'reached as %', current_user; end $$;
        create cast (mood as json) with function spring(mood);
        create function spring(place) returns text language plpgsql as $$ begin raise exception 'reached as %', current_user; end $$;
        create cast (place as text) with function spring(place) as implicit;
        create domain feeling as mood;
        alter table entity_species add m mood, add f feeling, add p place, add ms mood[]").await;
    let contract = json!({ "payload_contract": { "columns": ["m", "f", "p", "ms", "code"] } });
    stage.put(&with(route("update"), &contract)).await;
    stage.enable(Some(false)).await;
    stage.run("insert into entity_species values ('cat'); update entity_species set m = 'sad', f = 'glad', p = (1, 'sad'), ms = '{sad,glad}'").await;
    assert_eq!(stage.faults().await, Vec::<String>::new());
    let payload = stage.answer("safe_payload from event_outbox", &[]).await;
    assert_eq!(
        payload,
        json!({ "m": "sad", "f": "glad", "p": "(1,sad)", "ms": "{sad,glad}", "code": "cat" })
    );
    let sprung = stage.fails("select to_jsonb(m) from entity_species").await;
    assert!(sprung.message().contains("reached as"), "the trap is set");
}

#[tokio::test]
async fn a_table_of_a_producers_own_session_leads_the_trigger_nowhere() {
    let stage = Stage::live(&with(route("insert"), &json!({ "idempotency_policy": "per_row" }))).await;
    stage.run("create temporary table event_outbox (like public.event_outbox); create temporary table event_route_key (like public.event_route_key);
        create temporary table route_new (code text); create temporary table iu_sql_event_route (like public.iu_sql_event_route);
        set search_path = pg_temp, public; insert into entity_species values ('cat')").await;
    assert_eq!(stage.count("public.event_outbox").await, 1);
    assert_eq!(stage.count("pg_temp.event_outbox").await, 0);
}

#[tokio::test]
async fn routes_work_in_any_schema() {
    let db = TestDb::empty().await;
    let schema = "Odd \"schema\"; é";
    let migrate = output(
        reveille(&["migrate", "up"]).env("DATABASE_URL", db.url()).env("REVEILLE__DATABASE__SCHEMA", schema),
    );
    assert_eq!(migrate.0, Some(0), "{migrate:?}");
    let client = db.client().await;
    client.batch_execute(&format!("set search_path to \"{}\"", schema.replace('"', "\"\""))).await.unwrap();
    let stage = Stage::of(db, client).await;
    stage.put(&with(route("insert"), &json!({ "idempotency_policy": "per_row", "fail_closed": true }))).await;
    stage.enable(Some(false)).await;
    stage.run("insert into entity_species values ('cat')").await;
    assert_eq!(stage.subjects().await, ["entity_species:cat"]);
    assert_eq!(stage.findings().await, Vec::<String>::new());
    let doctor = output(
        reveille(&["doctor"]).env("DATABASE_URL", stage.db.url()).env("REVEILLE__DATABASE__SCHEMA", schema),
    );
    assert_eq!(doctor.0, Some(0), "{doctor:?}");
    assert_eq!(stage.disable().await["trigger_left"], json!(null));
}
