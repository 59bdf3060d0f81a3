//! The archiver beside everybody else: no key is taken twice, nobody waits for long, nothing is counted wrong.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::archive::{ARCHIVE, archive, archived, open, succeed};
use super::stage::Stage;
use crate::support::{SOON, emit, wait_until};

const ENQUEUE: &str = "select fn_job_enqueue('any', 'test', p_idempotency_key => 'first')";
const ENQUEUE_MANY: &str = r#"select fn_job_enqueue_many(
    '[{"job_kind": "any", "actor": "test", "idempotency_key": "first"}, {"job_kind": "any", "actor": "test"}]')"#;

/// A job that has run well under the key `first`, and an archiver that has moved it but not committed.
async fn leaving(stage: &Stage) -> (Uuid, Client) {
    let id = stage.value(ENQUEUE, &[]).await["job_id"].as_str().unwrap().parse().unwrap();
    succeed(stage, id).await;
    let archiver = stage.db.client().await;
    archiver.batch_execute("begin").await.unwrap();
    archiver.execute(ARCHIVE, &[]).await.unwrap();
    (id, archiver)
}

/// Runs a call that must wait for the archiver, which then commits.
async fn meanwhile(
    stage: &Stage,
    archiver: &Client,
    begin: &str,
    call: &str,
) -> Result<Value, tokio_postgres::Error> {
    let producer = stage.db.client().await;
    producer.batch_execute(begin).await.unwrap();
    let query = format!("select to_jsonb(({call}))");
    let (answer, ()) = tokio::join!(producer.query_one(&query, &[]), async {
        let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        wait_until("the producer waits", SOON, async || stage.value(waits, &[]).await == 1).await;
        archiver.batch_execute("commit").await.unwrap();
    });
    answer.map(|row| row.get(0))
}

async fn jobs(stage: &Stage) -> Value {
    stage.value("select count(*) from job_queue where idempotency_key = 'first'", &[]).await
}

#[tokio::test]
async fn an_archived_jobs_key_answers_the_first_job() {
    let stage = open().await;
    let id = archived(&stage, "first").await;
    for isolation in ["read committed", "repeatable read", "serializable"] {
        stage.client.batch_execute(&format!("begin isolation level {isolation}")).await.unwrap();
        let answer = stage.value(ENQUEUE, &[]).await;
        assert_eq!((&answer["created"], &answer["job_id"]), (&json!(false), &json!(id)), "{isolation}");
        let many = stage.value(ENQUEUE_MANY, &[]).await;
        assert_eq!(
            (&many["created"], &many["duplicates"], &many["job_ids"][0]),
            (&json!(1), &json!(1), &json!(id))
        );
        let made = stage
            .value("select jsonb_agg(job_id) from job_queue where job_id::text = idempotency_key", &[])
            .await;
        assert_eq!(made, json!([many["job_ids"][1]]), "the other one is made");
        stage.client.batch_execute("rollback").await.unwrap();
    }
    assert_eq!(stage.value("select count(*) from job_archive_key", &[]).await, 1);
}

#[tokio::test]
async fn an_enqueue_that_began_before_the_job_left_makes_no_second_one() {
    for call in [ENQUEUE, ENQUEUE_MANY] {
        let stage = open().await;
        let (id, archiver) = leaving(&stage).await;
        let call = call.trim_start_matches("select ");
        let answer = meanwhile(&stage, &archiver, "begin", call).await.unwrap();
        assert_eq!(answer.get("job_id").unwrap_or(&answer["job_ids"][0]), &json!(id), "{answer}");
        assert_eq!(jobs(&stage).await, 0);
    }
}

#[tokio::test]
async fn an_enqueue_that_cannot_see_that_the_job_left_is_told_to_try_again() {
    let stage = open().await;
    let (_, archiver) = leaving(&stage).await;
    let snapshot = "begin isolation level repeatable read; select 1";
    let error =
        meanwhile(&stage, &archiver, snapshot, ENQUEUE.trim_start_matches("select ")).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
    assert_eq!(jobs(&stage).await, 0);
}

#[tokio::test]
async fn an_event_whose_job_is_archived_gets_no_second_one() {
    let stage = open().await;
    for (key, columns) in [("plain", "{}"), ("careful", r#"{"idempotency_key": "page:{event_id}"}"#)] {
        let put = "select fn_consumer_put($1::jsonb || jsonb_build_object(
            'consumer_key', $2::text, 'event_domain', 'iu', 'job_kind', 'test.' || $2, 'enabled', true), 'test')";
        let columns: Value = serde_json::from_str(columns).unwrap();
        stage.value(put, &[&columns, &key]).await;
        emit(&stage.client, "iu", 1).await;
        let pass = "select fn_consumer_dispatch_batch('iu')";
        let of_both = stage.value(pass, &[]).await["jobs"].as_i64().unwrap();
        for _ in 0..of_both {
            let job = "select job_id from job_queue where claimable order by job_id limit 1";
            let id: Uuid = stage.client.query_one(job, &[]).await.unwrap().get(0);
            succeed(&stage, id).await;
        }
        assert_eq!(archive(&stage).await, of_both);
        // by hand
        let newest = "select id from event_outbox order by created_at desc limit 1";
        let event: Uuid = stage.client.query_one(newest, &[]).await.unwrap().get(0);
        let again = stage.value("select fn_consumer_dispatch($1)", &[&event]).await;
        assert_eq!((&again["jobs"], &again["duplicates"]), (&json!(0), &json!(of_both)), "{again}");
        let archived =
            stage.value("select to_jsonb(a) from job_archive a where a.consumer_key = $1", &[&key]).await;
        let decisions = again["decisions"].as_array().unwrap();
        let decision = decisions.iter().find(|one| one["consumer_key"] == key).unwrap();
        assert_eq!((&decision["job_id"], &decision["status"]), (&archived["job_id"], &json!("succeeded")));
        // by a pass that reads it a second time, as after a restored dump
        let reread =
            "insert into event_arrival (tx_id, event_domain, event_id) select pg_current_xact_id(), 'iu', $1";
        stage.client.execute(reread, &[&event]).await.unwrap();
        let pass = stage.value(pass, &[]).await;
        let counts = (&pass["events"], &pass["jobs"], &pass["duplicates"]);
        assert_eq!(counts, (&json!(1), &json!(0), &json!(of_both)), "{key}: {pass}");
    }
    assert_eq!(stage.value("select count(*) from job_queue", &[]).await, 0);
}

#[tokio::test]
async fn a_pass_that_began_before_the_job_left_makes_no_second_one() {
    let stage = open().await;
    let put = r#"select fn_consumer_put('{"consumer_key": "c", "event_domain": "iu", "job_kind": "any", "enabled": true}', 'test')"#;
    stage.value(put, &[]).await;
    emit(&stage.client, "iu", 1).await;
    stage.value("select fn_consumer_dispatch(id) from event_outbox", &[]).await; // before the pass
    let id: Uuid = stage.client.query_one("select job_id from job_queue", &[]).await.unwrap().get(0);
    succeed(&stage, id).await;
    let archiver = stage.db.client().await;
    archiver.batch_execute("begin").await.unwrap();
    archiver.execute(ARCHIVE, &[]).await.unwrap();
    let pass = meanwhile(&stage, &archiver, "begin", "fn_consumer_dispatch_batch('iu')").await.unwrap();
    assert_eq!((&pass["jobs"], &pass["duplicates"]), (&json!(0), &json!(1)), "{pass}");
    assert_eq!(stage.value("select count(*) from job_queue", &[]).await, 0);
}

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
    let read = "select jsonb_build_array(seq_tup_read, idx_tup_fetch) from pg_stat_xact_user_tables where relname = 'job_queue'";
    assert_eq!(stage.value(read, &[]).await, json!([0, 100]));
    stage.client.batch_execute("rollback").await.unwrap();
    // and an enqueue asks for its own key alone
    let fill = "insert into job_archive_key select 'any', 'k' || n, gen_random_uuid(), now() from generate_series(1, 3000) n";
    stage.client.batch_execute(&format!("{fill}; begin; {ENQUEUE_MANY}")).await.unwrap();
    let read =
        "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'job_archive_key'";
    assert!(stage.value(read, &[]).await.as_i64().unwrap() <= 2);
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
         from job_dead_letter where replayed_at is null order by random() limit 3".to_owned(),
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
