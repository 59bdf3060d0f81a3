//! Tables of `event_subscription` as a host may have them, and what the phase does with them.

use reveille::error::Kind;
use reveille::postgres::migrator::{Migrator, PHASES};
use serde_json::json;

use super::{fact, names, subscribe};
use crate::cli::{output, reveille};
use crate::support::{Outbox, TestDb, open_gates, server_at};

/// The phase that brings recipients.
fn number() -> u32 {
    PHASES.iter().find(|phase| phase.name == "recipients").unwrap().number
}

#[tokio::test]
async fn a_hosts_subscriptions_are_used_as_they_are_whatever_their_columns() {
    let db = TestDb::empty().await;
    let client = db.client().await;
    let host = "
        create table event_subscription (
          id bigint generated always as identity primary key, recipient_ref varchar(80), event_domain varchar(40), event_type text,
          event_stream text, scope_subject_table text, scope_filter text, mute boolean, created_at timestamptz default now());
        insert into event_subscription (recipient_ref, event_domain, event_type, event_stream, scope_filter) values
          ('role:health_owner', 'iu', 'issue_opened', null, null), ('role:empty', 'iu', null, null, ''),
          ('agency:sysop', null, null, 'alert', null), ('role:text', null, null, null, '{\"big\": true}'),
          ('role:path', null, null, null, '$.payload.big == true')";
    client.batch_execute(host).await.unwrap();
    db.migrate().await;
    let outbox = Outbox::of(db).await;
    let id = fact(&outbox, "issue_opened", json!({"big": true})).await;
    assert_eq!(names(&outbox, &id).await, ["role:empty", "role:health_owner", "role:path", "role:text"]);
    let columns = "select count(*) from information_schema.columns where table_name = 'event_subscription'";
    assert_eq!(outbox.count(columns).await, 9);
}

#[tokio::test]
async fn the_way_back_refuses_while_rows_would_be_lost() {
    let db = TestDb::new().await;
    let outbox = Outbox::of(db).await;
    let migrator = Migrator::new(server_at(&outbox.db.url()));
    let down = async || migrator.down(Some(number() - 1), true).await;
    subscribe(&outbox, &["user:a|iu"]).await;
    let error = down().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("event_subscription holds subscriptions"), "{error}");
    outbox.client.batch_execute("delete from event_subscription").await.unwrap();
    outbox.consumer("tell", "iu", json!({"fan_out": "recipients"})).await;
    let error = down().await.unwrap_err();
    assert!(error.to_string().contains("consumers that fan out"), "{error}");
    outbox.client.batch_execute("delete from consumer_registry").await.unwrap();
    down().await.unwrap();
}

#[tokio::test]
async fn dispatch_without_fan_out_asks_no_subscription() {
    let outbox = Outbox::open().await;
    outbox.consumer("plain", "iu", json!({})).await;
    outbox.client.batch_execute("drop function fn_dispatch_fan_out(uuid[], text, text)").await.unwrap();
    fact(&outbox, "saved", json!({})).await;
    assert_eq!(outbox.drain(100).await, 1);
    assert_eq!(outbox.jobs().await, 1);
}

#[tokio::test]
async fn every_command_of_the_page_about_recipients_is_accepted() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    let emit = "select fn_event_emit('system', 'queue_dispatch_gap', 'a test')";
    client.batch_execute(emit).await.unwrap();
    let id: String = client.query_one("select id::text from event_outbox", &[]).await.unwrap().get(0);
    let page = include_str!("../../../docs/recipients.md").replace(" ID", &format!(" {id}"));
    crate::readme::follow(&db, &page).await;
    let made = "select count(*) from consumer_registry where fan_out = 'recipients'";
    assert_eq!(client.query_one(made, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn everything_works_in_a_schema_whose_name_needs_quotes() {
    let db = TestDb::empty().await;
    let client = db.client().await;
    let program = |arguments: &[&str]| {
        let mut command = reveille(arguments);
        output(command.env("DATABASE_URL", db.url()).env("REVEILLE__DATABASE__SCHEMA", "Odd \"schema\""))
    };
    assert_eq!(program(&["migrate", "up"]).0, Some(0));
    client.batch_execute("set search_path to \"Odd \"\"schema\"\"\"").await.unwrap();
    open_gates(&client).await;
    let setup = "
        insert into event_subscription (recipient_ref) values ('user:a'), ('user:b');
        select fn_consumer_put('{\"consumer_key\": \"plain\", \"event_domain\": \"iu\", \"job_kind\": \"x.y\", \"enabled\": true}', 'test', p_set_enabled => true);
        select fn_consumer_put('{\"consumer_key\": \"tell\", \"event_domain\": \"iu\", \"job_kind\": \"x.z\", \"enabled\": true, \"fan_out\": \"recipients\"}', 'test', p_set_enabled => true)";
    client.batch_execute(setup).await.unwrap();
    let happens = "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane)
        values ('iu', 'x', 'update', 'delayed')";
    client.batch_execute(happens).await.unwrap();
    let use_it = "
        select fn_consumer_dispatch_batch('iu');
        select fn_job_enqueue('x.y', 'test', p_idempotency_key => 'one');
        select fn_consumer_dispatch(id) from event_outbox;
        select fn_job_archive(10)";
    client.batch_execute(use_it).await.unwrap();
    let jobs = client.query_one("select count(*) from job_queue", &[]).await.unwrap();
    assert_eq!(jobs.get::<_, i64>(0), 4);
    for command in [&["health"][..], &["subscriptions", "gaps"], &["consumers", "pilot"], &["dlq", "list"]] {
        let (code, _, err) = program(command);
        assert_eq!(code, Some(0), "{command:?}: {err}");
    }
}
