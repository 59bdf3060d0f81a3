//! What a pass reads does not grow with the outbox, nor with the queue.

use super::stage::{Stage, numbers};

#[tokio::test]
async fn a_pass_reads_the_new_events_and_their_keys_and_nothing_else() {
    let stage = Stage::new().await;
    for settle in ["analyze", "select 'nothing is known of it'"] {
        stage
            .run(
                "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, created_at)
             select case when n % 3 = 0 then 'iu' else 'tac' end, 'old', 'update', 'immediate', now() - interval '1 day' - n * interval '1 second'
             from generate_series(1, 5000) n;
             insert into job_queue (job_kind, actor, idempotency_key) select 'test.one', 'test', gen_random_uuid()::text from generate_series(1, 5000) n",
            )
            .await;
        stage.run(settle).await;
        stage.outbox.emit(20).await;
        stage.sweep().await;
        stage.outbox.drain(10_000).await;
        // once for the plans, which are kept; the second is measured
        let mut reads = Vec::new();
        for _ in 0..2 {
            stage.outbox.emit(20).await;
            stage.sweep().await;
            stage.outbox.drain(10_000).await;
            let read = "select coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)::bigint
                from pg_stat_xact_user_tables where relname in ('event_outbox', 'job_queue', 'event_arrival')";
            stage.run("begin").await;
            let before = stage.count(read).await;
            let found = stage.audit().await;
            let after = stage.count(read).await;
            stage.run("commit").await;
            assert_eq!(found["missing"], 0, "{found}");
            reads.push(after - before);
        }
        // 20 events in the sweep, the edge and the window, their 40 keys, and a few more
        assert!(reads[1] <= 150, "after {settle}: {reads:?}");
    }
}

#[tokio::test]
async fn a_pass_ends_at_its_limit_and_the_next_goes_on_also_within_one_moment() {
    let stage = Stage::new().await;
    stage.outbox.emit(25).await; // one statement, one created_at
    stage.sweep().await;
    stage.outbox.drain(1000).await;
    for (events, more) in [(10, true), (10, true), (5, false), (0, false)] {
        let answer = stage.outbox.answer("fn_dispatch_audit_pass(10)").await;
        assert_eq!(
            (numbers(&answer), &answer["more"]),
            ([events, 2 * events, 2 * events, 0, 0], &more.into())
        );
    }
}

#[tokio::test]
async fn a_domain_that_nobody_wants_anything_of_is_not_read() {
    let stage = Stage::new().await;
    stage.run("insert into event_outbox (event_domain, event_type, event_stream, delivery_lane) select 'tac', 'a', 'update', 'immediate' from generate_series(1, 50)").await;
    stage.sweep().await;
    stage.run("select fn_consumer_dispatch_batch('tac', 1000)").await;
    assert_eq!(stage.audit().await["events"], 0);
    let done = "select bool_and(place_at = closed_until)::text from audit_domain where event_domain in ('iu', 'tac')";
    assert_eq!(stage.text(&format!("({done})")).await, "true");
}

#[tokio::test]
async fn what_health_asks_of_gaps_does_not_grow_with_them() {
    let stage = Stage::new().await;
    stage.outbox.emit(1).await;
    for settle in ["select 'nothing is known of them'", "analyze"] {
        stage
            .run(
                "insert into dispatch_gap (event_id, consumer_key, event_domain, event_type, event_created_at)
                 select gen_random_uuid(), 'one', 'iu', 'any', clock_timestamp() from generate_series(1, 12000)",
            )
            .await;
        stage.run(settle).await;
        let read = "select coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)::bigint
            from pg_stat_xact_user_tables where relname = 'dispatch_gap'";
        stage.run("begin").await;
        let before = stage.count(read).await;
        let told = stage.text("(select what from fn_dispatch_audit_check() where finding = 'gap')").await;
        let read = stage.count(read).await - before;
        stage.run("commit").await;
        assert!(told.starts_with("10000+ decisions are missing"), "{told}");
        assert!(read <= 10_100, "after {settle}: {read}");
    }
}
