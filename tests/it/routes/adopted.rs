//! A host that has `iu_sql_event_route` already: its rows are its own, only its check on domains is widened.

use reveille::error::Kind;
use reveille::postgres::migrator::{Migrator, PHASES};
use serde_json::Value;
use tokio_postgres::Client;

use super::stage::{CODE, route};
use crate::commands::words;
use crate::support::{TestDb, server_at};

const HOST: &str = "
    create table iu_sql_event_route (
      id uuid primary key default gen_random_uuid(),
      route_code text not null unique,
      source_object_kind text not null, source_schema text not null, source_table text not null, sql_event text not null,
      target_event_domain text not null
        constraint iu_sql_event_route_target_event_domain_check check (target_event_domain in ('iu', 'iu_sql')),
      target_event_type text not null, target_event_stream text,
      enabled boolean not null default false, dry_run boolean not null default true, fail_closed boolean not null default true,
      idempotency_policy text, payload_contract jsonb,
      notes text not null default 'none');
    insert into iu_sql_event_route (route_code, source_object_kind, source_schema, source_table, sql_event, target_event_domain,
      target_event_type, enabled, payload_contract)
    values ('iu_sql.iu_sql_link.insert', 'table', 'public', 'iu_sql_link', 'insert', 'iu_sql', 'link_added', true, '[\"a\"]');
    create table entity_species (code text primary key, mode text);";

/// The phase, whatever its number is.
fn phase() -> u32 {
    PHASES.iter().find(|phase| phase.name == "trigger_in").unwrap().number
}

async fn check(client: &Client) -> String {
    let check = "select pg_get_constraintdef(oid) from pg_constraint where conname = 'iu_sql_event_route_target_event_domain_check'";
    client.query_one(check, &[]).await.unwrap().get(0)
}

async fn answer(client: &Client, call: &str) -> Value {
    client.query_one(&format!("select {call}"), &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn an_adopted_hosts_check_is_widened_and_down_puts_it_back() {
    let db = TestDb::empty().await;
    let client = db.client().await;
    client.batch_execute(HOST).await.unwrap();
    let before = check(&client).await;
    let columns = "select to_jsonb(array_agg(to_jsonb(a) order by a.attnum)) from pg_attribute a where a.attrelid = 'iu_sql_event_route'::regclass";
    let shape: Value = client.query_one(columns, &[]).await.unwrap().get(0);
    let migrator = Migrator::new(server_at(&db.url()));
    migrator.up(None, false).await.unwrap();
    let widened = check(&client).await;
    for domain in [
        "iu",
        "iu_sql",
        "piece",
        "staging",
        "birth_registry",
        "governance",
        "tac",
        "kg",
        "system",
        "dot",
        "health",
    ] {
        assert!(widened.contains(&format!("'{domain}'")), "{widened}");
    }
    client.batch_execute("insert into event_type_registry values ('birth_registry', 'entity_born', 'birth', 'delayed', null, 'born', true)").await.unwrap();

    // the host's own row is left alone, and no finding
    let own = "'iu_sql.iu_sql_link.insert', 'test', 'a test'";
    for call in [
        &format!("fn_route_enable({own})"),
        &format!("fn_route_disable({own})"),
        &format!("fn_route_remove({own})"),
    ] {
        assert_eq!(answer(&client, call).await["reason"], "not_owner", "{call}");
    }
    assert_eq!(client.query("select from fn_route_check()", &[]).await.unwrap().len(), 0);

    let put: Value =
        client.query_one("select fn_route_put($1, 'test')", &[&route("insert")]).await.unwrap().get(0);
    assert_eq!(put["created"], true, "{put}");
    for twice in [false, false] {
        let put: Value =
            client.query_one("select fn_route_put($1, 'test')", &[&route("insert")]).await.unwrap().get(0);
        assert_eq!(put["changed"], twice, "{put}");
    }
    answer(&client, "fn_gate_set('queue.route.enabled', 'true', 'test', 'a test')").await;
    answer(&client, &format!("fn_route_enable('{CODE}', 'test', 'a test', false, true)")).await;
    client.batch_execute("insert into entity_species values ('cat', 'wild')").await.unwrap();
    let subject = client.query_one("select event_subject_ref from event_outbox", &[]).await.unwrap();
    assert_eq!(subject.get::<_, String>(0), "entity_species:cat");

    // down refuses step by step, and takes nothing with it
    let refused = async |hint: &str| {
        let error = migrator.down(Some(phase() - 1), false).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        assert!(
            error.hint_text().is_some_and(|text| text.contains(hint)),
            "{error}: {:?}",
            error.hint_text()
        );
    };
    refused("Disable the routes first").await;
    answer(&client, &format!("fn_route_disable('{CODE}', 'test', 'a test')")).await;
    refused("reveille routes remove").await;
    client
        .batch_execute(
            "update iu_sql_event_route set target_event_domain = 'kg' where route_code like 'iu_sql%'",
        )
        .await
        .unwrap();
    answer(&client, &format!("fn_route_remove('{CODE}', 'test', 'a test', false)")).await;
    refused("Remove those rows first").await;
    client.batch_execute("update iu_sql_event_route set target_event_domain = 'iu'").await.unwrap();
    migrator.down(Some(phase() - 1), false).await.unwrap();
    assert_eq!(check(&client).await, before);
    let after: Value = client.query_one(columns, &[]).await.unwrap().get(0);
    assert_eq!(after, shape, "no column of the host's was touched");
}

#[tokio::test]
async fn a_route_table_of_our_own_goes_unless_it_holds_routes() {
    let db = TestDb::empty().await;
    let client = db.client().await;
    let migrator = Migrator::new(server_at(&db.url()));
    migrator.up(None, false).await.unwrap();
    let row = "insert into iu_sql_event_route (route_code, source_schema, source_table, sql_event, target_event_domain, target_event_type)
        values ('by.hand', 'public', 'x', 'insert', 'iu_sql', 'x')";
    client.batch_execute(row).await.unwrap();
    assert_eq!(migrator.down(Some(phase() - 1), false).await.unwrap_err().kind(), Kind::Refused);
    client.batch_execute("delete from iu_sql_event_route").await.unwrap();
    migrator.down(Some(phase() - 1), false).await.unwrap();
    let left =
        "select count(*) from pg_class where relname ~ '^(iu_sql_event_route|event_route|host_constraint)'";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_hosts_route_table_of_another_shape_keeps_routes_away_and_nothing_else() {
    let db = TestDb::empty().await;
    let client = db.client().await;
    let host = "create table iu_sql_event_route (route_code text unique, source_name text, enabled boolean);
        insert into iu_sql_event_route values ('theirs', 'x', true); create table entity_species (code text primary key, mode text)";
    client.batch_execute(host).await.unwrap();
    db.migrate().await;
    let register = "insert into event_type_registry values ('birth_registry', 'entity_born', 'birth', 'delayed', null, 'born', true)";
    client.batch_execute(register).await.unwrap();
    let put: Value =
        client.query_one("select fn_route_put($1, 'test')", &[&route("insert")]).await.unwrap().get(0);
    assert_eq!(put["reason"], "route_table_unfit", "{put}");
    assert_eq!(put["lacks"][0], "source_schema", "{put}");
    for command in [&["doctor"][..], &["health"], &["routes", "list"]] {
        let (code, text, err) = words(&db, command);
        assert_eq!(code, Some(0), "{command:?}: {text}{err}");
    }
}
