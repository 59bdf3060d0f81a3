//! What is kept of workflows, and how long.

use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::{Stage, edge, node};
use crate::support::Program;

const PREVIEW: &str = "select fn_job_workflow_retention()";
const APPLY: &str = "select fn_job_workflow_retention(p_dry_run => false)";
const APPROVE: &str = "select fn_job_approve($1, fn_job_effect_hash($1), 'user:test')";

/// A stage with an open archive and a template of three steps, `g` in the middle an approval.
async fn open() -> Stage {
    let stage = Stage::open().await;
    stage.value("select fn_gate_set('queue.archive.enabled', 'true', 'test', 'test')", &[]).await;
    let nodes = json!([node("a"), {"key": "g", "type": "approval"}, node("b")]);
    stage.put("t", nodes, json!([edge("a", "g"), edge("g", "b")])).await;
    stage
}

async fn succeeded(stage: &Stage) -> Uuid {
    let id = stage.emit("t", json!({})).await;
    stage.run(&[]).await;
    stage.value(APPROVE, &[&stage.job(id, "g").await]).await;
    stage.run(&[]).await;
    assert_eq!(stage.status(id).await, "succeeded");
    id
}

/// All that is finished leaves, in a hundred days: the archive has months of then, too.
async fn archive(stage: &Stage) -> i64 {
    let archive = "select fn_job_archive(1000, false, p_now => clock_timestamp() + interval '100 days')";
    stage.value(archive, &[]).await["archived"].as_i64().unwrap()
}

/// The month in which they ended is dropped.
async fn drop_month(stage: &Stage) {
    let month = "select to_char(min(finished_at) at time zone 'UTC', 'YYYY_MM') from job_archive";
    let month = stage.value(month, &[]).await;
    let drop = format!("drop table job_archive_{}", month.as_str().unwrap());
    stage.client.batch_execute(&drop).await.unwrap();
}

/// Workflows, edges, gates and approvals that there are.
async fn kept(stage: &Stage) -> Value {
    let count =
        "select jsonb_build_array((select count(*) from job_workflow), (select count(*) from job_dependency),
        (select count(*) from job_gate), (select count(*) from job_approval))";
    stage.value(count, &[]).await
}

#[tokio::test]
async fn a_workflow_is_kept_as_long_as_its_archived_steps_and_its_approvals_as_long_as_it() {
    let stage = open().await;
    let id = succeeded(&stage).await;
    assert_eq!(archive(&stage).await, 3);
    assert_eq!(stage.value(APPLY, &[]).await["found"], 0, "its month is still there");
    let steps = stage
        .value("select jsonb_agg(s.needs order by s.job_id) from fn_job_workflow_steps($1) s", &[&id])
        .await;
    assert_eq!(
        steps.as_array().unwrap().iter().filter(|needs| needs[0]["state"] == "met").count(),
        2,
        "{steps}"
    );
    assert_eq!(kept(&stage).await, json!([1, 2, 1, 1]));

    drop_month(&stage).await;
    let preview = stage.value(PREVIEW, &[]).await;
    assert_eq!(
        (&preview["dry_run"], &preview["found"], &preview["pruned"], &preview["edges"]),
        (&json!(true), &json!(1), &json!(0), &json!(2))
    );
    assert_eq!(kept(&stage).await, json!([1, 2, 1, 1]), "a dry run changes nothing");
    let applied = stage.value(APPLY, &[]).await;
    assert_eq!(
        (&applied["pruned"], &applied["edges"], &applied["more"]),
        (&json!(1), &json!(2), &json!(false)),
        "{applied}"
    );
    assert_eq!(kept(&stage).await, json!([0, 0, 0, 0]));
}

#[tokio::test]
async fn a_workflow_of_which_one_step_is_kept_stays_with_what_is_drawn_of_it() {
    let stage = open().await;
    let (id, hot) = (succeeded(&stage).await, succeeded(&stage).await);
    let stays = "select jsonb_build_object('locked', job_id) from job_queue where workflow_id = $1 and idempotency_key like '%/a' for update";
    let holder = stage.db.client().await;
    holder.batch_execute("begin").await.unwrap();
    holder.query_one(stays, &[&hot]).await.unwrap();
    assert_eq!(archive(&stage).await, 5, "one is left in the hot table");
    holder.batch_execute("rollback").await.unwrap();
    // the last step ended later, in a month that is kept
    let later = "update job_archive set finished_at = finished_at + interval '100 days'
        where workflow_id = $1 and idempotency_key like '%/b'";
    stage.client.execute(later, &[&id]).await.unwrap();
    drop_month(&stage).await;
    let applied = stage.value(APPLY, &[]).await;
    assert_eq!((&applied["pruned"], &applied["edges"]), (&json!(0), &json!(2)), "{applied}");
    assert_eq!(kept(&stage).await, json!([2, 2, 2, 2]));
    assert_eq!(stage.standing(id).await, json!({"b": "succeeded"}));
    assert_eq!(stage.standing(hot).await, json!({"a": "succeeded"}));
    assert_eq!(stage.health(id).await["succeeded"], 3, "the outcome is the workflow's own");
}

#[tokio::test]
async fn workflows_go_in_batches_and_what_somebody_has_locked_is_left_for_the_next_time() {
    let stage = open().await;
    for _ in 0..5 {
        succeeded(&stage).await;
    }
    assert_eq!(archive(&stage).await, 15);
    drop_month(&stage).await;
    let holder = stage.db.client().await;
    let hold = "begin; select from job_workflow order by finished_at limit 1 for update";
    holder.batch_execute(hold).await.unwrap();
    let batch = "select fn_job_workflow_retention(2, false)";
    let answers =
        [stage.value(batch, &[]).await, stage.value(batch, &[]).await, stage.value(batch, &[]).await];
    assert_eq!(answers.map(|answer| answer["pruned"].clone()), [json!(2), json!(2), json!(0)]);
    holder.batch_execute("rollback").await.unwrap();
    assert_eq!(stage.value(batch, &[]).await["pruned"], 1);
    assert_eq!(kept(&stage).await, json!([0, 0, 0, 0]));
}

#[tokio::test]
async fn a_failed_workflow_is_cancelled_for_good_only_after_the_days_that_somebody_has_set() {
    let stage = open().await;
    let id = stage.emit("t", json!({})).await;
    stage.run(&["a"]).await;
    let at = |days: u32, dry: bool| {
        format!(
            "select fn_job_workflow_retention(p_dry_run => {dry}, p_now => clock_timestamp() + interval '{days} days')"
        )
    };
    assert_eq!(stage.value(&at(4000, false), &[]).await["failed"], 0, "off until it is set");
    let set = "insert into dot_config (key, value) values ('queue.retention.failed_workflow_days', '30')";
    stage.client.batch_execute(set).await.unwrap();
    assert_eq!(stage.value(&at(29, false), &[]).await["failed"], 0);
    let preview = stage.value(&at(31, true), &[]).await;
    assert_eq!((&preview["failed"], &preview["cancelled"]), (&json!(1), &json!(0)));
    assert_eq!(stage.status(id).await, "failed", "a dry run changes nothing");
    assert_eq!(stage.value(&at(31, false), &[]).await["cancelled"], 1);
    let health = stage.health(id).await;
    assert_eq!(
        (&health["status"], &health["cancelled"], &health["failed"], &health["cancel_reason"]),
        (
            &json!("cancelled"),
            &json!(2),
            &json!(1),
            &json!("retention: nobody decided about it within 30 days")
        )
    );
    let retry = "select fn_job_workflow_retry($1, 'test', 'mended', false)";
    assert_eq!(stage.value(retry, &[&id]).await["reason"], "illegal_transition");
    assert_eq!(archive(&stage).await, 2, "the dead letter stays until somebody has decided about it");
    stage
        .client
        .batch_execute("delete from dot_config where key = 'queue.retention.failed_workflow_days'")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_tick_does_what_retention_asks_and_only_behind_the_gate_of_the_archive() {
    let stage = open().await;
    stage.value("select fn_gate_set('queue.archive.enabled', 'false', 'test', 'test')", &[]).await;
    let id = stage.emit("t", json!({})).await;
    stage.run(&["a"]).await;
    let old = "insert into dot_config (key, value) values ('queue.retention.failed_workflow_days', '30');
        update job_workflow set finished_at = finished_at - interval '31 days'";
    stage.client.batch_execute(old).await.unwrap();
    let tick = async || {
        let ended = Program::start(&stage.db.url(), &["tick", "--json"], &[]).ends().await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        serde_json::from_str::<Value>(&ended.out).unwrap()["archived"].clone()
    };
    assert_eq!(stage.value(APPLY, &[]).await["reason"], "archive_disabled");
    assert_eq!(tick().await["workflows_cancelled"], 0);
    assert_eq!(stage.status(id).await, "failed");
    stage.value("select fn_gate_set('queue.archive.enabled', 'true', 'test', 'test')", &[]).await;
    assert_eq!(tick().await["workflows_cancelled"], 1);
    assert_eq!(stage.status(id).await, "cancelled");
}

#[tokio::test]
async fn a_round_that_finds_nothing_reads_no_workflow_and_no_edge_that_is_kept() {
    let stage = open().await;
    for _ in 0..20 {
        succeeded(&stage).await;
    }
    archive(&stage).await;
    let read = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_xact_user_tables
        where relname in ('job_workflow', 'job_dependency', 'job_queue') or relname like 'job\\_archive%'";
    stage.client.batch_execute("begin").await.unwrap();
    let before = stage.value(read, &[]).await;
    assert_eq!(stage.value(APPLY, &[]).await["found"], 0);
    assert_eq!(stage.value(read, &[]).await, before);
    stage.client.batch_execute("commit").await.unwrap();
}

/// Planned while the tables were empty, as a new database would.
#[tokio::test]
async fn a_batch_reads_no_more_workflows_and_edges_than_it_removes() {
    let stage = open().await;
    let old = "
        select fn_job_archive(1, false);
        insert into job_workflow (template_key, template_version, correlation_id, actor, jobs, status, finished_at, outcome)
        select 't', 1, n::text, 'test', 2, 'succeeded', clock_timestamp() - interval '100 days', '{}' from generate_series(1, 500) n;
        insert into job_dependency (job_id, needs_job_id)
        select fn_uuid_v7_nth(f, 2), fn_uuid_v7_nth(f, 1)
        from generate_series(1, 500) n, fn_uuid_v7_floor(clock_timestamp() - interval '100 days' + n * interval '1 second') f";
    stage.client.batch_execute(old).await.unwrap();
    let read = "select jsonb_object_agg(relname, seq_tup_read + idx_tup_fetch) from pg_stat_xact_user_tables
        where relname in ('job_workflow', 'job_dependency')";
    stage.client.batch_execute("begin").await.unwrap();
    let applied = stage.value("select fn_job_workflow_retention(2, false)", &[]).await;
    assert_eq!((&applied["pruned"], &applied["edges"]), (&json!(2), &json!(100)));
    // a workflow is found once, and once more by its key when it is deleted
    assert_eq!(stage.value(read, &[]).await, json!({"job_workflow": 4, "job_dependency": 100}));
    stage.client.batch_execute("commit").await.unwrap();
}
