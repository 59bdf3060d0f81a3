//! Leases: who holds the newest token decides, and nobody else.

use std::time::Duration;

use reveille::work::Handlers;
use serde_json::Value;
use uuid::Uuid;

use super::shop::{Held, Shop};
use crate::support::{SOON, wait_until};

/// Somebody else takes the job over, as after a lease that ran out.
async fn take_over(shop: &Shop, id: Uuid) -> i64 {
    // in one transaction: the worker may look at any moment
    shop.client.batch_execute("begin").await.unwrap();
    let give_up = "update job_queue set status = 'queued', lease_until = null where job_id = $1";
    shop.client.execute(give_up, &[&id]).await.unwrap();
    let token = claim(shop, "somebody-else").await;
    shop.client.batch_execute("commit").await.unwrap();
    token
}

/// Claims one job under a name of its own; answers the token.
async fn claim(shop: &Shop, name: &str) -> i64 {
    shop.client.execute("select fn_queue_heartbeat_register($1, 'PG_worker')", &[&name]).await.unwrap();
    shop.client.query_one("select lease_token from fn_job_claim($1)", &[&name]).await.unwrap().get(0)
}

async fn call(shop: &Shop, function: &str, id: Uuid, token: i64) -> Value {
    shop.value(&format!("select {function}($1, $2)"), &[&id, &token]).await
}

#[tokio::test]
async fn a_late_acknowledgement_with_an_old_token_changes_nothing() {
    let shop = Shop::open().await;
    let id = shop.enqueue("any").await;
    let old = claim(&shop, "late").await;
    let new = take_over(&shop, id).await;
    assert!(new > old, "tokens grow: {old}, {new}");
    let before = shop.job(id).await;
    for function in [
        "fn_job_start",
        "fn_job_renew",
        "fn_job_succeed",
        "fn_job_fail_transient",
        "fn_job_fail_permanent",
        "fn_job_release",
        "fn_job_run",
    ] {
        let answer = call(&shop, function, id, old).await;
        assert_eq!(
            (&answer["refused"], &answer["reason"]),
            (&true.into(), &"lease_lost".into()),
            "{function}"
        );
    }
    assert_eq!(shop.job(id).await, before);
    assert_eq!(call(&shop, "fn_job_succeed", id, new).await["refused"], false);
}

#[tokio::test]
async fn a_lease_that_has_ended_is_lost_even_if_nobody_took_the_job() {
    let shop = Shop::open().await;
    let id = shop.enqueue("any").await;
    let token = claim(&shop, "slow").await;
    shop.client.batch_execute("update job_queue set lease_until = clock_timestamp()").await.unwrap();
    assert_eq!(call(&shop, "fn_job_succeed", id, token).await["reason"], "lease_lost");
    assert_eq!(call(&shop, "fn_job_renew", id, token).await["reason"], "lease_lost");
    assert_eq!(shop.job(id).await["status"], "leased");
}

#[tokio::test]
async fn a_lease_of_no_time_is_a_mistake_and_one_of_years_is_a_day() {
    let shop = Shop::open().await;
    let id = shop.enqueue("any").await;
    let token = claim(&shop, "one").await;
    let before = shop.job(id).await;
    for seconds in [0, -1, i32::MIN] {
        let renew = shop.client.query_one("select fn_job_renew($1, $2, $3)", &[&id, &token, &seconds]).await;
        let error = renew.unwrap_err().as_db_error().unwrap().clone();
        assert_eq!(error.code().code(), "22023", "{seconds}: {error}");
        let said = format!("fn_job_renew: p_lease_seconds must be at least 1, not {seconds}");
        assert_eq!(error.message(), said);
    }
    assert_eq!(shop.job(id).await, before);
    for (seconds, granted) in [(Some(i32::MAX), 86400), (None, 300), (Some(1), 1)] {
        shop.value("select fn_job_renew($1, $2, $3)", &[&id, &token, &seconds]).await;
        let lasts = "select to_jsonb(extract(epoch from lease_until - updated_at)::int) from job_queue where job_id = $1";
        assert_eq!(shop.value(lasts, &[&id]).await, granted, "{seconds:?}");
    }
}

#[tokio::test]
async fn saying_twice_that_a_job_succeeded_is_answered_twice_and_done_once() {
    let shop = Shop::open().await;
    let id = shop.enqueue("any").await;
    let token = claim(&shop, "twice").await;
    assert_eq!(call(&shop, "fn_job_succeed", id, token).await["refused"], false);
    let done = shop.job(id).await;
    assert_eq!(call(&shop, "fn_job_succeed", id, token).await["refused"], false);
    let many = "select fn_job_succeed_many(array[$1::uuid], array[$2::bigint])";
    let answer = shop.value(many, &[&id, &token]).await;
    assert_eq!((&answer["succeeded"], &answer["lease_lost"]), (&1.into(), &Value::Array(Vec::new())));
    assert_eq!(call(&shop, "fn_job_succeed", id, token - 1).await["reason"], "lease_lost");
    assert_eq!(shop.job(id).await, done);
}

#[tokio::test]
async fn a_batch_with_a_job_of_no_name_is_refused_and_ends_nothing() {
    let shop = Shop::open().await;
    let id = shop.enqueue("any").await;
    let token = claim(&shop, "null").await;
    let tokens = [token, token];
    for ids in [[Some(id), None], [None, Some(id)]] {
        let call = "select fn_job_succeed_many($1, $2)";
        let error = shop.client.query_one(call, &[&ids.as_slice(), &tokens.as_slice()]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "22023");
    }
    assert_eq!(shop.job(id).await["status"], "leased");
}

#[tokio::test]
async fn in_a_batch_of_completions_each_is_judged_alone() {
    let shop = Shop::open().await;
    let (one, other) = (shop.enqueue("any").await, shop.enqueue("any").await);
    let (first, second) = (claim(&shop, "batch").await, claim(&shop, "batch").await);
    let many = "select fn_job_succeed_many($1, $2, $3)";
    let refs: [Option<&str>; 2] = [Some("r:1"), Some("r:2")];
    let tokens = [first, second - 1];
    let answer = shop.value(many, &[&[one, other].as_slice(), &tokens.as_slice(), &refs.as_slice()]).await;
    assert_eq!(answer["succeeded"], 1);
    assert_eq!(answer["lease_lost"], serde_json::json!([other]));
    assert_eq!(shop.job(one).await["result_ref"], "r:1");
    assert_eq!(shop.job(other).await["status"], "leased");
}

#[tokio::test]
async fn of_one_claim_what_is_plain_and_what_is_not_end_together() {
    let shop = Shop::open().await;
    let (one, other, lost) =
        (shop.enqueue("any").await, shop.enqueue("any").await, shop.enqueue("any").await);
    shop.client.batch_execute("select fn_queue_heartbeat_register('batch', 'PG_worker')").await.unwrap();
    shop.client
        .execute("update job_queue set ordering_key = 'k' where job_id = $1", &[&other])
        .await
        .unwrap();
    let claimed = "select jsonb_agg(lease_token) from fn_job_claim('batch', 3)";
    let tokens: Vec<i64> = serde_json::from_value(shop.value(claimed, &[]).await).unwrap();
    assert_eq!(tokens, [tokens[0]; 3], "one claim, one token");
    take_over(&shop, lost).await;
    let ids = [one, other, lost];
    let many = "select fn_job_succeed_many($1, $2)";
    let answer = shop.value(many, &[&ids.as_slice(), &tokens.as_slice()]).await;
    assert_eq!((&answer["succeeded"], &answer["lease_lost"]), (&2.into(), &serde_json::json!([lost])));
    for (id, status) in ids.into_iter().zip(["succeeded", "succeeded", "leased"]) {
        assert_eq!(shop.job(id).await["status"], status);
    }
}

#[tokio::test]
async fn the_effect_is_undone_when_the_lease_is_lost_while_the_handler_runs() {
    let shop = Shop::open().await;
    let body = "insert into effect values ((p_job ->> 'job_id')::uuid, 'x'); perform pg_advisory_xact_lock(7); return '{}';";
    shop.handler("hold", body).await;
    shop.client.batch_execute("select pg_advisory_lock(7)").await.unwrap();
    let worker = shop.start(&shop.settings(), Handlers::new().with_sql()).await;
    let id = shop.enqueue("hold").await;
    shop.wait_for_status(id, "in_progress").await;
    take_over(&shop, id).await;
    shop.client.batch_execute("select pg_advisory_unlock(7)").await.unwrap();
    wait_until("the worker notices", SOON, async || worker.stats.counts().lease_lost == 1).await;
    let job = shop.job(id).await;
    assert_eq!((&job["status"], &job["lease_owner"]), (&"leased".into(), &"somebody-else".into()));
    assert_eq!((&job["attempts"], shop.effects().await), (&0.into(), 0));
    assert_eq!(worker.stop().await.succeeded, 0);
}

#[tokio::test]
async fn a_lease_is_renewed_for_as_long_as_its_job_runs() {
    let shop = Shop::open().await;
    let mut settings = shop.settings();
    settings.worker.lease = Duration::from_secs(1);
    let held = Held::new(0);
    let worker = shop.start(&settings, Handlers::new().on("held", held.clone())).await;
    let id = shop.enqueue("held").await;
    held.begun().await;
    let first: Value = shop.job(id).await;
    let picked = "select clock_timestamp() > picked_at + interval '2 seconds' from job_queue";
    wait_until("twice the lease has passed", SOON, async || {
        shop.client.query_one(picked, &[]).await.unwrap().get(0)
    })
    .await;
    held.let_go();
    let job = shop.wait_for_status(id, "succeeded").await;
    assert_eq!(job["lease_token"], first["lease_token"]);
    assert_eq!(worker.stop().await.lease_lost, 0);
}

#[tokio::test]
async fn a_run_whose_lease_is_lost_is_ended_and_its_result_dropped() {
    let shop = Shop::open().await;
    let mut settings = shop.settings();
    settings.worker.lease = Duration::from_secs(1);
    let held = Held::new(0);
    let worker = shop.start(&settings, Handlers::new().on("held", held.clone())).await;
    let id = shop.enqueue("held").await;
    held.begun().await;
    take_over(&shop, id).await;
    wait_until("the run is ended", SOON, async || worker.stats.counts().running == 0).await;
    let counts = worker.stop().await;
    assert_eq!((counts.lease_lost, counts.succeeded), (1, 0));
    assert_eq!(shop.job(id).await["lease_owner"], "somebody-else");
}
