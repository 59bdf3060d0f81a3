//! What watching reads does not grow with the queue.

use super::stage::Stage;

#[tokio::test]
async fn looking_at_workflows_reads_their_own_jobs_and_no_others() {
    let stage = Stage::new().await;
    stage.emit("letter").await;
    stage.end_one(true).await;
    stage.emit("letter").await;
    stage.end_one(false).await;
    let others = "insert into job_queue (job_kind, actor, idempotency_key) select 'b.b', 'test', n::text from generate_series(1, 5000) n;
        insert into job_workflow (template_key, template_version, correlation_id, actor, jobs, status, finished_at, outcome)
        select 'old', 1, n::text, 'test', 1, case when n % 2 = 0 then 'succeeded' else 'failed' end, now(), '{\"blocked\": 0}' from generate_series(1, 5000) n";
    stage.run(others).await;
    for settle in ["analyze", "select 'nothing is known of it'"] {
        stage.run(settle).await;
        for call in [
            "fn_job_workflow_check(p_now => clock_timestamp() + interval '2 days')",
            "fn_job_workflow_counts()",
        ] {
            let read =
                "select jsonb_object_agg(relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))
                from pg_stat_xact_user_tables where relname in ('job_queue', 'job_workflow')";
            stage.run("begin").await;
            let before = stage.value(read, &[]).await;
            stage.run(&format!("select * from {call}")).await;
            let after = stage.value(read, &[]).await;
            stage.run("rollback").await;
            for table in ["job_queue", "job_workflow"] {
                let rows = after[table].as_i64().unwrap() - before[table].as_i64().unwrap_or_default();
                assert!(rows <= 10, "{call} after {settle}: {rows} rows of {table}");
            }
        }
    }
}
