//! Maintenance as ordinary jobs: the same gates, the same work.

use super::stage::Stage;
use crate::support::Program;

const KINDS: [&str; 6] = ["reap", "stale_check", "archive", "order_sweep", "prune", "refresh"];

async fn handlers(stage: &Stage) {
    for kind in KINDS {
        let handler = format!(
            "insert into job_handler (job_kind, handler) values ('maintenance.{kind}', 'fn_maintenance_{kind}(jsonb)')"
        );
        stage.client.batch_execute(&handler).await.unwrap();
    }
}

#[tokio::test]
async fn every_maintenance_pass_runs_as_a_scheduled_job_of_an_ordinary_worker() {
    let stage = Stage::new().await;
    handlers(&stage).await;
    for kind in KINDS {
        let put = format!("select fn_schedule_put('{kind}', 'maintenance.{kind}', 'test', p_every => '1 day', p_starts_at => '2026-06-01T10:00:00Z',
              p_now => '2026-06-01T09:00:00Z');
            select fn_schedule_enable('{kind}', true, 'test', 'test', '2026-06-01T09:00:00Z')");
        stage.client.batch_execute(&put).await.unwrap();
    }
    assert_eq!(stage.at("2026-06-01T10:00:00Z").await.jobs, 6);
    let ended = Program::start(&stage.db.url(), &["work", "--once"], &[]).ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let status = "select string_agg(distinct status || coalesce(' ' || last_error, ''), ', ') from job_queue";
    assert_eq!(stage.text(status).await, "succeeded");
}

#[tokio::test]
async fn behind_closed_gates_they_only_count() {
    let stage = Stage::new().await;
    let old = "
        select fn_queue_heartbeat_register('w', 'PG_worker');
        select fn_job_enqueue('lost', 'test'), fn_job_enqueue('over', 'test', p_priority => 200);
        select fn_job_claim('w', 1);
        update job_queue set lease_until = now() - interval '1 hour' where job_kind = 'lost';
        update job_queue set status = 'cancelled', finished_at = now() - interval '1 day' where job_kind = 'over'";
    stage.client.batch_execute(old).await.unwrap();
    stage
        .client
        .batch_execute(
            "update job_queue set job_id = '00000000-0000-7000-8000-000000000001' where job_kind = 'over'",
        )
        .await
        .unwrap();
    let call = async |name: &str| stage.text(&format!("select fn_maintenance_{name}('{{}}')::text")).await;
    let reaped = call("reap").await;
    assert!(reaped.contains("\"dry_run\": true") && reaped.contains("\"found\": 1"), "{reaped}");
    let archived = call("archive").await;
    assert!(archived.contains("\"dry_run\": true") && archived.contains("\"found\": 1"), "{archived}");
    assert_eq!(stage.text("select status::text from job_queue where job_kind = 'lost'").await, "leased");

    let open = "select fn_gate_set('queue.lease_reaper.enabled', 'true', 'test', 'test'), fn_gate_set('queue.archive.enabled', 'true', 'test', 'test'),
        fn_gate_set('queue.lease_reaper.dry_run_only', 'false', 'test', 'test')";
    stage.client.batch_execute(open).await.unwrap();
    assert!(call("reap").await.contains("\"dry_run\": false"));
    assert!(call("archive").await.contains("\"archived\": 1"));
    assert_eq!(stage.text("select status::text from job_queue").await, "queued");
    stage
        .client
        .batch_execute("select fn_gate_set('queue.heartbeat.enabled', 'false', 'test', 'test')")
        .await
        .unwrap();
    assert!(call("stale_check").await.contains("\"skipped\": \"heartbeat_disabled\""));
}

#[tokio::test]
async fn a_scheduled_refresh_starts_workflows_and_fails_gates_whose_time_is_over() {
    let stage = Stage::new().await;
    handlers(&stage).await;
    let begin = r#"
        select fn_mot_template_put('{"template_key": "t", "nodes": [{"key": "g", "type": "approval", "expires_seconds": 60}]}', 'test');
        select fn_job_enqueue('workflow:t', 'test'), fn_job_enqueue('maintenance.refresh', 'test')"#;
    stage.client.batch_execute(begin).await.unwrap();
    let worked = async || {
        let ended = Program::start(&stage.db.url(), &["work", "--once"], &[]).ends().await;
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        stage.text("select string_agg(status, ' ') from job_workflow").await
    };
    assert_eq!(worked().await, "active");
    let over = "update job_gate set expires_at = clock_timestamp() - interval '1 second'; select fn_job_enqueue('maintenance.refresh', 'test')";
    stage.client.batch_execute(over).await.unwrap();
    assert_eq!(worked().await, "failed");
}
