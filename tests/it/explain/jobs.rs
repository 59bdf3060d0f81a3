//! What a job waits for that is its own: its time, its turn, its lease; how it ended, attempt by attempt.

use serde_json::json;

use super::stage::{Stage, says};

#[tokio::test]
async fn a_job_for_later_says_when() {
    let stage = Stage::open().await;
    let job = stage.job("a.a", json!({"scheduled_at": "2099-01-01T00:00:00Z"})).await;
    let row = stage.reason(job, "scheduled").await;
    says(&row, "waits", "scheduled", &["it is due at 2099-01-01"], "");
    assert!(row["until"].as_str().unwrap().starts_with("2099-01-01"));
    let later = "select reason from fn_job_explain($1, '2099-01-02') limit 1";
    assert_eq!(stage.value(later, &[&job]).await, "ready", "at that time");
}

#[tokio::test]
async fn a_job_that_was_put_off_says_by_whom() {
    let stage = Stage::open().await;
    stage.job("a.a", json!({})).await;
    let job = stage.end("snooze($1, $2, clock_timestamp() + interval '1 hour')").await;
    says(&stage.reason(job, "scheduled").await, "waits", "scheduled", &["one put it off"], "");
    says(&stage.reason(job, "snoozed").await, "attempt", "snoozed", &["attempt 1 by one"], "");
}

#[tokio::test]
async fn a_job_that_is_tried_again_says_after_which_error_and_how_often() {
    let stage = Stage::open().await;
    let first = stage.job("a.a", json!({"max_attempts": 3})).await;
    let job = stage.end("fail_transient($1, $2, 'the printer is out of paper')").await;
    assert_eq!(job, first);
    stage.run("update job_queue set scheduled_at = clock_timestamp() + interval '1 hour'").await;
    let row = stage.reason(job, "retry_waiting").await;
    let what = ["it failed 1 of 3 times", "the printer is out of paper"];
    says(&row, "waits", "retry_waiting", &what, "reveille jobs policy a.a");
    let attempt = stage.reason(job, "transient").await;
    says(&attempt, "attempt", "transient", &["attempt 1 by one: transient after", "out of paper"], "");
    for key in ["lease_token", "lease_owner", "picked_at", "ended_at", "error", "seconds"] {
        assert!(!attempt["detail"][key].is_null(), "{key}: {attempt:#}");
    }
}

#[tokio::test]
async fn attempts_are_told_one_by_one_and_the_last_is_the_success() {
    let stage = Stage::open().await;
    let job = stage.job("a.a", json!({})).await;
    stage.end("fail_transient($1, $2, 'once')").await;
    stage.run("update job_queue set scheduled_at = clock_timestamp()").await;
    stage.end("release($1, $2)").await;
    let (_, token) = stage.claim().await;
    stage.value("select fn_job_start($1, $2)", &[&job, &token]).await;
    stage.value("select fn_job_succeed($1, $2, 'page:1')", &[&job, &token]).await;
    let rows = stage.of_job(job).await;
    says(&rows[0], "ended", "succeeded", &["with result page:1"], "");
    let attempts: Vec<_> = rows[1..].iter().map(|row| row["reason"].as_str().unwrap()).collect();
    assert_eq!(attempts, ["transient", "released", "succeeded"]);
    assert_eq!(rows[3]["detail"]["lease_token"], token);
}

#[tokio::test]
async fn a_leased_job_says_by_whom_until_when_and_whether_that_is_over() {
    let stage = Stage::open().await;
    stage.job("a.a", json!({})).await;
    let (job, token) = stage.claim().await;
    says(&stage.of_job(job).await[0], "runs", "leased", &["one has it since", "leased until"], "");
    stage.value("select fn_job_start($1, $2)", &[&job, &token]).await;
    says(&stage.of_job(job).await[0], "runs", "in_progress", &["one has it since"], "");
    stage.value("select fn_job_cancel($1, 'user:ann', 'withdrawn')", &[&job]).await;
    says(
        &stage.reason(job, "cancel_requested").await,
        "runs",
        "cancel_requested",
        &["user:ann: withdrawn"],
        "",
    );
    stage.run("update job_queue set lease_until = clock_timestamp() - interval '1 second'").await;
    let what = ["the lease of one ended at", "its gates are closed"];
    says(
        &stage.of_job(job).await[0],
        "waits",
        "lease_lost",
        &what,
        "reveille gate open queue.lease_reaper.enabled",
    );
    stage.set("queue.lease_reaper.enabled", "true").await;
    stage.set("queue.lease_reaper.dry_run_only", "false").await;
    let release = format!("reveille jobs release {job}");
    says(&stage.of_job(job).await[0], "waits", "lease_lost", &["the reaper frees it"], &release);
}

#[tokio::test]
async fn a_job_behind_others_of_its_ordering_key_names_the_first_and_why_it_stands() {
    let stage = Stage::open().await;
    let key = json!({"ordering_key": "letter:7"});
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(stage.job("a.a", key.clone()).await);
    }
    let row = stage.reason(jobs[2], "ordering_blocked").await;
    says(&row, "waits", "ordering_blocked", &["is not given yet", "2 wait before it"], "reveille tick");
    let (first, token) = stage.claim().await;
    let row = stage.reason(jobs[2], "ordering_blocked").await;
    let what = [format!("job {first} (a.a) of its ordering key letter:7 comes first: it runs; 1 more wait")];
    says(&row, "waits", "ordering_blocked", &[&what[0]], &format!("reveille jobs explain {first}"));
    assert_eq!(row["other_job_id"], first.to_string());
    stage.value("select fn_job_fail_permanent($1, $2, 'no')", &[&first, &token]).await;
    let row = stage.reason(jobs[1], "ordering_blocked").await;
    says(&row, "waits", "ordering_blocked", &["a dead letter that nobody has decided about"], "");
}

#[tokio::test]
async fn what_has_ended_says_how_and_what_can_still_be_done() {
    let stage = Stage::open().await;
    stage.job("a.a", json!({})).await;
    let dead = stage.end("fail_permanent($1, $2, 'no such address')").await;
    let row = &stage.of_job(dead).await[0];
    let letter = row["detail"]["dead_letter_id"].as_str().unwrap().to_owned();
    let what = ["after 1 of 5 failures and 0 lost leases: no such address", "(permanent; triage: open)"];
    says(row, "ended", "dead_letter", &what, &format!("reveille dlq triage {letter} manual_replay"));
    stage.job("a.a", json!({})).await;
    let failed = stage.end("fail_permanent($1, $2, 'never mind', false)").await;
    says(&stage.of_job(failed).await[0], "ended", "failed", &["never mind"], "");
    let gone = stage.job("a.a", json!({})).await;
    stage.value("select fn_job_cancel($1, 'user:ann', 'withdrawn')", &[&gone]).await;
    says(&stage.of_job(gone).await[0], "ended", "cancelled", &["user:ann: withdrawn"], "");
}
