//! A job of a backfill is the job of live dispatch, column by column.

use serde_json::{Value, json};

use super::stage::Stage;

/// Every job with all its columns, but those that no two jobs share; and its place among those of its consumer.
const JOBS: &str = "
    select coalesce(jsonb_agg(to_jsonb(j) - array['job_id', 'run_id', 'created_at', 'updated_at', 'scheduled_at']
      || jsonb_build_object('delay', round(extract(epoch from j.scheduled_at - j.created_at)),
        'place', (select count(*) from job_queue o where o.consumer_key = j.consumer_key and (o.scheduled_at, o.job_id) <= (j.scheduled_at, j.job_id)))
      order by j.consumer_key, j.idempotency_key), '[]') from job_queue j";
const ERRORS: &str = "
    select coalesce(jsonb_agg(jsonb_build_array(d.consumer_key, d.event_id, d.event_domain, d.sqlstate, d.message)
      order by d.consumer_key, d.event_id), '[]') from dispatch_error d";

async fn value(stage: &Stage, sql: &str) -> Value {
    stage.outbox.client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_backfill_makes_the_jobs_of_live_dispatch_column_by_column() {
    let stage = Stage::new(0, json!({"starts_at": "-infinity"})).await;
    let consumers = [
        ("ordered", json!({"ordering_key": "{payload.key}", "source_ref": "{event_type}/{payload.key}"})),
        (
            "later",
            json!({"delay": "90 seconds", "max_attempts": 3, "executor": "Agent", "actor": "somebody"}),
        ),
        ("long", json!({"idempotency_key": "{event_id}{payload.long}", "target_ref": "{payload.n}"})),
        ("shared", json!({"idempotency_key": "of {payload.key}", "payload_ref": "{correlation_id}"})),
        ("some", json!({"filter": "$.payload.n > 3", "event_type": "happ*"})),
        (
            "each",
            json!({"fan_out": "recipients", "target_ref": "{recipient}", "ordering_key": "{payload.key}"}),
        ),
    ];
    for (key, columns) in &consumers {
        let mut columns = columns.clone();
        columns["starts_at"] = json!("-infinity");
        stage.outbox.consumer(key, "iu", columns).await;
    }
    stage
        .run(
            "insert into event_subscription (recipient_ref) values ('user:b'), ('agent:a');
             select fn_gate_set('queue.retry.test.some.max_attempts', '7', 'test', 'test');",
        )
        .await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let long = "x".repeat(700);
    for n in 1..=6 {
        let payload = json!({"n": n, "key": format!("key {}", n % 2), "long": long, "traceparent": trace});
        stage.past("iu", "happened", 1, &payload.to_string()).await;
    }
    stage
        .past("iu", "happened", 2, r#"{"traceparent": "none", "key": "\" {event_id} ", "long": null}"#)
        .await;
    stage.past("iu", "else", 2, "{}").await;
    // of a moment each: those of one moment come in the order of their ids
    let moments = "update event_outbox e set created_at = e.created_at + a.n * interval '1 second'
        from (select event_id, row_number() over (order by tx_id, arrival_seq) as n from event_arrival) a
        where a.event_id = e.id";
    stage.run(moments).await;
    stage.run("update event_outbox set correlation_id = 'thread' where safe_payload ->> 'n' = '2'").await;
    stage.closed().await;
    let (jobs, errors) = (value(&stage, JOBS).await, value(&stage, ERRORS).await);
    assert!(jobs.as_array().unwrap().len() > 40 && errors.as_array().unwrap().len() > 4, "{jobs} {errors}");
    assert_eq!(jobs[0]["consumer_key"], "each");
    stage.run("delete from job_queue; delete from dispatch_error").await;
    for key in consumers.iter().map(|(key, _)| *key).chain(["k"]) {
        let begin = format!(
            "fn_consumer_backfill('{key}', p_until => clock_timestamp() - interval '30 minutes', p_dry_run => false, \
             p_reason => 'a test', p_priority => 100, p_batch => 4)"
        );
        let run = stage.outbox.answer(&begin).await;
        assert_eq!(stage.finish(run).await["status"], "finished");
    }
    let again = value(&stage, JOBS).await;
    for (live, made) in jobs.as_array().unwrap().iter().zip(again.as_array().unwrap()) {
        assert_eq!(live, made);
    }
    assert_eq!(jobs.as_array().map(Vec::len), again.as_array().map(Vec::len));
    assert_eq!(errors, value(&stage, ERRORS).await);
}

#[tokio::test]
async fn a_dispatch_error_that_a_backfill_has_mended_is_gone() {
    let stage = Stage::new(3, json!({"starts_at": "-infinity", "ordering_key": "{payload.key}"})).await;
    stage.past("iu", "happened", 2, r#"{"key": "x"}"#).await;
    stage.closed().await;
    stage.run("select fn_consumer_dispatch(id) from event_outbox where event_domain = 'iu'").await;
    let left = "select count(*) from dispatch_error";
    assert_eq!((stage.count(left).await, stage.jobs().await), (3, 2));
    stage
        .run("select fn_consumer_put('{\"consumer_key\": \"k\", \"ordering_key\": null}', 'test', 'sql')")
        .await;
    stage.dry("backfill", "").await;
    assert_eq!(stage.count(left).await, 3, "a dry run changes nothing");
    let run = stage.real("backfill", ", p_limit => 1").await;
    assert_eq!((&run["made"], stage.count(left).await), (&json!(1), 2));
    stage.real("backfill", "").await;
    assert_eq!((stage.count(left).await, stage.jobs().await), (0, 5));
}
