//! A failed workflow goes on from where it failed, and what it was made from stays as long as it may.

use serde_json::json;

use super::stage::{Stage, edge, node};

async fn with_replay() -> Stage {
    let stage = Stage::open().await;
    let open = "select fn_gate_set('queue.dlq.replay_enabled', 'true', 'test', 'test')";
    stage.client.batch_execute(open).await.unwrap();
    stage
}

#[tokio::test]
async fn a_retry_runs_what_failed_and_what_was_skipped_for_it_and_nothing_twice() {
    let stage = with_replay().await;
    let nodes = json!([node("a"), node("b"), node("c"), node("d"), node("tidy")]);
    let edges = json!([edge("a", "b"), {"from": "b", "to": "c", "otherwise": "skip"}, {"from": "c", "to": "d", "otherwise": "skip"},
        {"from": "b", "to": "tidy", "on": "always"}]);
    stage.put("t", nodes, edges).await;
    let id = stage.emit("t", json!({})).await;
    assert_eq!(stage.run(&["b"]).await, ["a", "b", "tidy"]);
    assert_eq!(stage.status(id).await, "partially_failed");
    let dry = stage.value("select fn_job_workflow_retry($1, 'test', 'mended')", &[&id]).await;
    assert_eq!((&dry["retried"], &dry["made_anew"], &dry["dry_run"]), (&json!(1), &json!(2), &json!(true)));
    assert_eq!(stage.status(id).await, "partially_failed", "a dry run changes nothing");
    stage.value("select fn_job_workflow_retry($1, 'test', 'mended', false)", &[&id]).await;
    assert_eq!(stage.run(&[]).await, ["b", "c~2", "d~2"]);
    assert_eq!(stage.status(id).await, "succeeded");
}

#[tokio::test]
async fn a_retry_is_all_or_nothing_and_needs_what_a_replay_needs() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a")]), json!([])).await;
    let id = stage.emit("t", json!({})).await;
    let retry = "select fn_job_workflow_retry($1, 'test', 'mended', false)";
    assert_eq!(stage.value(retry, &[&id]).await["reason"], "illegal_transition");
    stage.run(&["a"]).await;
    assert_eq!(stage.value(retry, &[&id]).await["reason"], "replay_disabled");
    assert_eq!(
        stage.value("select triage_status from job_dead_letter", &[]).await,
        "open",
        "nothing half-done"
    );
}

#[tokio::test]
async fn a_step_that_rests_as_failed_and_a_gate_that_was_rejected_are_asked_again() {
    let stage = with_replay().await;
    stage.put("t", json!([node("a"), {"key": "g", "type": "approval"}]), json!([edge("a", "g")])).await;
    let id = stage.emit("t", json!({})).await;
    let job = stage.claim("one", 1).await.remove(0);
    stage.value("select fn_job_fail_permanent($1, $2, 'no', false)", &[&job.id, &job.token]).await;
    let retry = "select fn_job_workflow_retry($1, 'test', 'mended', false)";
    stage.value(retry, &[&id]).await;
    assert_eq!(stage.run(&[]).await, ["a~2"]);
    stage.value("select fn_job_reject($1, 'test', 'no')", &[&stage.job(id, "g").await]).await;
    assert_eq!(stage.status(id).await, "failed");
    stage.value(retry, &[&id]).await;
    assert_eq!(stage.health(id).await["waiting_for"], json!(["approval g~2"]));
    let approve = "select fn_job_approve($1, fn_job_effect_hash($1), 'test')";
    stage.value(approve, &[&stage.job(id, "g~2").await]).await;
    assert_eq!(stage.status(id).await, "succeeded");
}

#[tokio::test]
async fn a_retry_frees_its_own_steps_whoever_else_waits_to_be_looked_after() {
    let stage = with_replay().await;
    stage.put("t", json!([node("a")]), json!([])).await;
    let id = stage.emit("t", json!({})).await;
    let job = stage.claim("one", 1).await.remove(0);
    stage.value("select fn_job_fail_permanent($1, $2, 'no', false)", &[&job.id, &job.token]).await;
    // others that nobody has looked after for longer than anybody can say
    for _ in 0..3 {
        stage.emit("t", json!({})).await;
    }
    let longest = "update job_workflow set updated_at = '-infinity' where status = 'active'";
    stage.client.batch_execute(longest).await.unwrap();
    stage.value("select fn_job_workflow_retry($1, 'test', 'mended', false)", &[&id]).await;
    let mut ran = stage.run(&[]).await;
    ran.sort();
    assert_eq!(ran, ["a", "a", "a", "a~2"]);
    assert_eq!(stage.status(id).await, "succeeded");
}

#[tokio::test]
async fn a_replayed_dead_letter_sets_its_workflow_going_again() {
    let stage = with_replay().await;
    stage.put("t", json!([node("a"), node("b")]), json!([edge("a", "b")])).await;
    let id = stage.emit("t", json!({})).await;
    stage.run(&["a"]).await;
    let replay = "select fn_job_dead_letter_triage(dead_letter_id, 'manual_replay', 'test'),
        fn_job_dead_letter_replay(dead_letter_id, 'ticket', false) from job_dead_letter";
    stage.client.query(replay, &[]).await.unwrap();
    assert_eq!(stage.status(id).await, "active");
    assert_eq!(stage.run(&[]).await, ["a", "b"]);
    assert_eq!(stage.status(id).await, "succeeded");
}

#[tokio::test]
async fn steps_leave_for_the_archive_only_with_a_workflow_that_nobody_can_retry() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b")]), json!([edge("a", "b")])).await;
    let (good, bad) = (stage.emit("t", json!({})).await, stage.emit("t@1", json!({})).await);
    stage.run(&[]).await;
    stage
        .client
        .execute("update job_workflow set status = 'failed' where workflow_id = $1", &[&bad])
        .await
        .unwrap();
    let gate = "select fn_gate_set('queue.archive.enabled', 'true', 'test', 'test')";
    stage.client.batch_execute(gate).await.unwrap();
    let archive = "select fn_job_archive(1000, false, p_now => clock_timestamp() + interval '1 day')";
    assert_eq!(stage.value(archive, &[]).await["archived"], 2);
    assert_eq!(
        stage.standing(good).await,
        json!({"a": "succeeded", "b": "succeeded"}),
        "shown from the archive"
    );
    assert_eq!(stage.health(good).await["succeeded"], 2);
}

#[tokio::test]
async fn a_retry_takes_up_a_step_that_somebody_cancelled_and_says_so_first() {
    let stage = with_replay().await;
    let edges = json!([edge("a", "b"), {"from": "a", "to": "c", "otherwise": "skip"}]);
    stage.put("t", json!([node("a"), node("b"), node("c")]), edges).await;
    let id = stage.emit("t", json!({})).await;
    let cancel = "select fn_job_cancel($1, 'test', 'not now')";
    assert_eq!(stage.value(cancel, &[&stage.job(id, "a").await]).await["status"], "cancelled");
    assert_eq!(stage.status(id).await, "failed");
    let counts = |answer: serde_json::Value| {
        ["retried", "were_cancelled", "made_anew"].map(|key| answer[key].as_i64().unwrap())
    };
    let dry = stage.value("select fn_job_workflow_retry($1, 'test', 'now', true)", &[&id]).await;
    assert_eq!(counts(dry), [1, 1, 2], "as it will be");
    let done = stage.value("select fn_job_workflow_retry($1, 'test', 'now', false)", &[&id]).await;
    assert_eq!(counts(done), [1, 1, 2]);
    let mut ran = stage.run(&[]).await;
    ran.sort();
    assert_eq!(ran, ["a~2", "b", "c~2"]);
    assert_eq!(stage.status(id).await, "succeeded");
}

#[tokio::test]
async fn a_dead_letter_of_a_cancelled_workflow_is_not_replayed_and_keeps_no_other_from_its_turn() {
    let stage = with_replay().await;
    stage.put("t", json!([node("a"), node("b")]), json!([])).await;
    let (gone, alive) = (stage.emit("t", json!({})).await, stage.emit("t", json!({})).await);
    assert_eq!(stage.run(&["a"]).await.len(), 4);
    stage.value("select fn_job_workflow_cancel($1, 'test', 'not wanted')", &[&gone]).await;
    let triage =
        "select fn_job_dead_letter_triage(dead_letter_id, 'manual_replay', 'test') from job_dead_letter";
    stage.client.query(triage, &[]).await.unwrap();
    let replay = "select fn_job_dead_letter_replay(d.dead_letter_id, 'ticket', $2) from job_dead_letter d
        join job_queue j on j.job_id = d.job_id where j.workflow_id = $1";
    for dry_run in [true, false] {
        assert_eq!(stage.value(replay, &[&gone, &dry_run]).await["reason"], "workflow_cancelled");
    }
    let redrive = "select fn_job_dead_letter_redrive('{}', 'ticket', 1, p_dry_run => false)";
    assert_eq!(stage.value(redrive, &[]).await["replayed"], 1, "the one that can be comes first");
    assert_eq!(stage.status(alive).await, "active");
    assert_eq!(stage.run(&[]).await, ["a"]);
    assert_eq!(
        (stage.status(gone).await, stage.status(alive).await),
        ("cancelled".into(), "succeeded".into())
    );
    let refusals = &stage.value(redrive, &[]).await["refusals"];
    assert_eq!(refusals["workflow_cancelled"], 1, "it is counted, not hidden");
}

#[tokio::test]
async fn a_dead_letter_that_holds_the_key_of_its_own_workflow_is_retried_or_gives_the_key_up() {
    let stage = Stage::open().await;
    let keyed = |key: &str| json!({"key": key, "job_kind": "a.a", "ordering_key": "K"});
    stage.put("t", json!([keyed("a"), keyed("b")]), json!([])).await;
    let id = stage.emit("t", json!({})).await;
    assert_eq!(stage.run(&["a"]).await, ["a"]);
    assert_eq!(stage.status(id).await, "active", "b waits behind the dead letter");
    stage
        .client
        .batch_execute("select fn_gate_set('queue.dlq.replay_enabled', 'true', 'test', 'test')")
        .await
        .unwrap();
    let retry = "select fn_job_workflow_retry($1, 'test', 'mended', false)";
    assert_eq!(stage.value(retry, &[&id]).await["retried"], 1);
    assert_eq!(stage.run(&[]).await, ["a", "b"]);
    assert_eq!(stage.status(id).await, "succeeded");

    let other = stage.emit("t", json!({})).await;
    assert_eq!(stage.run(&["a"]).await, ["a"]);
    stage.value("select fn_job_enqueue('b.b', 'test', p_ordering_key => 'K')", &[]).await;
    assert_eq!(stage.claim("one", 1).await.len(), 0);
    stage.value("select fn_job_workflow_cancel($1, 'test', 'not wanted')", &[&other]).await;
    assert_eq!(stage.claim("one", 1).await.len(), 1, "whoever waits behind it goes on");
}

#[tokio::test]
async fn hundreds_of_skipped_steps_are_made_anew_each_with_a_number_of_its_own() {
    let stage = Stage::open().await;
    let edges =
        json!([{"from": "s", "to": "i", "otherwise": "skip"}, {"from": "i", "to": "z", "otherwise": "skip"}]);
    let nodes = json!([node("s"), {"key": "i", "job_kind": "a.a", "for_each": "params.items"}, node("z")]);
    stage.put("t", nodes, edges).await;
    let items: Vec<i32> = (0..500).collect();
    let id = stage.emit("t", json!({ "items": items })).await;
    stage.value("select fn_gate_set('queue.dlq.replay_enabled', 'true', 'test', 'test')", &[]).await;
    for _ in 0..2 {
        stage.run(&["s"]).await;
        let answer = stage.value("select fn_job_workflow_retry($1, 'test', 'mended', false)", &[&id]).await;
        assert_eq!((&answer["refused"], &answer["made_anew"]), (&false.into(), &501.into()), "{answer}");
    }
    stage.run(&[]).await;
    assert_eq!(stage.status(id).await, "succeeded");
}
