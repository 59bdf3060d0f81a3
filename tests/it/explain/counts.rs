//! Reasons counted, without reading the hot table, and who may ask.

use serde_json::{Value, json};

use super::stage::Stage;
use crate::support::{connect, login};

async fn counts(stage: &Stage, about: &str) -> Value {
    let counts = "select jsonb_object_agg(reason, count) from v_reason_counts where about = $1";
    stage.value(counts, &[&about]).await
}

#[tokio::test]
async fn jobs_are_counted_under_the_reason_that_holds_them() {
    let stage = Stage::open().await;
    stage.job("a.a", json!({})).await;
    stage.end("fail_transient($1, $2, 'once')").await;
    stage.run("update job_queue set scheduled_at = clock_timestamp() + interval '1 hour'").await;
    stage.job("a.a", json!({"scheduled_at": "2099-01-01T00:00:00Z"})).await;
    stage.job("a.a", json!({"executor": "Agent"})).await;
    stage.job("b.b", json!({})).await;
    stage.pause("job_kind", "b.b").await;
    for _ in 0..3 {
        stage.job("c.c", json!({"ordering_key": "letter:7"})).await;
    }
    stage.claim().await;
    stage.run("update job_queue set lease_until = clock_timestamp() - interval '1 second' where status = 'leased'").await;
    stage.job("a.a", json!({})).await;
    let template = json!({"template_key": "two", "nodes": [{"key": "x", "job_kind": "a.a"}, {"key": "y", "job_kind": "a.a"}],
        "edges": [{"from": "x", "to": "y"}]});
    stage.value("select fn_mot_template_put($1, 'test')", &[&template]).await;
    stage.value("select fn_mot_graph_emit('two', '{}', p_actor => 'test')", &[]).await;
    let expected = json!({"retry_waiting": 1, "scheduled": 1, "no_live_executor": 1, "paused": 1, "ordering_blocked": 2,
        "lease_lost": 1, "ready": 2, "blocked": 1});
    assert_eq!(counts(&stage, "job").await, expected);
}

#[tokio::test]
async fn late_events_are_counted_under_what_consumers_decided() {
    let stage = Stage::open().await;
    stage.outbox.consumer("all", "iu", json!({})).await;
    stage.outbox.consumer("dry", "iu", json!({"dry_run": true})).await;
    stage.outbox.consumer("none", "iu", json!({"event_type": "other"})).await;
    stage.outbox.consumer("key", "iu", json!({"idempotency_key": "{payload.number}"})).await;
    stage.outbox.consumer("each", "iu", json!({"fan_out": "recipients"})).await;
    stage.dispatched(json!({})).await;
    stage.dispatched(json!({"number": 7})).await;
    stage.event(json!({"number": 8})).await;
    let expected =
        json!({"job": 3, "dry_run": 3, "other_type": 3, "error": 1, "no_recipient": 3, "not_dispatched": 2});
    assert_eq!(counts(&stage, "event").await, expected);
}

#[tokio::test]
async fn explaining_and_counting_read_no_more_when_the_tables_are_large() {
    let stage = Stage::open().await;
    stage.outbox.consumer("one", "iu", json!({"filter": "$.payload.n == 1"})).await;
    stage.outbox.emit(20_000).await;
    stage.outbox.drain(10_000).await;
    let event = stage.event(json!({"n": 1})).await;
    stage.outbox.drain(100).await;
    let many = "insert into job_queue (job_kind, actor, idempotency_key, ordering_key, scheduled_at)
        select 'b.' || n % 5, 'test', n::text, case n % 10 when 0 then 'k:' || n % 50 end, clock_timestamp() + (n % 2) * interval '1 hour'
        from generate_series(1, 40000) n";
    stage.run(many).await;
    stage.run("select fn_job_order_sweep()").await;
    let job = stage.job("b.1", json!({"ordering_key": "k:20"})).await;
    let read = "select sum(coalesce(seq_tup_read, 0)) from pg_stat_xact_user_tables
        where relname in ('job_queue', 'job_attempt', 'event_outbox', 'event_arrival')";
    for settle in ["analyze", "select 'nothing is known of it'"] {
        stage.run(settle).await;
        for call in [
            format!("fn_event_explain('{event}')"),
            format!("fn_job_explain('{job}')"),
            "fn_reason_counts()".to_owned(),
        ] {
            stage.run("begin").await;
            let before = stage.value(read, &[]).await;
            let begun = std::time::Instant::now();
            stage.run(&format!("select * from {call}")).await;
            let took = begun.elapsed();
            let after = stage.value(read, &[]).await;
            stage.run("rollback").await;
            assert_eq!(before, after, "{call} walked over a table, after {settle}");
            assert!(took.as_secs() < 2, "{call} took {took:?}");
        }
    }
    let more = "select bool_and(more) from v_reason_counts where reason in ('ready', 'scheduled')";
    assert_eq!(stage.value(more, &[]).await, true, "counted up to a bound");
}

#[tokio::test]
async fn a_reader_may_explain_and_count() {
    let stage = Stage::open().await;
    let event = stage.dispatched(json!({})).await;
    let job = stage.job("a.a", json!({})).await;
    let user = format!("reader_{}", uuid::Uuid::new_v4().simple());
    let url = login(&stage.outbox.client, &stage.outbox.db.url(), &user, "in role reveille_reader").await;
    let client = connect(&url).await;
    for sql in [
        format!("select * from fn_event_explain('{event}')"),
        format!("select * from fn_job_explain('{job}')"),
        "select * from v_reason_counts".to_owned(),
    ] {
        let rows = client.query(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert!(!rows.is_empty(), "{sql}");
    }
    drop(client);
}
