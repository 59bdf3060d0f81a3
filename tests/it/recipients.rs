//! Whom an event is for: recipients, one job for each, and pairs that are for nobody.

mod fan_out;
mod gaps;
mod shapes;

use serde_json::{Value, json};

use crate::support::Outbox;

/// Writes subscriptions: `role:a|iu||update|||false` is recipient, domain, type, stream, table, filter and mute, each
/// empty for any; what is empty at the end may be left out.
async fn subscribe(outbox: &Outbox, rows: &[&str]) {
    for row in rows {
        let insert = "insert into event_subscription
            select p[1], nullif(p[2], ''), nullif(p[3], ''), nullif(p[4], ''), nullif(p[5], ''), nullif(p[6], '')::jsonb, coalesce(p[7] = 'true', false)
            from string_to_array($1, '|') p";
        outbox.client.execute(insert, &[row]).await.unwrap();
    }
}

/// A fact of `iu`, stream update, about a page; its id.
async fn fact(outbox: &Outbox, event_type: &str, payload: Value) -> String {
    let insert = "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, event_subject_table,
                    event_subject_ref, safe_payload)
                  values ('iu', $1, 'update', 'delayed', 'pages', 'page:1', $2) returning id::text";
    outbox.client.query_one(insert, &[&event_type, &payload]).await.unwrap().get(0)
}

/// Recipients of an event and whether each is muted, in the order of the answer.
async fn recipients(outbox: &Outbox, id: &str) -> Vec<(String, bool)> {
    let query = "select recipient_ref, muted_by is not null from fn_event_recipients($1::text::uuid)";
    let rows = outbox.client.query(query, &[&id]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn names(outbox: &Outbox, id: &str) -> Vec<String> {
    let all = recipients(outbox, id).await;
    all.into_iter().filter(|(_, muted)| !muted).map(|(name, _)| name).collect()
}

#[tokio::test]
async fn an_event_is_for_whoever_subscribed_to_its_domain_type_stream_table_and_filter() {
    let outbox = Outbox::open().await;
    subscribe(
        &outbox,
        &[
            "agency:all",
            "user:domain|iu",
            "user:type|iu|saved",
            "user:stream|||update",
            "user:table||||pages",
            r#"user:contains|||||{"size": 3}"#,
            r#"user:path|||||"$.payload.size > 2""#,
            r#"user:event|||||"$.event.event_subject_ref == \"page:1\"""#,
            "role:other|kg",
            "role:type|iu|gone",
            "role:stream|||alert",
            "role:table||||books",
            r#"role:contains|||||{"size": 4}"#,
            r#"role:path|||||"$.payload.size > 3""#,
            r#"role:absent|||||"$.payload.none == 1""#,
        ],
    )
    .await;
    let id = fact(&outbox, "saved", json!({"size": 3, "more": true})).await;
    let expected = [
        "agency:all",
        "user:contains",
        "user:domain",
        "user:event",
        "user:path",
        "user:stream",
        "user:table",
        "user:type",
    ];
    assert_eq!(names(&outbox, &id).await, expected);
    let nothing =
        outbox.client.query("select * from fn_event_recipients(gen_random_uuid())", &[]).await.unwrap();
    assert!(nothing.is_empty(), "no event, no recipients");
}

#[tokio::test]
async fn a_mute_row_wins_over_every_subscription_of_its_recipient_and_of_nobody_else() {
    let outbox = Outbox::open().await;
    subscribe(
        &outbox,
        &[
            "user:a|iu",
            "user:a|iu|saved",
            "user:b|iu",
            r#"user:a|||||{"quiet": true}|true"#,
            "user:c|iu|||||true",
        ],
    )
    .await;
    let loud = fact(&outbox, "saved", json!({})).await;
    assert_eq!(names(&outbox, &loud).await, ["user:a", "user:a", "user:b"], "one row a subscription");
    let quiet = fact(&outbox, "saved", json!({"quiet": true})).await;
    let expected =
        [("user:b", false), ("user:a", true), ("user:a", true)].map(|(name, muted)| (name.to_owned(), muted));
    assert_eq!(recipients(&outbox, &quiet).await, expected, "who is muted is told, last");
}

#[tokio::test]
async fn malformed_rows_are_for_nobody_are_reported_and_stop_nothing() {
    let outbox = Outbox::open().await;
    let bad = [
        ("bob|iu", "recipient_ref 'bob' is not user:"),
        ("user:|iu", "recipient_ref 'user:' is not user:"),
        ("user:two words|iu", "recipient_ref"),
        ("user:stream|||tasks", "event_stream 'tasks' is none of"),
        ("user:number|||||7", "scope_filter is number"),
        (r#"user:syntax|||||"$.payload.size >""#, "scope_filter: syntax error"),
        (r#"user:path|||||"$.payload.size""#, "scope_filter is not a predicate"),
        (r#"user:variable|||||"$.payload.size > $least""#, "scope_filter has a variable"),
        (r#"user:json|||||"{not json""#, "scope_filter: invalid input syntax for type json"),
    ];
    subscribe(&outbox, &bad.map(|(row, _)| row)).await;
    subscribe(&outbox, &["user:sound|iu"]).await;
    outbox.consumer("tell", "iu", json!({"fan_out": "recipients"})).await;
    let id = fact(&outbox, "saved", json!({"size": 3})).await;
    assert_eq!(names(&outbox, &id).await, ["user:sound"]);
    assert_eq!(outbox.drain(100).await, 1);
    assert_eq!(outbox.jobs().await, 1, "the one that is sound");
    let told = "select problem from fn_event_subscriptions() where recipient_ref = split_part($1, '|', 1)";
    for (row, problem) in bad {
        let said: String = outbox.client.query_one(told, &[&row]).await.unwrap().get(0);
        assert!(said.starts_with(problem), "{row}: {said}");
    }
}

#[tokio::test]
async fn who_takes_a_temporary_table_of_that_name_subscribes_nobody() {
    let outbox = Outbox::open().await;
    let id = fact(&outbox, "saved", json!({})).await;
    outbox
        .client
        .batch_execute("create temporary table event_subscription as select 'user:thief' as recipient_ref, null as event_domain")
        .await
        .unwrap();
    assert_eq!(names(&outbox, &id).await, Vec::<String>::new());
}
