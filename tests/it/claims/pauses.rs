//! What is paused waits, and nothing else does.

use serde_json::{Value, json};

use super::stage::Stage;

async fn pause(stage: &Stage, scope: &str, name: &str) -> Value {
    stage.value("select fn_pause($1, $2, 'test', 'a test')", &[&scope, &name]).await
}

async fn resume(stage: &Stage, scope: &str, name: &str) -> Value {
    stage.value("select fn_resume($1, $2, 'test', 'enough')", &[&scope, &name]).await
}

/// A job each for a consumer in a domain, and one made directly.
async fn jobs(stage: &Stage) {
    let make =
        "insert into job_queue (job_kind, actor, idempotency_key, source_ref, event_domain, consumer_key)
        values ('a', 'test', '1', 'cut', 'staging', 'cutter'), ('a', 'test', '2', 'other', 'iu', 'reader'),
               ('b', 'test', '3', 'direct', null, null)";
    stage.client.batch_execute(make).await.unwrap();
}

async fn sorted(stage: &Stage) -> Vec<String> {
    stage.client.batch_execute("begin").await.unwrap();
    let mut names = stage.names(10).await;
    stage.client.batch_execute("rollback").await.unwrap();
    names.sort();
    names
}

#[tokio::test]
async fn a_paused_domain_consumer_or_kind_waits_and_the_rest_goes_on() {
    let stage = Stage::open().await;
    jobs(&stage).await;
    for (scope, name, left) in [
        ("domain", "staging", vec!["direct", "other"]),
        ("consumer", "reader", vec!["cut", "direct"]),
        ("job_kind", "b", vec!["cut", "other"]),
    ] {
        assert_eq!(pause(&stage, scope, name).await["changed"], true);
        assert_eq!(sorted(&stage).await, left, "{scope} {name} is paused");
        assert_eq!(resume(&stage, scope, name).await["refused"], false);
        assert_eq!(sorted(&stage).await, ["cut", "direct", "other"], "{scope} {name} goes on");
    }
}

#[tokio::test]
async fn all_and_an_executor_by_name_or_kind_are_refused_as_paused() {
    let stage = Stage::open().await;
    jobs(&stage).await;
    for (scope, name) in [("all", ""), ("executor", "one"), ("executor", "PG_worker")] {
        pause(&stage, scope, name).await;
        assert_eq!(stage.refusal(None).await, "paused", "{scope} {name}");
        resume(&stage, scope, name).await;
        assert_eq!(stage.refusal(None).await, Value::Null);
        stage
            .client
            .batch_execute(
                "select fn_job_release(job_id, lease_token) from job_queue where lease_until is not null",
            )
            .await
            .unwrap();
    }
    pause(&stage, "executor", "another").await;
    assert_eq!(sorted(&stage).await.len(), 3, "somebody else's pause");
}

#[tokio::test]
async fn work_that_is_leased_is_never_refused_by_a_pause() {
    let stage = Stage::open().await;
    jobs(&stage).await;
    let leased = stage.claim(2).await;
    pause(&stage, "all", "").await;
    let renewed = stage.value("select fn_job_renew($1, $2)", &[&leased[0].id, &leased[0].token]).await;
    assert_eq!(renewed["refused"], false);
    assert_eq!(stage.succeed(&leased[0]).await["refused"], false);
    let released = stage.value("select fn_job_release($1, $2)", &[&leased[1].id, &leased[1].token]).await;
    assert_eq!(released["refused"], false);
}

#[tokio::test]
async fn a_paused_domain_is_not_dispatched_and_keeps_its_position() {
    let stage = Stage::open().await;
    let consumer = json!({"consumer_key": "reader", "event_domain": "iu", "event_type": "*", "job_kind": "read", "enabled": true});
    stage.client.execute("select fn_consumer_put($1, 'test', 'sql', true)", &[&consumer]).await.unwrap();
    let emit = "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane) values ('iu', 'made', 'update', 'delayed')";
    stage.client.batch_execute(emit).await.unwrap();
    let pass = "select fn_consumer_dispatch_batch('iu')";
    for (scope, name) in [("domain", "iu"), ("all", "")] {
        pause(&stage, scope, name).await;
        let refused = stage.value(pass, &[]).await;
        assert_eq!(refused, json!({"refused": true, "reason": "paused", "scope": scope}));
        let singly = stage.value("select fn_consumer_dispatch(id) from event_outbox", &[]).await;
        assert_eq!((&singly["reason"], &singly["scope"]), (&json!("paused"), &json!(scope)));
        resume(&stage, scope, name).await;
    }
    pause(&stage, "domain", "staging").await;
    assert_eq!(stage.value(pass, &[]).await["jobs"], 1, "nothing was lost");
}

#[tokio::test]
async fn a_pause_names_who_and_why_and_is_kept_when_it_has_ended() {
    let stage = Stage::open().await;
    assert_eq!(pause(&stage, "job_kind", "mail").await["changed"], true);
    let again = stage.value("select fn_pause('job_kind', 'mail', 'other', 'too')", &[]).await;
    assert_eq!(
        (&again["changed"], &again["actor"], &again["reason"]),
        (&json!(false), &json!("test"), &json!("a test"))
    );
    resume(&stage, "job_kind", "mail").await;
    assert_eq!(resume(&stage, "job_kind", "mail").await["reason"], "not_found");
    let kept = "select jsonb_build_array(actor, reason, resume_actor, resume_reason, resumed_at is not null) from queue_pause";
    assert_eq!(stage.value(kept, &[]).await, json!(["test", "a test", "test", "enough", true]));
    for (call, complaint) in [
        (
            "fn_pause('world', 'x', 'a', 'b')",
            "p_scope must be all, domain, consumer, job_kind or executor, not 'world'",
        ),
        ("fn_pause('domain', ' ', 'a', 'b')", "p_name is missing"),
        ("fn_pause('all', null, '', 'b')", "needs an actor and a reason"),
        ("fn_resume('all', null, 'a', null)", "needs an actor and a reason"),
    ] {
        let error = stage.client.batch_execute(&format!("select {call}")).await.unwrap_err();
        assert!(error.as_db_error().unwrap().message().contains(complaint), "{call}: {error:?}");
    }
}

#[tokio::test]
async fn the_backlog_names_the_pause_that_holds_it() {
    let stage = Stage::open().await;
    jobs(&stage).await;
    pause(&stage, "consumer", "cutter").await;
    let reasons = "select jsonb_agg(jsonb_build_array(job_kind, due, reason) order by consumer_key) from v_job_queue_backlog";
    let expected = json!([["a", 1, "paused: consumer cutter"], ["a", 1, null], ["b", 1, null]]);
    assert_eq!(stage.value(reasons, &[]).await, expected);
    stage.client.batch_execute("select fn_queue_heartbeat_unregister('one')").await.unwrap();
    let expected = json!([
        ["a", 1, "paused: consumer cutter"],
        ["a", 1, "no_live_executor"],
        ["b", 1, "no_live_executor"]
    ]);
    assert_eq!(stage.value(reasons, &[]).await, expected);
}

#[tokio::test]
async fn a_pause_of_what_is_not_there_stands_and_says_so() {
    let stage = Stage::open().await;
    let known = async |scope, name| pause(&stage, scope, name).await["known"].clone();
    for (scope, name) in [
        ("domain", "stagin"),
        ("consumer", "cutter"),
        ("job_kind", "a"),
        ("job_kind", "c*"),
        ("executor", "two"),
    ] {
        assert_eq!(known(scope, name).await, false, "{scope} {name}");
        assert_eq!(known(scope, name).await, false, "{scope} {name}, a second time");
        assert_eq!(resume(&stage, scope, name).await["refused"], false, "{scope} {name} stood");
    }
    jobs(&stage).await;
    let all = "create function seen(p_job jsonb) returns jsonb language sql return p_job;
        insert into job_handler (job_kind, handler) values ('by.handler', 'seen(jsonb)');
        insert into consumer_registry (consumer_key, event_domain, event_type, job_kind, actor)
        values ('cutter', 'staging', 'approved', 'by.consumer', 'test'), ('terminal', 'staging', 'approved', null, 'test');
        select fn_subscription_set('one', 'test', 'by.subscription'), fn_subscription_set('one', 'test', 'c*')";
    stage.client.batch_execute(all).await.unwrap();
    for (scope, name) in [
        ("all", ""),
        ("domain", "staging"),
        ("consumer", "cutter"),
        ("job_kind", "a"),
        ("job_kind", "b"),
        ("job_kind", "by.handler"),
        ("job_kind", "by.consumer"),
        ("job_kind", "by.subscription"),
        ("executor", "one"),
        ("executor", "Codex"),
    ] {
        assert_eq!(known(scope, name).await, true, "{scope} {name}");
        assert_eq!(known(scope, name).await, true, "{scope} {name}, a second time");
    }
    assert_eq!(known("job_kind", "c*").await, false, "a pattern is no kind");
}
