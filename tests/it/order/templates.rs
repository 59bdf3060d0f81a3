//! Templates: values pass through unchanged, whatever they look like.

use serde_json::{Value, json};

use crate::support::Outbox;

/// Values that something on the way could trip over.
fn awkward() -> Vec<String> {
    let mut values: Vec<String> = [
        "plain",
        "",
        " ",
        "ünï-çødé 🎺 𝄞 中文 \u{202e}rtl",
        "it's \"quoted\" \\ back\\slash $$ $1 %s %I",
        "'); drop table job_queue; --",
        "{event_id}",
        "{payload.ref} {consumer_key}",
        "{{}} } {",
        "a:b:c",
        "line\nfeed\ttab\r",
        "{\"json\": true}",
        "\\u0041 \\x41 \\1 & \\&",
    ]
    .map(str::to_owned)
    .to_vec();
    values.push("é".repeat(4000)); // 8 kB
    values.push("x".repeat(8192));
    values
}

#[tokio::test]
async fn every_value_passes_through_every_template_unchanged() {
    let outbox = Outbox::open().await;
    let templates = json!({
        "source_ref": "{event_subject_ref}",
        "target_ref": "<{canonical_address}|{payload.ref}>",
        "payload_ref": "{payload.ref}",
        "ordering_key": "{correlation_id}",
        "idempotency_key": "{consumer_key}/{event_domain}/{event_type}/{event_subject_ref}",
    });
    outbox.consumer("one", "iu", templates).await;
    let values = awkward();
    for value in &values {
        let insert = "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane,
                        event_subject_ref, canonical_address, correlation_id, safe_payload)
                      values ('iu', 'happened', 'update', 'immediate', $1, $1, $1, jsonb_build_object('ref', $1::text))";
        outbox.client.execute(insert, &[value]).await.unwrap();
    }
    let answer = outbox.answer("fn_consumer_dispatch_batch('iu', 1000)").await;
    assert_eq!((&answer["jobs"], &answer["errors"]), (&json!(values.len()), &json!(0)), "{answer}");
    for value in &values {
        let job = "select to_jsonb(j) from job_queue j where j.source_ref = $1";
        let job: Value = outbox.client.query_one(job, &[value]).await.unwrap().get(0);
        let expected =
            [value.clone(), format!("<{value}|{value}>"), value.clone(), value.clone(), value.clone()];
        let found = ["source_ref", "target_ref", "payload_ref", "ordering_key", "correlation_id"];
        assert_eq!(found.map(|key| job[key].as_str().unwrap().to_owned()), expected);
        assert_eq!(job["safe_payload"], json!({"ref": value}));
        let key = format!("one/iu/happened/{value}");
        let stored = job["idempotency_key"].as_str().unwrap();
        if key.chars().count() <= 512 {
            assert_eq!(stored, key);
        } else {
            let cut: String = key.chars().take(400).collect();
            assert!(stored.starts_with(&cut) && stored.chars().count() <= 512, "{stored}");
        }
    }
    // the preview, and dispatch by hand, use the same keys
    let preview = "select count(*) from fn_route_consumer_dry_run('one') r
                     join job_queue j on j.idempotency_key = r.idempotency_key and j.causation_event_id = r.event_id";
    assert_eq!(outbox.count(preview).await, i64::try_from(values.len()).unwrap());
    for row in outbox.client.query("select id::text from event_outbox", &[]).await.unwrap() {
        let answer = outbox.answer(&format!("fn_consumer_dispatch('{}')", row.get::<_, String>(0))).await;
        assert_eq!((&answer["jobs"], &answer["duplicates"]), (&json!(0), &json!(1)));
        assert_eq!(answer["decisions"][0]["decision"], json!("job"), "{answer}");
        assert_ne!(answer["decisions"][0]["job_id"], json!(null), "{answer}");
    }
}

#[tokio::test]
async fn a_variable_without_a_value_is_null_in_a_ref_and_an_error_in_a_key() {
    let outbox = Outbox::open().await;
    outbox
        .consumer("refs", "iu", json!({"target_ref": "x-{payload.no}", "payload_ref": "{correlation_id}"}))
        .await;
    outbox.consumer("key", "iu", json!({"idempotency_key": "{payload.no}"})).await;
    outbox.consumer("order", "iu", json!({"ordering_key": "{payload.no}"})).await;
    outbox.emit(1).await;
    let answer = outbox.answer("fn_consumer_dispatch_batch('iu', 10)").await;
    assert_eq!((&answer["jobs"], &answer["errors"]), (&json!(1), &json!(2)), "{answer}");
    let refs = "select count(*) from job_queue where consumer_key = 'refs' and target_ref is null and payload_ref is null";
    assert_eq!(outbox.count(refs).await, 1);
    let keys = outbox
        .client
        .query("select consumer_key, message from dispatch_error order by 1", &[])
        .await
        .unwrap();
    let keys: Vec<(&str, &str)> = keys.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(matches!(keys[..], [("key", _), ("order", _)]), "{keys:?}");
    assert!(keys[0].1.contains("idempotency_key") && keys[1].1.contains("ordering_key"), "{keys:?}");
}

#[tokio::test]
async fn two_events_with_one_key_make_one_job() {
    let outbox = Outbox::open().await;
    outbox.consumer("one", "iu", json!({"idempotency_key": "{consumer_key}:{payload.order}"})).await;
    let emit =
        "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, safe_payload)
                select 'iu', 'happened', 'update', 'immediate', jsonb_build_object('order', n % 3)
                  from generate_series(1, 9) n";
    outbox.client.batch_execute(emit).await.unwrap();
    let answer = outbox.answer("fn_consumer_dispatch_batch('iu', 1000)").await;
    assert_eq!((&answer["jobs"], &answer["duplicates"]), (&json!(3), &json!(6)), "{answer}");
    outbox.client.batch_execute(emit).await.unwrap();
    let answer = outbox.answer("fn_consumer_dispatch_batch('iu', 1000)").await;
    assert_eq!((&answer["jobs"], &answer["duplicates"]), (&json!(0), &json!(9)), "{answer}");
}
