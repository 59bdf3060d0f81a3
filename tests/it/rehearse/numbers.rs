//! A dry run is the real one without its jobs.

use serde_json::json;

use super::stage::{Stage, counts};

#[tokio::test]
async fn a_dry_run_shows_the_numbers_of_the_real_run_and_changes_nothing() {
    let stage = Stage::new(0, json!({"event_type": "happened", "ordering_key": "{payload.key}"})).await;
    stage.past("iu", "happened", 20, r#"{"key": "x"}"#).await;
    stage.past("iu", "happened", 5, "{}").await; // no ordering key can be made of them
    stage.past("iu", "other", 7, r#"{"key": "x"}"#).await;
    stage.past("kg", "happened", 9, "{}").await;
    stage.closed().await;
    stage.run("do $$ begin while (fn_consumer_dispatch_batch('kg', 1000) ->> 'more')::boolean loop end loop; end $$").await;
    let some = stage.real("backfill", ", p_limit => 4, p_batch => 3").await;
    assert_eq!(
        (&some["status"], &some["note"], &some["made"]),
        (&json!("finished"), &json!("limit"), &json!(4))
    );
    stage.run("delete from dispatch_error").await;

    let dry = stage.dry("backfill", ", p_batch => 7").await;
    assert_eq!(stage.jobs().await, 4);
    assert_eq!(stage.count("select count(*) from dispatch_error").await, 0);
    assert_eq!(stage.count("select count(*) from consumer_backfill").await, 1);
    let real = stage.real("backfill", ", p_batch => 5").await;
    assert_eq!(real["status"], "finished", "{real}");
    assert_eq!(dry, counts(&real));
    let expected = json!({"looked": 41, "events": 32, "expected": 25, "made": 16, "present": 4, "not_matching": 7, "without_job": 0, "errors": 5});
    assert_eq!(dry, expected);
    assert_eq!(stage.jobs().await, 20);
    assert_eq!(stage.count("select count(*) from dispatch_error where consumer_key = 'k'").await, 5);
    let again = stage.real("backfill", "").await;
    assert_eq!((&again["made"], &again["present"]), (&json!(0), &json!(20)));
}

#[tokio::test]
async fn events_that_share_a_key_are_counted_as_one_job_in_both_also_across_pages() {
    let stage = Stage::new(12, json!({"idempotency_key": "all of {event_type}"})).await;
    stage.past("iu", "again", 4, "{}").await;
    stage.closed().await;
    stage.run("delete from job_queue").await; // of the live path
    let dry = stage.dry("backfill", ", p_batch => 5").await;
    let real = stage.real("backfill", ", p_batch => 4").await;
    assert_eq!(dry, counts(&real));
    assert_eq!((&real["made"], &real["present"]), (&json!(2), &json!(14)));
}

#[tokio::test]
async fn a_limit_is_exact_also_among_the_recipients_of_one_event() {
    let stage = Stage::new(4, json!({"fan_out": "recipients"})).await;
    stage
        .run("insert into event_subscription (recipient_ref) values ('user:a'), ('user:b'), ('agent:c')")
        .await;
    let more = ", p_limit => 5, p_batch => 3";
    let dry = stage.dry("backfill", more).await;
    let real = stage.real("backfill", more).await;
    assert_eq!(dry, counts(&real));
    assert_eq!((&real["made"], stage.jobs().await), (&json!(5), 5));
    let rest = stage.real("backfill", "").await;
    assert_eq!((&rest["made"], &rest["present"], stage.jobs().await), (&json!(7), &json!(5), 12));
    let again = stage.real("replay", "").await;
    assert_eq!((&again["made"], stage.jobs().await), (&json!(12), 24), "{again}");
    assert_eq!(stage.count("select count(distinct idempotency_key) from job_queue").await, 24);
}

#[tokio::test]
async fn what_the_archive_holds_is_there_and_is_not_made_again() {
    let stage = Stage::new(6, json!({})).await;
    stage.real("backfill", "").await;
    stage.run("update job_queue set status = 'cancelled', finished_at = now() - interval '2 hours'").await;
    stage.outbox.gate("queue.archive.enabled", true).await;
    stage.run("select fn_gate_set('queue.archive.after_seconds', '0', 'test', 'test')").await;
    stage.run("select fn_job_archive(1000, null, p_now => clock_timestamp() + interval '1 hour')").await;
    assert_eq!(stage.jobs().await, 0);
    let dry = stage.dry("backfill", "").await;
    let real = stage.real("backfill", "").await;
    assert_eq!((&dry, &real["present"], &real["made"]), (&counts(&real), &json!(6), &json!(0)));
    let again = stage.real("replay", "").await;
    assert_eq!((&again["made"], stage.jobs().await), (&json!(6), 6));
}

#[tokio::test]
async fn jobs_of_a_backfill_come_behind_live_ones_and_know_their_run() {
    let stage = Stage::new(3, json!({})).await;
    let run = stage.real("backfill", "").await;
    let of_it = "select count(*) from job_queue where priority = 200 and run_id = (select backfill_id from consumer_backfill)";
    assert_eq!((stage.count(of_it).await, &run["priority"]), (3, &json!(200)));
    stage.outbox.emit(1).await;
    stage.outbox.drain(100).await;
    stage.run("select fn_queue_heartbeat_register('desk', 'PG_worker')").await;
    let first = "select count(*) from fn_job_claim('desk', 1) c join job_queue j using (job_id) where j.run_id is null";
    assert_eq!(stage.count(first).await, 1, "the live job is claimed first, though it came last");
    let behind = "select fn_consumer_put('{\"consumer_key\": \"k\", \"priority\": 300}', 'test', 'sql')";
    stage.run(behind).await;
    assert_eq!(stage.outbox.answer("fn_consumer_backfill('k')").await["priority"], json!(400));
}

#[tokio::test]
async fn a_batch_reads_its_events_by_the_index_and_no_more_at_the_end_than_at_the_beginning() {
    let stage = Stage::new(6000, json!({})).await;
    let mut run = stage.begin("backfill", ", p_batch => 100").await;
    let mut reads = Vec::new();
    for batch in 2..=60 {
        let read = "select coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)::bigint
            from pg_stat_xact_user_tables where relname in ('event_outbox', 'job_queue', 'event_arrival')";
        stage.run("begin").await;
        let before = stage.count(read).await;
        run = stage.step(&run, ", 100").await;
        reads.push(stage.count(read).await - before);
        stage.run("commit").await;
        assert_eq!(run["made"], json!(100 * batch), "{run}");
    }
    let (first, last) = (reads[2], reads[reads.len() - 1]);
    assert!(last <= first + 50 && last <= 600, "rows read: {reads:?}");
}
