//! A token that is not the current one opens nothing, whichever function it is shown to.

use serde_json::json;
use uuid::Uuid;

use super::stage::Stage;

/// Every function that takes a lease token, and how it is called with `$1` and `$2`.
const CALLS: [(&str, &str); 13] = [
    ("fn_job_start", "fn_job_start($1, $2)"),
    ("fn_job_renew", "fn_job_renew($1, $2)"),
    ("fn_job_succeed", "fn_job_succeed($1, $2)"),
    ("fn_job_succeed_many", "fn_job_succeed_many(array[$1::uuid], array[$2::bigint])"),
    ("fn_job_fail_transient", "fn_job_fail_transient($1, $2, 'late')"),
    ("fn_job_fail_permanent", "fn_job_fail_permanent($1, $2, 'late')"),
    ("fn_job_release", "fn_job_release($1, $2)"),
    ("fn_job_snooze", "fn_job_snooze($1, $2, clock_timestamp() + interval '1 hour')"),
    ("fn_job_cancel_done", "fn_job_cancel_done($1, $2)"),
    ("fn_job_run", "fn_job_run($1, $2)"),
    ("fn_job_handler_of", "(select count(*) from fn_job_handler_of($1, $2))"),
    ("fn_job_busy", "(select count(*) from fn_job_busy(array[$1::uuid], array[$2::bigint]))"),
    ("fn_job_lease_lost", "fn_job_lease_lost($1, $2)"),
];

/// Asked by others with what they have locked; they change nothing.
const INTERNAL: [&str; 3] = ["fn_job_leased", "fn_job_has_succeeded", "fn_job_succeed_mixed"];

async fn refused(stage: &Stage, job: Uuid, token: i64, why: &str) {
    let before = stage.job(job).await;
    for (name, call) in CALLS {
        let answer = stage.value(&format!("select {call}"), &[&job, &token]).await;
        let is_lost = answer["reason"] == "lease_lost" || answer["lease_lost"] == json!([job]);
        assert!(is_lost || answer == 0, "{name}, {why}: {answer}");
        assert_eq!(stage.job(job).await, before, "{name}, {why}: it changed something");
    }
}

#[tokio::test]
async fn no_function_that_takes_a_token_is_missing_here() {
    let stage = Stage::open().await;
    let names = "select jsonb_agg(distinct proname order by proname) from pg_proc
        where pronamespace = current_schema()::regnamespace and array_to_string(proargnames, ',') ~ 'p_lease_tokens?'";
    let mut known: Vec<_> = CALLS.iter().map(|(name, _)| *name).chain(INTERNAL).collect();
    known.sort_unstable();
    assert_eq!(stage.value(names, &[]).await, json!(known));
}

#[tokio::test]
async fn a_late_call_with_an_old_token_is_refused_by_every_function() {
    let stage = Stage::open().await;
    let job = stage.enqueue("any").await;
    let old = stage.claim().await;
    stage.value("select fn_job_release($1, $2)", &[&job, &old]).await;
    refused(&stage, job, old, "the job waits again").await;
    let new = stage.claim().await;
    refused(&stage, job, old, "somebody else has it").await;
    refused(&stage, job, new + 1, "a token that was never given").await;
    stage.value("select fn_job_start($1, $2)", &[&job, &new]).await;
    refused(&stage, job, old, "somebody else runs it").await;
    stage.leases_end().await;
    refused(&stage, job, new, "the lease has ended unreported").await;
}

#[tokio::test]
async fn a_finished_job_opens_to_no_token_but_that_of_its_end() {
    let stage = Stage::open().await;
    let job = stage.enqueue("any").await;
    let token = stage.claim().await;
    stage.value("select fn_job_fail_permanent($1, $2, 'no', false)", &[&job, &token]).await;
    refused(&stage, job, token, "it has failed").await;
    let dead = stage.enqueue("any").await;
    let token = stage.claim().await;
    stage.value("select fn_job_fail_permanent($1, $2, 'no')", &[&dead, &token]).await;
    refused(&stage, dead, token, "it is a dead letter").await;
    let gone = stage.enqueue("any").await;
    stage.value("select fn_job_cancel($1, 'test', 'unwanted')", &[&gone]).await;
    refused(&stage, gone, token, "it is cancelled").await;
    let unknown = Uuid::from_u128(1);
    for (name, call) in CALLS {
        let answer = stage.value(&format!("select {call}"), &[&unknown, &token]).await;
        let is_nothing = answer["reason"] == "not_found" || answer["lease_lost"] == json!([unknown]);
        assert!(is_nothing || answer == 0, "{name}: {answer}");
    }
}

#[tokio::test]
async fn a_process_that_was_superseded_takes_nothing_back_from_its_successor() {
    let stage = Stage::open().await;
    let register =
        "select fn_queue_heartbeat_register('two', 'PG_worker', p_instance => $1, p_takeover => true)";
    let unknown = "select fn_job_release_unknown('two', interval '1 hour', '{}', $1)";
    let job = stage.enqueue("any").await;
    stage.value(register, &[&"first"]).await;
    stage.value(register, &[&"second"]).await;
    let claim = "select lease_token from fn_job_claim('two', p_instance => 'second')";
    let token: i64 = stage.client.query_one(claim, &[]).await.unwrap().get(0);
    let answer = stage.value(unknown, &[&"first"]).await;
    assert_eq!(answer["reason"], "executor_alive", "{answer}");
    let kept = stage.job(job).await;
    assert_eq!((&kept["status"], &kept["lease_token"]), (&json!("leased"), &json!(token)));
    assert_eq!(stage.value(unknown, &[&"second"]).await["released"], 1);
    assert_eq!(stage.job(job).await["status"], "queued");
}
