//! `reveille health` over a deep queue: it reads what waits and what is wrong, and none of what is finished.

use reveille::store::{gates, standing};

use crate::support::TestDb;

/// Finished jobs; some wait, run, are blocked by their order, or are dead letters.
const DEEP: &str = "
    set session_replication_role = replica;
    insert into job_queue (job_kind, status, actor, idempotency_key, finished_at, picked_at, lease_owner, lease_token)
    select 'k' || n % 5, 'succeeded', 'test', 'done ' || n, now(), now(), 'one', n from generate_series(1, 20000) n;
    reset session_replication_role;
    select fn_queue_heartbeat_register('one', 'PG_worker');
    select fn_job_enqueue('k' || n % 5, 'test', p_ordering_key => case when n % 5 = 0 then 'key' end) from generate_series(1, 50) n;
    do $$ declare c record; begin
      for c in select * from fn_job_claim('one', 5) loop perform fn_job_fail_permanent(c.job_id, c.lease_token, 'no'); end loop;
      perform fn_job_claim('one', 5);
    end $$";

#[tokio::test]
async fn health_reads_no_finished_job_however_many_there_are() {
    let db = TestDb::new().await;
    db.open_gates().await;
    db.client().await.batch_execute(DEEP).await.unwrap();
    let read = "select coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)::bigint
        from pg_stat_xact_user_tables where relname like 'job_%'";
    for settle in ["analyze", "select 'nothing is known of it'"] {
        let client = db.pool(1).get().await.unwrap();
        client.batch_execute(settle).await.unwrap();
        for round in ["plans are made", "plans are kept"] {
            client.batch_execute("begin").await.unwrap();
            let components = standing::read(&client).await.unwrap();
            gates::list(&client).await.unwrap();
            let rows: i64 = client.query_one(read, &[]).await.unwrap().get(0);
            client.batch_execute("rollback").await.unwrap();
            let value = |name: &str| components.iter().find(|one| one.name == name).and_then(|one| one.value);
            assert_eq!(
                (value("PG_worker").is_some(), value("job_queue")),
                (true, Some(5.0)),
                "{components:#?}"
            );
            assert!(rows < 1000, "after {settle}, {round}: {rows} rows of 20,000");
        }
    }
}

/// Compiling a statement takes a hundred milliseconds; its estimate, not its work, decides about that.
#[tokio::test]
async fn nothing_that_health_asks_is_compiled() {
    let db = TestDb::new().await;
    let compiled = "select string_agg(p.proname, ' ') from pg_proc p
        where p.pronamespace = 'public'::regnamespace and not coalesce(p.proconfig, '{}') @> '{jit=off}'
          and p.proname in ('fn_job_due', 'fn_job_backlog', 'fn_subscription_standing', 'fn_job_workflow_check', 'fn_route_check',
            'fn_schedule_check', 'fn_dispatch_audit_check', 'fn_consumer_backfill_check')";
    let row = db.client().await.query_one(compiled, &[]).await.unwrap();
    assert_eq!(row.get::<_, Option<String>>(0), None);
}
