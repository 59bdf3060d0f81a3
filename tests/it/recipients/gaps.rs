//! Pairs of domain and stream that are for nobody: listed, warned of, and nothing more.

use serde_json::json;

use super::{fact, subscribe};
use crate::commands::{json as command, words};
use crate::support::{Outbox, TestDb};

/// Registers active types of `iu` on stream update, and one inactive of stream alert.
async fn register(outbox: &Outbox) {
    let insert = "
        delete from event_type_registry;
        insert into event_type_registry (event_domain, event_type, event_stream, delivery_lane, description, active)
        values ('iu', 'saved', 'update', 'delayed', 'test', true), ('iu', 'born', 'birth', 'delayed', 'test', true),
               ('kg', 'off', 'alert', 'delayed', 'test', false)";
    outbox.client.batch_execute(insert).await.unwrap();
}

/// Domain, stream, what catches it, and recent events.
async fn gaps(outbox: &Outbox) -> Vec<(String, String, String, i64)> {
    let query = "select event_domain, event_stream, caught_by, recent_events from v_subscription_gaps";
    let rows = outbox.client.query(query, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

fn gap(stream: &str, caught_by: &str, recent: i64) -> (String, String, String, i64) {
    ("iu".to_owned(), stream.to_owned(), caught_by.to_owned(), recent)
}

#[tokio::test]
async fn pairs_that_resolve_to_nobody_are_listed_and_broadcast_is_only_a_warning() {
    let outbox = Outbox::open().await;
    register(&outbox).await;
    for _ in 0..2 {
        fact(&outbox, "saved", json!({})).await;
    }
    assert_eq!(
        gaps(&outbox).await,
        [gap("update", "nobody", 2), gap("birth", "nobody", 0)],
        "what comes is first"
    );
    subscribe(&outbox, &[r#"user:a|iu|saved|||{"big": true}"#, "bob|iu"]).await;
    assert_eq!(
        gaps(&outbox).await,
        [gap("birth", "nobody", 0), gap("update", "scope", 2)],
        "a malformed row catches nothing"
    );
    subscribe(&outbox, &["agency:all"]).await;
    assert_eq!(gaps(&outbox).await, [gap("update", "broadcast", 2), gap("birth", "broadcast", 0)]);
    subscribe(&outbox, &["user:b|iu"]).await;
    assert_eq!(gaps(&outbox).await, []);
    subscribe(&outbox, &["user:b|||birth|||true", r#"user:b|||update||{"x": 1}|true"#]).await;
    assert_eq!(
        gaps(&outbox).await,
        [gap("birth", "broadcast", 0)],
        "a mute with a scope takes out only some events"
    );
}

#[tokio::test]
async fn health_warns_of_gaps_in_one_line_and_only_those_who_use_recipients() {
    let outbox = Outbox::open().await;
    register(&outbox).await;
    let (_, before, _) = words(&outbox.db, &["health"]);
    assert!(!before.contains("recipients:"), "{before}");
    subscribe(&outbox, &["user:a|iu||birth", "bob|iu"]).await;
    let (code, told, _) = words(&outbox.db, &["health"]);
    let lines: Vec<&str> = told.lines().filter(|line| line.starts_with("recipients:")).collect();
    assert_eq!(
        lines,
        [
            "recipients: 1 pairs of domain and stream are for nobody, 0 only in part or by broadcast; 1 malformed rows: `reveille subscriptions gaps`"
        ]
    );
    assert_eq!(code, Some(0), "a warning: nobody need be woken\n{told}");
}

#[tokio::test]
async fn the_commands_tell_whom_a_fact_is_for_who_is_told_of_what_and_what_is_for_nobody() {
    let outbox = Outbox::open().await;
    register(&outbox).await;
    let id = fact(&outbox, "saved", json!({})).await;
    let db: &TestDb = &outbox.db;
    assert!(words(db, &["events", "recipients", &id]).1.starts_with("it is for nobody"));
    assert_eq!(words(db, &["subscriptions", "list"]).1, "no subscriptions; add rows to event_subscription\n");
    subscribe(&outbox, &["user:a|iu", "user:m|iu", "user:m||saved||||true", "bob|iu", "role:all"]).await;
    let (code, text, _) = words(db, &["events", "recipients", &id]);
    assert_eq!(code, Some(0));
    assert!(
        text.contains("user:a") && text.contains("muted: *.saved") && text.contains("role:all"),
        "{text}"
    );
    let (_, all, _) = command(db, &["events", "recipients", &id]);
    assert_eq!(all.as_array().unwrap().len(), 3, "{all}");
    let (_, text, _) = words(db, &["subscriptions", "list"]);
    assert!(
        text.contains("no effect: recipient_ref 'bob'") && text.contains("broadcast: all events"),
        "{text}"
    );
    outbox.client.batch_execute("delete from event_subscription where event_domain is null").await.unwrap();
    outbox.client.batch_execute("update event_subscription set event_stream = 'birth'").await.unwrap();
    let (_, all, _) = command(db, &["subscriptions", "gaps"]);
    assert_eq!(
        (&all[0]["event_stream"], &all[0]["event_types"], &all[0]["recent_events"]),
        (&json!("update"), &json!(["saved"]), &json!(1))
    );
    let (_, text, _) = words(db, &["subscriptions", "gaps"]);
    assert!(text.contains("nobody is told"), "{text}");
    let (code, _, error) = command(db, &["events", "recipients", "01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10"]);
    assert_eq!(
        (code, &error["error"]["message"]),
        (Some(1), &json!("there is no event 01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10"))
    );
}
