//! What an executor may claim.

use serde_json::{Value, json};

use super::stage::{Stage, claim};

async fn subscribe(stage: &Stage, call: &str) -> Value {
    stage.value(&format!("select fn_subscription_set({call})"), &[]).await
}

#[tokio::test]
async fn an_executor_claims_nothing_outside_its_subscriptions() {
    let stage = Stage::open().await;
    stage.client.batch_execute("select fn_queue_heartbeat_register('two', 'PG_worker')").await.unwrap();
    for kind in ["mail.send", "mail.read", "cut.cut"] {
        stage.job(kind, kind, json!({})).await;
    }
    stage.job("mail.send", "later", json!({"priority": 200})).await;
    subscribe(&stage, "'one', 'test', 'mail.s*', p_priority_floor => 100").await;
    assert_eq!(stage.names(10).await, ["mail.send"], "neither another kind nor a priority beyond the floor");
    assert_eq!(claim(&stage.client, "two", 10).await.len(), 3, "without a row everything of its kind");
}

#[tokio::test]
async fn a_domain_can_be_subscribed_and_an_executor_be_named_by_a_pattern() {
    let stage = Stage::open().await;
    let make = "insert into job_queue (job_kind, actor, idempotency_key, source_ref, event_domain)
        values ('a', 'test', '1', 'staging', 'staging'), ('a', 'test', '2', 'iu', 'iu'), ('a', 'test', '3', 'none', null)";
    stage.client.batch_execute(make).await.unwrap();
    subscribe(&stage, "'o*', 'test', p_event_domain => 'iu'").await;
    assert_eq!(stage.names(10).await, ["iu"]);
    subscribe(&stage, "'one', 'test', p_event_domain => 'staging'").await;
    assert_eq!(stage.names(10).await, ["staging"], "two rows allow more than one");
    let removed = stage.value("select fn_subscription_remove('o*', 'test')", &[]).await;
    assert_eq!(removed["removed"], 1);
    stage.value("select fn_subscription_remove('one', 'test')", &[]).await;
    assert_eq!(stage.names(10).await, ["none"], "and without a row everything again");
    assert_eq!(stage.value("select fn_subscription_remove('one', 'test')", &[]).await["reason"], "not_found");
}

#[tokio::test]
async fn asking_only_for_kinds_outside_is_refused_as_not_subscribed() {
    let stage = Stage::open().await;
    stage.job("cut.cut", "a", json!({})).await;
    subscribe(&stage, "'one', 'test', 'mail.*'").await;
    assert_eq!(stage.refusal(Some(&["cut.cut"])).await, "not_subscribed");
    assert_eq!(stage.refusal(Some(&["cut.cut", "mail.send"])).await, Value::Null);
    assert_eq!(stage.refusal(None).await, Value::Null);
}

#[tokio::test]
async fn backlog_that_no_live_executor_may_claim_says_so() {
    let stage = Stage::open().await;
    stage.job("cut.cut", "a", json!({})).await;
    let reason = "select reason from v_job_queue_backlog";
    assert_eq!(stage.value(reason, &[]).await, Value::Null);
    subscribe(&stage, "'one', 'test', 'mail.*'").await;
    assert_eq!(stage.value(reason, &[]).await, "not_subscribed");
    subscribe(&stage, "'one', 'test', 'cut.*', p_priority_floor => 50").await;
    assert_eq!(stage.value(reason, &[]).await, "not_subscribed");
    subscribe(&stage, "'one', 'test', 'cut.*'").await;
    assert_eq!(stage.value(reason, &[]).await, Value::Null);
    stage.set("queue.worker.enabled", "false").await;
    assert_eq!(stage.value(reason, &[]).await, "worker_disabled");
}

#[tokio::test]
async fn a_subscription_that_makes_no_sense_is_refused_by_name() {
    let stage = Stage::open().await;
    for (call, complaint) in [
        ("'', 'test'", "needs an executor"),
        ("'one', 'test', p_share => 0", "p_share must be a number above 0"),
        ("'one', 'test', p_share => 'NaN'", "p_share must be a number above 0"),
        ("'one', 'test', p_priority_floor => -1", "p_priority_floor must be from 0 to 32767, not -1"),
    ] {
        let error =
            stage.client.batch_execute(&format!("select fn_subscription_set({call})")).await.unwrap_err();
        assert!(error.as_db_error().unwrap().message().contains(complaint), "{call}: {error:?}");
    }
}
