//! A session that holds a snapshot open does not slow the claims of others down.

use serde_json::{Value, json};

use super::stage::{Claimed, Stage};
use crate::support::{SOON, wait_until};

const JOBS: i32 = 5000;

/// What a claim gave, and how many index entries it passed over that were no more than leftovers.
async fn walked(stage: &Stage) -> (Vec<Claimed>, i64) {
    let read = "select coalesce(pg_stat_get_xact_tuples_returned('job_queue_ready_idx'::regclass), 0)";
    stage.client.batch_execute("begin").await.unwrap();
    let before = stage.value(read, &[]).await.as_i64().unwrap();
    let jobs = stage.claim(50).await;
    let after = stage.value(read, &[]).await.as_i64().unwrap();
    stage.client.batch_execute("commit").await.unwrap();
    let live = i64::try_from(jobs.len()).unwrap();
    (jobs, after - before - live)
}

/// So many jobs have been run while somebody holds a snapshot; that session.
async fn held(stage: &Stage) -> tokio_postgres::Client {
    let holder = stage.db.client().await;
    holder
        .batch_execute("begin isolation level repeatable read; select count(*) from job_queue")
        .await
        .unwrap();
    // due for an hour: marks leave out the last moments, in which late commits happen
    let run = "
        insert into job_queue (job_kind, actor, idempotency_key, scheduled_at)
        select 'any', 'test', n::text, clock_timestamp() - interval '1 hour' from generate_series(1, $1::int) n";
    stage.client.execute(run, &[&JOBS]).await.unwrap();
    let drain = "do $$
        begin
          for i in 1 .. 5 loop
            perform fn_job_succeed_many(array_agg(c.job_id), array_agg(c.lease_token)) from fn_job_claim('one', 1000) c;
            commit;
          end loop;
        end $$";
    stage.client.batch_execute(drain).await.unwrap();
    assert_eq!(stage.value("select count(*) from job_queue where status = 'succeeded'", &[]).await, JOBS);
    holder
}

#[tokio::test]
async fn what_a_held_snapshot_keeps_is_passed_over_once_and_not_at_every_claim() {
    let stage = Stage::open().await;
    let holder = held(&stage).await;
    // a scan from the head sees them all, and the next claims go on from there
    stage.client.batch_execute("set reveille.claim_marks = ''").await.unwrap();
    stage.job("any", "one that lives", json!({})).await;
    let (_, first) = walked(&stage).await;
    assert!(first > i64::from(JOBS) / 2, "{first} leftovers were there");
    let until = "select split_part(current_setting('reveille.claim_marks'), ';', 2)";
    wait_until("a claim that goes on from a mark", SOON, async || {
        stage.job("any", "new", json!({})).await;
        let before = stage.value(until, &[]).await;
        let (jobs, after) = walked(&stage).await;
        assert_eq!(jobs.len(), 1, "what is new is found");
        let went_on = before == stage.value(until, &[]).await;
        assert!(!went_on || after < 200, "{after} leftovers passed over again");
        went_on
    })
    .await;
    drop(holder);
}

#[tokio::test]
async fn a_lane_that_has_run_dry_is_not_walked_through_again_either() {
    let stage = Stage::open().await;
    let _holder = held(&stage).await;
    stage.client.batch_execute("set reveille.claim_marks = ''").await.unwrap();
    stage.job("any", "the last one", json!({})).await;
    assert_eq!(walked(&stage).await.0.len(), 1);
    let until = "select split_part(current_setting('reveille.claim_marks'), ';', 2)";
    wait_until("an empty claim that goes on from a mark", SOON, async || {
        let before = stage.value(until, &[]).await;
        let (jobs, after) = walked(&stage).await;
        assert_eq!(jobs.len(), 0);
        let went_on = before == stage.value(until, &[]).await;
        assert!(!went_on || after < 200, "{after} leftovers passed over again");
        went_on
    })
    .await;
}

#[tokio::test]
async fn a_new_lane_is_found_at_once_and_what_came_back_below_a_mark_soon() {
    let stage = Stage::open().await;
    let _holder = held(&stage).await;
    stage.client.batch_execute("set reveille.claim_marks = ''").await.unwrap();
    walked(&stage).await;
    for (kind, priority) in [("a", 100), ("z", 100), ("any", 5), ("any", 500)] {
        stage.job(kind, &format!("{kind} {priority}"), json!({"priority": priority})).await;
        let (jobs, _) = walked(&stage).await;
        assert_eq!(jobs.len(), 1, "{kind} {priority}");
    }
    let back = "insert into job_queue (job_kind, actor, idempotency_key, scheduled_at)
        values ('any', 'test', 'back', clock_timestamp() - interval '2 hours')";
    stage.client.batch_execute(back).await.unwrap();
    wait_until("what came back is found by a scan from the head", SOON, async || {
        !stage.claim(10).await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn without_leftovers_a_claim_always_looks_from_the_head() {
    let stage = Stage::open().await;
    stage.job("any", "a", json!({})).await;
    for _ in 0..20 {
        let job = stage.claim(1).await.pop().expect("it was released a moment ago");
        stage.value("select fn_job_release($1, $2)", &[&job.id, &job.token]).await;
    }
    assert_eq!(stage.value("select current_setting('reveille.claim_marks', true)", &[]).await, Value::Null);
}

#[tokio::test]
async fn marks_that_make_no_sense_are_no_marks() {
    let stage = Stage::open().await;
    stage.job("any", "a", json!({})).await;
    for marks in [
        "x",
        "PG_worker;9999999999999;",
        "PG_worker;1;1,2,3",
        "DOT;99999999999999;1,1,1,00000000-0000-0000-0000-000000000000;",
        "PG_worker;99999999999999;x",
    ] {
        stage
            .client
            .execute("select set_config('reveille.claim_marks', $1, false)", &[&marks])
            .await
            .unwrap();
        let job = stage.claim(1).await.pop().expect(marks);
        stage.value("select fn_job_release($1, $2)", &[&job.id, &job.token]).await;
    }
}

#[tokio::test]
async fn looking_for_new_lanes_reads_no_page_of_those_that_are_known() {
    let stage = Stage::open().await;
    let _holder = held(&stage).await;
    stage.job("any", "one that lives", json!({})).await;
    let explain = "explain (analyze, buffers, format json)
        select fn_job_lanes('PG_worker', array[row(lane, priority, null, null, null, clock_timestamp() - interval '1 second',
          '00000000-0000-0000-0000-000000000000', null, null)::job_lane])
        from (select lane, priority from job_queue order by created_at desc limit 1) j";
    stage.client.query_one(explain, &[]).await.unwrap(); // the plans are made, and kept by the session
    let plan: Value = stage.client.query_one(explain, &[]).await.unwrap().get(0);
    let lanes = &plan[0]["Plan"];
    let below: i64 = lanes["Plans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| part["Shared Hit Blocks"].as_i64().unwrap())
        .sum();
    let read = lanes["Shared Hit Blocks"].as_i64().unwrap() - below;
    assert!(read < 30, "{read} pages, where all that is left takes some fifty");
}

#[tokio::test]
async fn ordered_jobs_that_were_placed_are_not_walked_through_at_every_claim_either() {
    let stage = Stage::open().await;
    let _holder = {
        let holder = stage.db.client().await;
        holder
            .batch_execute("begin isolation level repeatable read; select count(*) from job_queue")
            .await
            .unwrap();
        holder
    };
    let place = "insert into job_queue (job_kind, actor, idempotency_key, ordering_key, created_at)
          select 'any', 'test', n::text, 'k', clock_timestamp() - interval '1 hour' from generate_series(1, 3000) n;
        select fn_job_order_sweep() from generate_series(1, 3)";
    stage.client.batch_execute(place).await.unwrap();
    let read = "select coalesce(pg_stat_get_xact_tuples_returned('job_queue_unplaced_idx'::regclass), 0)";
    let passed = async || {
        stage.client.batch_execute("begin").await.unwrap();
        let before = stage.value(read, &[]).await.as_i64().unwrap();
        stage.claim(1).await;
        let after = stage.value(read, &[]).await.as_i64().unwrap();
        stage.client.batch_execute("commit").await.unwrap();
        after - before
    };
    assert!(passed().await >= 3000, "the first claim walks through them");
    let mark = "select current_setting('reveille.order_mark', true)";
    wait_until("a claim that goes on from a mark", SOON, async || {
        let before = stage.value(mark, &[]).await;
        let passed = passed().await;
        let went_on = before == stage.value(mark, &[]).await;
        assert!(!went_on || passed < 100, "{passed} leftovers passed over again");
        went_on
    })
    .await;
}
