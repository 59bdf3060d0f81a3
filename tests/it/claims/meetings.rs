//! Sessions that meet at one ordering key, limit or lane: nobody waits for a transaction that stays open, no turn is lost.

use serde_json::{Value, json};
use tokio_postgres::Client;

use super::stage::{Claimed, Stage, claim};

async fn keyed(stage: &Stage, names: &[&str], key: &str) {
    for name in names {
        stage.job("step", name, json!({"ordering_key": key, "idempotency_key": name})).await;
    }
}

/// Another session, in which a transaction stays open that has begun with this.
async fn open(stage: &Stage, begin: &str) -> Client {
    let client = stage.db.client().await;
    client.batch_execute(begin).await.unwrap();
    client
}

/// From now on, whoever waits for a lock fails.
async fn patience_ends(stage: &Stage) {
    stage.client.batch_execute("set lock_timeout = '2s'").await.unwrap();
}

fn names(jobs: &[Claimed]) -> Vec<&str> {
    jobs.iter().map(|job| job.name.as_str()).collect()
}

const DEBOUNCE: &str =
    "begin; select fn_job_enqueue('step', 'other', p_source_ref => 'behind', p_idempotency_key => 'behind',
    p_on_duplicate => 'debounce')";

#[tokio::test]
async fn a_turn_that_ends_in_an_old_snapshot_is_not_lost() {
    for end in [
        "select fn_job_succeed($1, $2)",
        "select fn_job_succeed_many(array[$1::uuid], array[$2::bigint])",
        "select fn_job_fail_permanent($1, $2, 'no', false)",
    ] {
        let stage = Stage::open().await;
        keyed(&stage, &["first"], "k").await;
        let first = stage.claim(1).await.pop().unwrap();
        let old = open(&stage, "begin isolation level repeatable read; select count(*) from job_queue").await;
        keyed(&stage, &["second"], "k").await;
        assert_eq!(stage.run().await, None, "it is placed behind the first");
        old.query_one(end, &[&first.id, &first.token]).await.unwrap();
        old.batch_execute("commit").await.unwrap();
        assert_eq!(stage.run().await.unwrap(), "second", "{end}");
    }
}

#[tokio::test]
async fn a_claim_with_an_old_snapshot_is_refused_before_it_breaks_a_limit() {
    let stage = Stage::open().await;
    stage.client.batch_execute("begin isolation level repeatable read").await.unwrap();
    let error = stage.client.query("select * from fn_job_claim('one')", &[]).await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("needs READ COMMITTED"), "{error:?}");
}

#[tokio::test]
async fn an_open_debounce_of_a_job_behind_holds_up_no_claim_no_end_and_no_reaper() {
    let stage = Stage::open().await;
    stage.set("queue.lease_reaper.enabled", "true").await;
    stage.set("queue.lease_reaper.dry_run_only", "false").await;
    keyed(&stage, &["first", "behind", "last"], "k").await;
    keyed(&stage, &["other"], "l").await;
    let jobs = stage.claim(2).await;
    assert_eq!(names(&jobs), ["first", "other"]);
    let debounce = open(&stage, DEBOUNCE).await;
    patience_ends(&stage).await;
    keyed(&stage, &["newest"], "k").await;
    keyed(&stage, &["elsewhere"], "m").await;
    assert_eq!(stage.names(5).await, ["elsewhere"]);
    stage.value("select fn_job_cancel($1, 'test', 'unwanted')", &[&jobs[0].id]).await;
    stage
        .client
        .batch_execute("update job_queue set lease_until = clock_timestamp() where source_ref = 'first'")
        .await
        .unwrap();
    assert_eq!(stage.value("select fn_job_lease_reaper() -> 'failed'", &[]).await, 0);
    assert_eq!(
        stage.value("select status from job_queue where source_ref = 'first'", &[]).await,
        "cancelled"
    );
    assert_eq!(stage.names(5).await.len(), 0, "its next is locked, and nobody overtakes it");
    debounce.batch_execute("commit").await.unwrap();
    let mut order = Vec::new();
    while let Some(name) = stage.run().await {
        order.push(name);
    }
    assert_eq!(order, ["behind", "last", "newest"]);
}

#[tokio::test]
async fn a_holder_that_is_locked_stalls_the_order_of_no_other_key() {
    let stage = Stage::open().await;
    keyed(&stage, &["holder"], "k").await;
    let holder = stage.claim(1).await.pop().unwrap();
    let bulk = "insert into job_queue (job_kind, actor, idempotency_key, source_ref, ordering_key)
        select 'step', 'test', 'bulk' || n, 'bulk', 'k' from generate_series(1, 200) n";
    stage.client.batch_execute(bulk).await.unwrap();
    keyed(&stage, &["l", "m"], "").await;
    stage
        .client
        .batch_execute("update job_queue set ordering_key = source_ref where source_ref in ('l', 'm')")
        .await
        .unwrap();
    let lock = open(&stage, "begin; select from job_queue where source_ref = 'holder' for update").await;
    patience_ends(&stage).await;
    let mut found = Vec::new();
    for _ in 0..20 {
        found.extend(stage.names(1).await);
    }
    assert_eq!(found, ["l", "m"]);
    lock.batch_execute("commit").await.unwrap();
    stage.succeed(&holder).await;
    assert_eq!(stage.names(1).await, ["bulk"]);
}

#[tokio::test]
async fn a_claim_in_a_transaction_that_stays_open_takes_only_its_own() {
    let stage = Stage::open().await;
    stage.set("job.limited.concurrency_limit", "3").await;
    stage.client.batch_execute("select fn_queue_heartbeat_register('two', 'PG_worker')").await.unwrap();
    keyed(&stage, &["a"], "a").await;
    for n in 0..6 {
        stage.job("limited", &format!("limited {n}"), json!({})).await;
    }
    let claiming = open(&stage, "begin").await;
    let theirs = claim(&claiming, "two", 2).await;
    assert_eq!(theirs.len(), 2, "an ordered one and a limited one");
    patience_ends(&stage).await;
    keyed(&stage, &["b", "c"], "b").await;
    let mut ours = stage.names(20).await;
    ours.sort();
    assert_eq!(ours.len(), 3, "the new key's first, and the two places that are left: {ours:?}");
    assert_eq!(ours[0], "b");
    claiming.batch_execute("rollback").await.unwrap();
    let mut rest = stage.names(20).await;
    rest.sort();
    assert_eq!(rest.len(), 2, "what was rolled back took no place: {rest:?}");
    assert_eq!(rest[0], "a");
}

#[tokio::test]
async fn an_older_job_that_is_locked_is_not_overtaken() {
    let stage = Stage::open().await;
    keyed(&stage, &["behind", "second"], "k").await;
    let replace = open(&stage, DEBOUNCE).await;
    patience_ends(&stage).await;
    assert_eq!(stage.run().await, None);
    replace.batch_execute("commit").await.unwrap();
    assert_eq!(stage.run().await.unwrap(), "behind");
    assert_eq!(stage.run().await.unwrap(), "second");
}

#[tokio::test]
async fn ends_of_many_keys_at_once_do_not_deadlock() {
    let stage = std::sync::Arc::new(Stage::open().await);
    stage.set("job.step.key_concurrency_limit", "3").await;
    let fill = "insert into job_queue (job_kind, actor, idempotency_key, ordering_key)
        select 'step', 'test', n::text, 'k' || n % 21 from generate_series(1, 600) n";
    stage.client.batch_execute(fill).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..5 {
        let stage = stage.clone();
        tasks.spawn(async move {
            let client = stage.db.client().await;
            let name = format!("worker-{worker}");
            client.execute("select fn_queue_heartbeat_register($1, 'PG_worker')", &[&name]).await.unwrap();
            loop {
                let jobs = claim(&client, &name, 5).await;
                let (ids, tokens): (Vec<_>, Vec<_>) = jobs.iter().map(|job| (job.id, job.token)).unzip();
                client.execute("select fn_job_succeed_many($1, $2)", &[&ids, &tokens]).await.unwrap();
                let left = "select count(*) from job_queue where status <> 'succeeded'";
                if client.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0 {
                    return;
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(stage.value("select count(*) from job_order_pending", &[]).await, 0);
}

#[tokio::test]
async fn a_pattern_with_signs_of_its_own_breaks_no_claim() {
    let stage = Stage::open().await;
    stage.job("foo1", "a", json!({})).await;
    stage
        .client
        .batch_execute(
            "select fn_subscription_set('*', 'test', 'foo\\'), fn_subscription_set('*', 'test', 'f%')",
        )
        .await
        .unwrap();
    assert_eq!(stage.names(1).await.len(), 0);
    assert_eq!(stage.value("select reason from v_job_queue_backlog", &[]).await, "not_subscribed");
}

#[tokio::test]
async fn the_largest_numbers_are_taken_for_what_they_can_mean() {
    let stage = Stage::open().await;
    stage.set("job.limited.concurrency_limit", "999999999").await;
    stage.job("limited", "a", json!({"ordering_key": "k"})).await;
    let claim = "select lease_until < clock_timestamp() + interval '2 days' from fn_job_claim('one', 2147483647, 2147483647)";
    assert_eq!(stage.value(claim, &[]).await, Value::Bool(true));
}
