//! Which consumer wants which event: types, streams, filters, terminal rows, dry runs.

use serde_json::{Value, json};

use crate::support::Outbox;

/// Types, streams and payloads of the events below.
const EVENTS: [(&str, &str, &str); 7] = [
    ("record_approved", "review", r#"{"amount": 5, "tags": ["a", "b"]}"#),
    ("record_rejected", "review", r#"{"amount": 500}"#),
    ("recordXapproved", "update", r#"{"amount": "500"}"#),
    ("created", "birth", r#"{"amount": null, "at": "2031-01-01T00:00:00+02:00"}"#),
    ("re", "update", "{}"),
    ("created.twice", "update", r#"{"at": "no time"}"#),
    ("100%", "alert", r#"{"amount": [1, 200]}"#),
];

async fn emit_all(outbox: &Outbox) {
    for (event_type, stream, payload) in EVENTS {
        let insert =
            "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, safe_payload)
                      values ('iu', $1, $2, 'immediate', $3)";
        let payload: Value = serde_json::from_str(payload).unwrap();
        outbox.client.execute(insert, &[&event_type, &stream, &payload]).await.unwrap();
    }
}

/// Types of the events that a consumer's jobs were made from.
async fn wanted_by(outbox: &Outbox, key: &str) -> Vec<String> {
    let query = "select e.event_type from job_queue j join event_outbox e on e.id = j.causation_event_id
                  where j.consumer_key = $1 order by j.created_at, e.created_at";
    outbox.client.query(query, &[&key]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn types_wildcards_streams_and_filters_decide_and_the_preview_says_the_same() {
    let outbox = Outbox::open().await;
    let all = EVENTS.map(|(event_type, _, _)| event_type);
    let cases = [
        (json!({"event_type": "*"}), &all[..]),
        (json!({"event_type": "record_*"}), &["record_approved", "record_rejected"]),
        (json!({"event_type": "*_approved"}), &["record_approved"]),
        (json!({"event_type": "re*"}), &["record_approved", "record_rejected", "recordXapproved", "re"]),
        (json!({"event_type": "created"}), &["created"]),
        (json!({"event_type": "created.*"}), &["created.twice"]),
        (json!({"event_type": "c*d*e"}), &["created.twice"]),
        (json!({"event_type": "re", "event_stream": "review"}), &[]),
        (json!({"event_stream": "review"}), &["record_approved", "record_rejected"]),
        (json!({"filter": "$.payload.amount > 100"}), &["record_rejected", "100%"]),
        (json!({"filter": "$.payload.amount == \"500\""}), &["recordXapproved"]),
        (json!({"filter": "exists($.payload.tags[*] ? (@ == \"b\"))"}), &["record_approved"]),
        (json!({"filter": "strict $.payload.amount == null"}), &["created"]),
        (json!({"filter": "$.event.event_type like_regex \"^rec.*[dD]$\""}), &all[..3]),
        (json!({"filter": "$.payload.at.datetime() > \"2030-06-01\".datetime()"}), &["created"]),
        (json!({"filter": "$.event.created_at.datetime() > \"2020-06-01\".datetime()"}), &all[..]),
    ];
    for (n, (columns, _)) in cases.iter().enumerate() {
        outbox.consumer(&format!("c{n}"), "iu", columns.clone()).await;
    }
    emit_all(&outbox).await;
    assert_eq!(outbox.drain(1000).await, 7);
    assert_eq!(outbox.count("select count(*) from dispatch_error").await, 0);
    for (n, (columns, expected)) in cases.iter().enumerate() {
        let key = format!("c{n}");
        assert_eq!(wanted_by(&outbox, &key).await, *expected, "{columns}");
        let preview = "select r.event_type from fn_route_consumer_dry_run(p_consumer_key => $1) r where r.would_enqueue";
        let preview = outbox.client.query(preview, &[&key]).await.unwrap();
        let preview: Vec<String> = preview.iter().map(|row| row.get(0)).collect();
        assert_eq!(preview, *expected, "preview of {columns}");
    }
}

#[tokio::test]
async fn terminal_rows_and_dry_runs_see_the_fact_and_make_no_job() {
    let outbox = Outbox::open().await;
    outbox.consumer("terminal", "iu", json!({"job_kind": null})).await;
    outbox.consumer("dry", "iu", json!({"dry_run": true})).await;
    outbox.emit(4).await;
    let answer = outbox.answer("fn_consumer_dispatch_batch('iu', 100)").await;
    let counts = ["events", "jobs", "duplicates", "dry", "errors"].map(|key| answer[key].as_i64().unwrap());
    assert_eq!(counts, [4, 0, 0, 4, 0], "{answer}");
    assert_eq!(outbox.drain(100).await, 0, "they are done with");
    let id: String =
        outbox.client.query_one("select id::text from event_outbox limit 1", &[]).await.unwrap().get(0);
    let answer = outbox.answer(&format!("fn_consumer_dispatch('{id}')")).await;
    let decisions: Vec<_> =
        answer["decisions"].as_array().unwrap().iter().map(|d| d["decision"].as_str().unwrap()).collect();
    assert_eq!(decisions, ["dry_run", "terminal"]);
    assert_eq!(outbox.jobs().await, 0);
}

#[tokio::test]
async fn what_a_consumer_says_becomes_the_job() {
    let outbox = Outbox::open().await;
    let columns = json!({"job_kind": "cut.cut", "executor": "Codex", "priority": 3, "max_attempts": 9, "delay": "1 hour"});
    outbox.consumer("one", "iu", columns).await;
    outbox.consumer("two", "iu", json!({"job_kind": "cut.cut"})).await;
    outbox
        .client
        .batch_execute("select fn_gate_set('queue.retry.max_attempts.cut.cut', '7', 'test', 'test')")
        .await
        .unwrap();
    outbox.emit(1).await;
    outbox.drain(10).await;
    let job = "select to_jsonb(j) || jsonb_build_object('late', j.scheduled_at >= j.created_at + interval '59 minutes')
                 from job_queue j where j.consumer_key = $1";
    let one: Value = outbox.client.query_one(job, &[&"one"]).await.unwrap().get(0);
    let said =
        ["job_kind", "executor", "priority", "max_attempts", "event_domain", "source_ref", "late", "status"];
    assert_eq!(
        said.map(|key| one[key].clone()),
        ["cut.cut", "Codex", "3", "9", "iu", "ref-1", "true", "queued"].map(typed)
    );
    let two: Value = outbox.client.query_one(job, &[&"two"]).await.unwrap().get(0);
    assert_eq!((&two["max_attempts"], &two["late"]), (&json!(7), &json!(false)));
}

/// The JSON value that a word stands for.
fn typed(word: &str) -> Value {
    serde_json::from_str(word).unwrap_or_else(|_| json!(word))
}
