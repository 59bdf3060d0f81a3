//! Gates that nobody has set: listed with what holds, and told as they stand.

use serde_json::{Value, json};
use tokio_postgres::Client;

use super::{json as answer, words};
use crate::support::TestDb;

async fn one(client: &Client, sql: &str) -> Value {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn every_gate_that_a_function_asks_is_listed_before_anybody_has_set_it() {
    let db = TestDb::new().await;
    let client = db.client().await;
    assert_eq!(one(&client, "select to_jsonb(count(*)) from dot_config").await, 0);
    let asked = "select jsonb_agg(distinct m[1] order by m[1])
        from (
          select p.prosrc from pg_proc p
          where p.pronamespace = current_schema()::regnamespace and p.proname <> 'fn_gate_list'
          union all
          select v.definition from pg_views v where v.schemaname = current_schema()) t (source),
        regexp_matches(t.source, '''(queue\\.[a-z_.]+(?:enabled|dry_run_only))''', 'g') m";
    let listed = "select jsonb_agg(key order by key) from fn_gate_list()";
    assert_eq!(one(&client, listed).await, one(&client, asked).await);
    let values = "select jsonb_object_agg(key, value) from fn_gate_list() where value <> 'false'";
    assert_eq!(
        one(&client, values).await,
        json!({ "queue.audit.enabled": "true", "queue.heartbeat.enabled": "true", "queue.lease_reaper.dry_run_only": "true" }),
        "the others are closed until they are opened"
    );
    let set = "select coalesce(jsonb_object_agg(key, jsonb_build_array(value, reason)), '{}')
        from fn_gate_list() where is_set";
    assert_eq!(one(&client, set).await, json!({}));

    let some = "select fn_gate_set('queue.worker.enabled', 'true', 'me', 'pilot'),
        fn_gate_set('job.a.rate_limit', '3', 'me', 'slow')";
    client.batch_execute(some).await.unwrap();
    let found = json!({ "queue.worker.enabled": ["true", "pilot"], "job.a.rate_limit": ["3", "slow"] });
    assert_eq!(one(&client, set).await, found);
    client
        .batch_execute("select fn_gate_set('queue.worker.enabled', null, 'me', 'it is over')")
        .await
        .unwrap();
    let worker = "select jsonb_build_array(value, is_set, updated_at, reason)
        from fn_gate_list() where key = 'queue.worker.enabled'";
    assert_eq!(one(&client, worker).await, json!(["false", false, null, "it is over"]));
}

#[tokio::test]
async fn a_gate_that_nobody_has_set_can_be_turned_and_is_told_as_it_stood() {
    let db = TestDb::new().await;
    let (_, gates, _) = answer(&db, &["gate", "list"]);
    let reaper = "queue.lease_reaper.dry_run_only";
    let gate = gates.as_array().unwrap().iter().find(|gate| gate["key"] == reaper).unwrap();
    assert_eq!((&gate["open"], &gate["is_set"]), (&json!(true), &json!(false)));
    for (action, key, said) in [
        ("open", "queue.dlq.replay_enabled", "open (was closed)"),
        ("open", "queue.lease_reaper.enabled", "open (was closed)"),
        ("close", reaper, "closed (was open)"),
        ("close", reaper, "closed (was so before)"),
        ("open", "queue.heartbeat.enabled", "open (was so before)"),
    ] {
        let said = format!("{key}: {said}\n");
        assert_eq!(words(&db, &["gate", action, key]), (Some(0), said, String::new()));
    }
    let (_, text, _) = words(&db, &["gate", "list"]);
    assert!(text.contains("queue.archive.enabled") && text.contains("not set"), "{text}");
    let (_, text, _) = words(&db, &["health"]);
    assert!(text.contains("gate closed: queue.worker.enabled\n") && !text.contains("dry_run_only"), "{text}");
}
