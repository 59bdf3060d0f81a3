//! What may stand in a queue: references and small, safe metadata.

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::{TestDb, open_gates};

const DENIED: [&str; 10] =
    ["body", "content", "raw", "vector", "embedding", "secret", "token", "password", "ssn", "personal_data"];

/// A payload as text, so that escapes reach the server as they are written.
async fn refused(client: &Client, payload: &str) -> [bool; 3] {
    let statements = [
        "insert into job_queue (job_kind, actor, idempotency_key, safe_payload)
         values ('test', 'test', gen_random_uuid()::text, $1::text::jsonb)",
        "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, safe_payload)
         values ('iu', 'changed', 'update', 'immediate', $1::text::jsonb)",
        "insert into queue_heartbeat (executor_name, executor_kind, metadata)
         values (gen_random_uuid()::text, 'Agent', $1::text::jsonb)",
    ];
    let mut refused = [false; 3];
    for (statement, refused) in statements.into_iter().zip(&mut refused) {
        *refused = match client.execute(statement, &[&payload]).await {
            Ok(_) => false,
            Err(error) if error.code().is_some_and(|code| code.code() == "23514") => true,
            Err(error) => panic!("{payload}: {error:?}"),
        };
    }
    refused
}

#[tokio::test]
async fn queue_carries_signal_not_data() {
    let database = TestDb::new().await;
    let client = database.client().await;
    for key in DENIED {
        let escaped = format!("\\u{:04x}{}", u32::from(key.as_bytes()[0]), &key[1..]);
        let mixed = format!("{}{}", key[..1].to_uppercase(), &key[1..]);
        for key in [key, &key.to_uppercase(), &mixed, &escaped] {
            for payload in [
                format!(r#"{{"{key}": 1}}"#),
                format!(r#"{{"a": 1, "{key}": {{}}}}"#),
                format!(r#"{{"a": {{"b": {{"{key}": null}}}}}}"#),
                format!(r#"{{"a": [[1, {{"b": 2, "{key}": "x"}}]]}}"#),
            ] {
                assert_eq!(refused(&client, &payload).await, [true; 3], "{payload}");
            }
        }
    }
}

#[tokio::test]
async fn words_that_are_no_denied_keys_pass() {
    let database = TestDb::new().await;
    let client = database.client().await;
    for payload in [
        json!({"note": "a \"body\": in quotes", "more": "{\"token\": 1}", "last": " \"raw\": "}),
        json!({"kind": "body", "list": ["content", "secret", "vector"], "nested": {"of": "password"}}),
        json!({"body_ref": "doc:7", "tokens": 3, "my_token": "x", "drawn": 1, "vectors": [], "contents": "x"}),
        json!({"a \"body": 1, "\\": "\"secret\": ", "{\"raw\": ": "x", " ": "\u{1d11e}"}),
        json!({}),
    ] {
        assert_eq!(refused(&client, &payload.to_string()).await, [false; 3], "{payload}");
    }
}

#[tokio::test]
async fn a_payload_is_an_object_and_small() {
    let database = TestDb::new().await;
    let client = database.client().await;
    let of_size = |size: usize| json!({"a": "x".repeat(size - 9)}).to_string(); // {"a": ""}
    let heartbeat_and_job = async |payload: &str| {
        let [job, _, heartbeat] = refused(&client, payload).await;
        (job, heartbeat)
    };
    assert_eq!(heartbeat_and_job(&of_size(16_384)).await, (false, true));
    assert_eq!(heartbeat_and_job(&of_size(16_385)).await, (true, true));
    assert_eq!(heartbeat_and_job(&of_size(4_096)).await, (false, false));
    assert_eq!(heartbeat_and_job(&of_size(4_097)).await, (false, true));
    for payload in ["[1]", "\"text\"", "7", "null", "[]"] {
        assert_eq!(heartbeat_and_job(payload).await, (true, true), "{payload}");
    }
}

#[tokio::test]
async fn an_adopted_outbox_without_the_check_passes_no_data_on() {
    let database = TestDb::new().await;
    let client = database.client().await;
    open_gates(&client).await;
    let careless = "alter table event_outbox drop constraint event_outbox_safe_payload_check;
        insert into consumer_registry (consumer_key, event_domain, job_kind, enabled, starts_at)
        values ('all', 'iu', 'test', true, '-infinity');
        insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, safe_payload)
        values ('iu', 'changed', 'update', 'immediate', '{\"Body\": \"a whole document\"}'),
               ('iu', 'changed', 'update', 'immediate', '{}')";
    client.batch_execute(careless).await.unwrap();
    client.batch_execute("select fn_consumer_dispatch_batch('iu')").await.unwrap();
    let became = "select (select count(*) from job_queue), (select count(*) from dispatch_error)";
    let became = client.query_one(became, &[]).await.unwrap();
    assert_eq!((became.get::<_, i64>(0), became.get::<_, i64>(1)), (1, 1));
    let traces = "select count(*) from dispatch_error d where d::text ilike '%document%'";
    assert_eq!(client.query_one(traces, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn no_vector_for_transient_payload() {
    let database = TestDb::new().await;
    let client = database.client().await;
    for payload in ["{\"vector\": [0.1, 0.2]}", "{\"a\": [{\"EMBEDDING\": \"x\"}]}"] {
        assert_eq!(refused(&client, payload).await, [true; 3], "{payload}");
    }
    let rows = "
        select to_jsonb(x) from (
          select a.attrelid::regclass::text as place, a.attname::text as name, format_type(a.atttypid, a.atttypmod) as type
          from pg_attribute a join pg_class c on c.oid = a.attrelid
          where c.relnamespace = current_schema()::regnamespace and a.attnum > 0 and not a.attisdropped
            and (a.attname ~* 'vector|embedding' or format_type(a.atttypid, a.atttypmod) ~* 'vector')
          union all
          select k.conrelid::regclass::text, k.conname, 'foreign key towards ' || k.confrelid::regclass::text
          from pg_constraint k where k.contype = 'f' and k.connamespace = current_schema()::regnamespace
        ) x";
    let found: Vec<Value> = client.query(rows, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(found, Vec::<Value>::new());
}
