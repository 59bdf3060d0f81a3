//! Jobs that somebody must look at.

use reveille::store::doctor::work;

use super::Patient;

#[tokio::test]
async fn a_job_that_kills_its_workers_is_named_until_it_is_cancelled() {
    let patient = Patient::new().await;
    patient.run("select fn_job_enqueue('test.seen', 'test'); update job_queue set lease_losses = 2").await;
    let mend = patient.sees("poison_job", "job ");
    patient.mends(&mend[mend.find("reveille jobs cancel").unwrap()..]).await;
    patient.is_healthy();
}

#[tokio::test]
async fn a_long_backlog_hides_no_key_and_is_not_read_to_its_end_for_poison() {
    let patient = Patient::new().await;
    patient.run("select fn_job_enqueue('test.seen', 'test') from generate_series(1, 1000)").await;
    patient.run("update job_queue set lease_losses = 2").await;
    patient.run("vacuum analyze job_queue").await;
    let client = patient.db.pool(1).get().await.unwrap();
    let read = async || -> i64 {
        let sql = "select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables where relname = 'job_queue'";
        client.query_one(sql, &[]).await.unwrap().get(0)
    };
    client.batch_execute("begin").await.unwrap();
    let before = read().await;
    assert_eq!(work::poison(&client, 100).await.unwrap().len(), 20);
    let read = read().await - before;
    assert!(read <= 200, "{read} rows were read");
    client.batch_execute("commit").await.unwrap();

    patient.run("alter view v_ordering_blocked rename to away").await;
    patient.sees("poison_job", "job ");
    let found = patient.findings(&[]);
    let blind = |one: &&serde_json::Value| one["finding"] == "could_not_look";
    let blind: Vec<_> = found.iter().filter(blind).map(|one| one["subject"].as_str().unwrap()).collect();
    assert_eq!(blind, ["ordering keys"], "one check that fails takes no other with it");
}

#[tokio::test]
async fn a_dead_letter_that_holds_up_its_key_is_named_until_somebody_decides() {
    let patient = Patient::new().await;
    patient
        .run("select fn_job_enqueue('test.seen', 'test', p_ordering_key => 'k') from generate_series(1, 2)")
        .await;
    patient
        .run(
            "do $$ declare c record; begin
                select * into c from fn_job_claim('hand');
                perform fn_job_start(c.job_id, c.lease_token);
                perform fn_job_fail_permanent(c.job_id, c.lease_token, 'no');
              end $$",
        )
        .await;
    patient.sees("dead_letters_open", "dead_letter job_queue");
    let mend = patient.sees("key_blocked", "ordering key k");
    assert!(mend.starts_with("reveille dlq show "), "{mend}");
    let decide = mend.split(" --note TEXT").next().unwrap().split("then ").nth(1).unwrap();
    patient.mends(&format!("{decide} --note TEXT")).await;
    patient.is_healthy();
}

#[tokio::test]
async fn a_job_that_holds_up_others_for_long_is_named() {
    // without patience, transactions of other tests would be findings
    let patient = Patient::alone().await;
    patient
        .run("select fn_job_enqueue('test.seen', 'test', p_ordering_key => 'k') from generate_series(1, 2)")
        .await;
    patient.run("select fn_job_order_sweep()").await;
    patient.is_healthy();
    let mend = patient.sees_with(&["--older-than", "0s"], "key_blocked", "ordering key k");
    patient.mends(&mend[mend.find("reveille jobs cancel").unwrap()..]).await;
    assert!(patient.findings(&["--older-than", "0s"]).is_empty());
}

#[tokio::test]
async fn events_that_a_consumer_could_not_digest_are_named_until_they_are_dispatched() {
    let patient = Patient::new().await;
    patient.run("update consumer_registry set idempotency_key = '{payload.nothere}'").await;
    patient.run("select fn_event_emit('system', 'queue_dispatch_gap', '1')").await;
    patient.run("select fn_consumer_dispatch_batch('system', 10)").await;
    let mend = patient.sees("dispatch_errors", "consumer seen");
    patient.run("update consumer_registry set idempotency_key = '{event_id}'").await;
    patient.mends(&mend[mend.find("reveille events dispatch").unwrap()..]).await;
    patient.is_healthy();
}
