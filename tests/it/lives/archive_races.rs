//! The archiver beside everybody else: nobody waits for it, nothing is lost, nothing is counted wrong.

use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use super::archive::{ARCHIVE, archive, open, succeed};
use super::archive_keys::{ENQUEUE_MANY, leaving};
use super::stage::Stage;

#[tokio::test]
async fn of_two_archivers_one_works_and_none_waits() {
    let stage = open().await;
    let (_, archiver) = leaving(&stage).await;
    let second = stage.value(ARCHIVE, &[]).await;
    assert_eq!((&second["busy"], &second["archived"]), (&json!(true), &json!(0)));
    archiver.batch_execute("commit").await.unwrap();
    assert_eq!(stage.value(ARCHIVE, &[]).await["busy"], false);
}

#[tokio::test]
async fn a_letter_that_triage_is_just_opening_keeps_its_job() {
    let stage = open().await;
    stage.set("queue.retry.default.max_attempts", "1").await;
    let id = stage.enqueue("any").await;
    stage.fail(id, "boom").await;
    let triage = |status| {
        format!("select fn_job_dead_letter_triage(dead_letter_id, '{status}', 'test') from job_dead_letter")
    };
    stage.value(&triage("discarded"), &[]).await;
    let operator = stage.db.client().await;
    operator.batch_execute(&format!("begin; {}", triage("manual_replay"))).await.unwrap();
    assert_eq!(archive(&stage).await, 0, "it does not wait either");
    operator.batch_execute("commit").await.unwrap();
    assert_eq!(archive(&stage).await, 0);
    assert_eq!(stage.job(id).await["status"], "dead_letter");
}

#[tokio::test]
async fn the_archiver_reads_no_more_than_its_batch() {
    let stage = open().await;
    stage.client.batch_execute("vacuum analyze job_queue").await.unwrap(); // the plan is made for an empty table
    let id = stage.enqueue("any").await;
    succeed(&stage, id).await;
    archive(&stage).await;
    stage
        .client
        .batch_execute("select fn_job_enqueue('any', 'test') from generate_series(1, 3000)")
        .await
        .unwrap();
    stage.client.batch_execute("begin").await.unwrap();
    let batch = ARCHIVE.replace("p_dry_run", "100, p_dry_run");
    assert_eq!(stage.value(&batch, &[]).await["found"], 0);
    let read = |table| {
        format!(
            "select seq_tup_read * 1000 + idx_tup_fetch from pg_stat_xact_user_tables where relname = '{table}'"
        )
    };
    let rows = stage.value(&read("job_queue"), &[]).await;
    assert!(rows.as_i64().unwrap() < 200, "{rows}: its batch, and what is dead at the head");
    stage.client.batch_execute("rollback").await.unwrap();
    // and an enqueue asks for its own key alone
    let fill = "insert into job_archive_key select 'any', 'k' || n, gen_random_uuid(), now() from generate_series(1, 3000) n";
    stage.client.batch_execute(&format!("{fill}; begin; {ENQUEUE_MANY}")).await.unwrap();
    assert!(stage.value(&read("job_archive_key"), &[]).await.as_i64().unwrap() <= 2);
}

/// One of a few things, again and again, until the time is over.
async fn busy(stage: &Stage, name: &str, end: Instant, statements: &[String]) -> usize {
    let client = stage.db.client().await;
    client.execute("select fn_queue_heartbeat_register($1, 'PG_worker')", &[&name]).await.unwrap();
    let mut rounds = 0;
    while Instant::now() < end {
        let statement = &statements[usize::from(Uuid::new_v4().as_bytes()[0]) % statements.len()];
        if let Err(error) = client.batch_execute(statement).await {
            panic!("{name}: {statement}: {error:?}"); // a deadlock, for one
        }
        rounds += 1;
    }
    rounds
}

#[tokio::test]
async fn archivers_workers_reaper_and_producers_in_each_others_way_lose_nothing_and_count_right() {
    let stage = open().await;
    stage.open_reaper().await;
    for (key, value) in [
        ("queue.archive.after_seconds", "0"),
        ("queue.retry.default.max_attempts", "2"),
        ("queue.retry.default.backoff_seconds", "0"),
        ("queue.dlq.replay_enabled", "true"),
    ] {
        stage.set(key, value).await;
    }
    let claimed = |name: &str, what: &str| {
        format!("select {what} from fn_job_claim('{name}', 7, 1) c where not c.refused")
    };
    let work = |name: &str| {
        vec![
            claimed(name, "fn_job_succeed(c.job_id, c.lease_token)"),
            claimed(name, "fn_job_succeed(c.job_id, c.lease_token)"),
            format!(
                "select fn_job_succeed_many(array_agg(job_id), array_agg(lease_token)) from fn_job_claim('{name}', 20) having count(*) > 0"
            ),
            claimed(name, "fn_job_fail_transient(c.job_id, c.lease_token, 'no')"),
            claimed(name, "fn_job_fail_permanent(c.job_id, c.lease_token, 'no', false)"),
            claimed(name, "1"), // and goes away
        ]
    };
    let produce = vec![
        "select fn_job_enqueue('any', 'test', p_idempotency_key => 'k' || (random() * 300)::int)".to_owned(),
        "select fn_job_enqueue_many(jsonb_agg(jsonb_build_object('job_kind', 'any', 'actor', 'test', 'idempotency_key', 'k' || n)))
         from (select distinct (random() * 300)::int as n from generate_series(1, 30) order by 1) s".to_owned(),
        "select fn_job_cancel(job_id, 'test', 'test') from job_queue order by random() limit 1".to_owned(),
    ];
    let keep = vec![
        "select fn_job_archive(50, false)".to_owned(),
        "select fn_job_archive(50, false)".to_owned(),
        "select fn_job_lease_reaper()".to_owned(),
        "select fn_job_dead_letter_triage(dead_letter_id, (array['discarded', 'manual_replay'])[1 + (random() * 1)::int], 'test')
         from job_dead_letter where replayed_at is null order by random() limit 1".to_owned(),
        "select fn_job_dead_letter_redrive('{}', 'test', 3, 1000, false)".to_owned(),
    ];
    let end = Instant::now() + Duration::from_secs(4);
    let (one, two, three, four) = (work("w1"), work("w2"), produce.clone(), produce);
    let rounds = tokio::join!(
        busy(&stage, "w1", end, &one),
        busy(&stage, "w2", end, &two),
        busy(&stage, "p1", end, &three),
        busy(&stage, "p2", end, &four),
        busy(&stage, "k1", end, &keep),
        busy(&stage, "k2", end, &keep)
    );
    let counts = "
        select jsonb_build_array(
          count(*) - count(distinct idempotency_key), count(*) - count(distinct job_id),
          count(*) filter (where archived) - (select count(*) from job_archive_key),
          (select count(*) from job_attempt t where not exists (select from job_queue j where j.job_id = t.job_id)),
          count(*) filter (where archived and history is distinct from
            (select jsonb_agg(h order by (h ->> 'lease_token')::bigint) from jsonb_array_elements(history) h) and history <> '[]'))
        from (
          select job_id, idempotency_key, false as archived, null::jsonb as history from job_queue
          union all
          select job_id, idempotency_key, true, history from job_archive) x";
    assert_eq!(stage.value(counts, &[]).await, json!([0, 0, 0, 0, 0]), "{rounds:?}");
    let left = stage.value("select count(*) from job_archive", &[]).await;
    assert!(left.as_i64().unwrap() > 50, "{left} left in {rounds:?} rounds");
}
