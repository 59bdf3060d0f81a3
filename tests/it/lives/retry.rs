//! Retry policies.

use serde_json::{Value, json};

use super::stage::Stage;

async fn policy(stage: &Stage, kind: &str, domain: Option<&str>) -> Value {
    stage.value("select to_jsonb(p) from fn_job_policy($1, $2) p", &[&kind, &domain]).await
}

/// The longest and the shortest of many delays, in seconds.
async fn delays(stage: &Stage, kind: &str, failures: i32) -> (f64, f64) {
    let sql = "select min(d)::float8, max(d)::float8
        from (select extract(epoch from fn_job_backoff($1, $2)) as d from generate_series(1, 200)) s";
    let row = stage.client.query_one(sql, &[&kind, &failures]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn a_policy_is_the_kinds_else_the_domains_else_the_defaults_else_built_in() {
    let stage = Stage::open().await;
    let all = policy(&stage, "cut.cut", Some("staging")).await;
    assert_eq!((&all["strategy"], &all["max_attempts"]), (&json!("exponential"), &json!(5)));
    assert_eq!(all["sources"]["max_attempts"], Value::Null, "built in");
    for (key, expected) in [
        ("queue.retry.default.max_attempts", 7),
        ("queue.retry.domain.staging.max_attempts", 8),
        ("queue.retry.max_attempts.cut.cut", 9),
        ("job.cut.cut.max_attempts", 10),
    ] {
        stage.set(key, &expected.to_string()).await;
        let is = policy(&stage, "cut.cut", Some("staging")).await;
        assert_eq!((&is["max_attempts"], &is["sources"]["max_attempts"]), (&json!(expected), &json!(key)));
    }
    assert_eq!(policy(&stage, "other", Some("staging")).await["max_attempts"], 8);
    assert_eq!(policy(&stage, "other", Some("iu")).await["max_attempts"], 7);
    assert_eq!(policy(&stage, "other", None).await["max_attempts"], 7);
    let id = stage.enqueue("cut.cut").await;
    assert_eq!(stage.job(id).await["max_attempts"], 10, "what was said when it was made");
}

#[tokio::test]
async fn a_job_made_by_a_pass_has_the_policy_of_its_domain() {
    let stage = Stage::open().await;
    stage.set("queue.retry.domain.iu.max_attempts", "2").await;
    let consumer = json!({"consumer_key": "c", "event_domain": "iu", "job_kind": "any", "enabled": true});
    stage.client.execute("select fn_consumer_put($1, 'test', 'sql', true)", &[&consumer]).await.unwrap();
    let emit =
        "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, event_subject_ref)
        values ('iu', 'made', 'update', 'immediate', 'x')";
    stage.client.batch_execute(emit).await.unwrap();
    stage.client.batch_execute("select fn_consumer_dispatch_batch('iu')").await.unwrap();
    assert_eq!(stage.value("select max_attempts::int from job_queue", &[]).await, 2);
}

#[tokio::test]
async fn delays_grow_as_the_strategy_says_up_to_the_cap() {
    let stage = Stage::open().await;
    stage.set("job.any.backoff_seconds", "10").await;
    stage.set("job.any.backoff_cap_seconds", "60").await;
    stage.set("job.any.backoff_strategy", "constant").await;
    assert_eq!(delays(&stage, "any", 1).await, (10.0, 10.0));
    assert_eq!(delays(&stage, "any", 9).await, (10.0, 10.0));
    stage.set("job.any.backoff_strategy", "linear").await;
    assert_eq!(delays(&stage, "any", 3).await, (30.0, 30.0));
    assert_eq!(delays(&stage, "any", 9).await, (60.0, 60.0));
    stage.set("job.any.backoff_strategy", "exponential").await;
    for (failures, longest) in [(1, 10.0), (2, 20.0), (3, 40.0), (4, 60.0), (100, 60.0)] {
        let (least, most) = delays(&stage, "any", failures).await;
        assert!(
            least < longest / 4.0 && most <= longest && most > longest * 0.75,
            "{failures}: {least} to {most}"
        );
    }
}

#[tokio::test]
async fn every_try_is_kept_with_who_when_and_why() {
    let stage = Stage::open().await;
    let id = stage.enqueue("any").await;
    for n in 1..=2 {
        let answer = stage.fail(id, &format!("no {n}")).await;
        assert_eq!((&answer["status"], &answer["attempts"]), (&json!("retry_waiting"), &json!(n)));
        assert!(answer["retry_at"].is_string());
        stage.time_passes().await;
    }
    let kept = "select jsonb_agg(jsonb_build_array(outcome, error, lease_owner, reported_by = session_user, picked_at < ended_at)
        order by lease_token) from job_attempt where job_id = $1";
    let kept = stage.value(kept, &[&id]).await;
    assert_eq!(
        kept,
        json!([["transient", "no 1", "one", true, true], ["transient", "no 2", "one", true, true]])
    );
    let error = stage.client.batch_execute("update job_attempt set error = 'better'").await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("append-only"), "{error:?}");
}
