//! Plans that were made while the tables were small serve when they are large.

use reveille::store::{events, explain};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::Outbox;

/// How many rows of a table this transaction has read, by its indexes or in order.
async fn rows_read(outbox: &Outbox, table: &str) -> i64 {
    rows_read_in(&outbox.client, table).await
}

async fn rows_read_in(client: &Client, table: &str) -> i64 {
    let count = "select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables where relname = $1";
    client.query_one(count, &[&table]).await.unwrap().get(0)
}

/// How many jobs it reads to end some that are leased, by their keys alone or each with what it made.
async fn read_to_succeed(outbox: &Outbox, jobs: i32, results: bool) -> i64 {
    let claim = "select array_agg(job_id), array_agg(lease_token) from fn_job_claim('one', $1)";
    let row = outbox.client.query_one(claim, &[&jobs]).await.unwrap();
    let (ids, tokens): (Vec<uuid::Uuid>, Vec<i64>) = (row.get(0), row.get(1));
    outbox.client.batch_execute("begin").await.unwrap();
    let before = rows_read(outbox, "job_queue").await;
    let refs = results.then(|| vec!["r:1"; ids.len()]);
    outbox.client.execute("select fn_job_succeed_many($1, $2, $3)", &[&ids, &tokens, &refs]).await.unwrap();
    let rows = rows_read(outbox, "job_queue").await - before;
    outbox.client.batch_execute("commit").await.unwrap();
    rows
}

async fn enqueue(outbox: &Outbox, jobs: i32) {
    let enqueue = format!("select fn_job_enqueue('any', 'test') from generate_series(1, {jobs})");
    outbox.client.batch_execute(&enqueue).await.unwrap();
}

/// How many rows of a table the act reads, by its indexes or in order.
async fn rows_read_by(outbox: &Outbox, table: &str, act: impl AsyncFnOnce()) -> i64 {
    outbox.client.batch_execute("begin").await.unwrap();
    let before = rows_read(outbox, table).await;
    act().await;
    let rows = rows_read(outbox, table).await - before;
    outbox.client.batch_execute("rollback").await.unwrap();
    rows
}

/// The same database with a new session, after all its tables were full, analyzed, and emptied: the worst that the
/// planner can be told.
async fn emptied(outbox: Outbox) -> Outbox {
    outbox.emit(5000).await;
    outbox.drain(1000).await;
    for sql in ["vacuum analyze", "truncate event_outbox, event_arrival, job_queue", "vacuum analyze"] {
        outbox.client.batch_execute(sql).await.unwrap();
    }
    Outbox { client: outbox.db.client().await, ..outbox }
}

/// A plan that was told to avoid something, and cannot, has costs beyond every bound: a server with LLVM would compile it, for
/// a tenth of a second at each call. It did so wherever the database's collation kept an index from being used.
#[tokio::test]
async fn nothing_that_avoids_a_way_is_compiled_for_its_costs() {
    let outbox = Outbox::open().await;
    let sql = "select proname::text from pg_proc
        where pronamespace = current_schema()::regnamespace and proconfig::text ~ 'enable_[a-z]+=off'
          and not 'jit=off' = any (proconfig) order by 1";
    let compiled: Vec<String> =
        outbox.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(compiled, Vec::<String>::new());
    assert!(outbox.count("select count(*) from pg_proc where 'jit=off' = any (proconfig)").await > 70);
}

#[tokio::test]
async fn a_pass_planned_while_the_outbox_was_small_reads_no_more_of_it_later() {
    let outbox = Outbox::open().await;
    outbox.consumer("one", "iu", json!({})).await;
    let outbox = emptied(outbox).await;
    for _ in 0..10 {
        outbox.emit(1).await;
        assert_eq!(outbox.drain(1000).await, 1, "the first time, plans are made, and kept by the session");
    }
    outbox.emit(2000).await;
    outbox.client.batch_execute("begin").await.unwrap();
    let before = rows_read(&outbox, "event_outbox").await;
    assert_eq!(outbox.pass(10).await, (10, true));
    assert_eq!(rows_read(&outbox, "event_outbox").await - before, 10);
    outbox.client.batch_execute("commit").await.unwrap();
}

#[tokio::test]
async fn recipients_of_some_events_are_found_without_the_others() {
    let outbox = Outbox::open().await;
    outbox.consumer("one", "iu", json!({"fan_out": "recipients"})).await;
    let subscribe = "insert into event_subscription (recipient_ref, event_domain, scope_filter, mute)
        select 'user:' || n, 'iu', case when n % 2 = 0 then '\"$.event.event_stream == \\\"update\\\"\"'::jsonb end, n = 10
        from generate_series(1, 10) n";
    let outbox = emptied(outbox).await;
    outbox.client.batch_execute(subscribe).await.unwrap();
    for _ in 0..10 {
        outbox.emit(1).await;
        assert_eq!(outbox.drain(1000).await, 1, "the first time, plans are made, and kept by the session");
    }
    outbox.emit(2000).await;
    outbox.client.batch_execute("begin").await.unwrap();
    let before = rows_read(&outbox, "event_outbox").await;
    let (subscriptions, jobs) = (rows_read(&outbox, "event_subscription").await, outbox.jobs().await);
    assert_eq!(outbox.pass(10).await, (10, true));
    assert_eq!(outbox.jobs().await - jobs, 90);
    assert_eq!(
        rows_read(&outbox, "event_outbox").await - before,
        30,
        "once for the plain consumers, once for the pairs, once for their recipients"
    );
    assert_eq!(
        rows_read(&outbox, "event_subscription").await - subscriptions,
        10,
        "however many events there are"
    );
    outbox.client.batch_execute("commit").await.unwrap();
}

#[tokio::test]
async fn one_by_one_reads_no_more_than_that_one() {
    let outbox = Outbox::with_two_consumers().await;
    outbox.consumer("picky", "iu", json!({"idempotency_key": "{payload.order}"})).await;
    outbox.emit(1).await;
    outbox.client.batch_execute("vacuum analyze event_outbox").await.unwrap(); // to read it all is cheapest, now
    let dispatch = async || {
        let id: String =
            outbox.client.query_one("select min(id::text) from event_outbox", &[]).await.unwrap().get(0);
        outbox.client.batch_execute("begin").await.unwrap();
        let before = rows_read(&outbox, "event_outbox").await;
        let answer: Value = outbox.answer(&format!("fn_consumer_dispatch('{id}')")).await;
        assert_eq!((&answer["jobs"], &answer["errors"]), (&json!(2), &json!(1)), "{answer}");
        let rows = rows_read(&outbox, "event_outbox").await - before;
        outbox.client.batch_execute("rollback").await.unwrap();
        rows
    };
    for _ in 0..10 {
        dispatch().await; // the plans are kept by the session
    }
    outbox.emit(2000).await;
    let read = dispatch().await;
    assert!(read <= 10, "{read} rows of the outbox were read");
}

#[tokio::test]
async fn completions_planned_while_the_queue_was_small_read_no_more_of_it_later() {
    let outbox = Outbox::open().await;
    outbox.consumer("one", "iu", json!({})).await;
    let outbox = emptied(outbox).await;
    outbox.client.batch_execute("select fn_queue_heartbeat_register('one', 'PG_worker')").await.unwrap();
    for jobs in [3, 3, 2000] {
        enqueue(&outbox, jobs).await;
        reads_its_own(&outbox).await;
    }
}

/// Its three jobs, and the first one more for the name of its owner.
async fn reads_its_own(outbox: &Outbox) {
    enqueue(outbox, 3).await;
    assert_eq!(read_to_succeed(outbox, 3, false).await, 3 + 1);
    assert_eq!(read_to_succeed(outbox, 3, true).await, 3);
}

#[tokio::test]
async fn completions_read_no_job_that_is_leased_to_others() {
    for settle in ["vacuum analyze job_queue", "select 'nothing is known of it'"] {
        read_among_leased(settle).await;
    }
}

async fn read_among_leased(settle: &str) {
    let outbox = Outbox::open().await;
    let register = "select fn_queue_heartbeat_register(n, 'PG_worker') from unnest(array['one', 'others']) n";
    outbox.client.batch_execute(register).await.unwrap();
    enqueue(&outbox, 3100).await;
    let lease = ["select fn_job_claim('others', 3000)", settle];
    for sql in lease {
        outbox.client.batch_execute(sql).await.unwrap();
    }
    reads_its_own(&outbox).await;
}

/// Nothing in the queue leads from a fact to its jobs: they are found by what its explanation names, and among those made next.
#[tokio::test]
async fn a_fact_is_shown_with_its_jobs_and_few_of_the_others_are_read() {
    let outbox = Outbox::open().await;
    outbox.consumer("one", "iu", json!({})).await;
    enqueue(&outbox, 5000).await;
    let first = newest_fact(&outbox).await;
    assert_eq!(outbox.drain(1000).await, 1);
    let (named, found, rows) = shown(&outbox, first).await;
    assert!(named == 1 && found == 1 && rows <= 10, "{named}, {found} of {rows} rows");
    // its job is made long after it, as a backfill does
    let second = newest_fact(&outbox).await;
    enqueue(&outbox, 6000).await;
    assert_eq!(outbox.drain(1000).await, 1);
    let (named, found, rows) = shown(&outbox, second).await;
    assert!(named == 1 && found == 0 && rows <= 5010, "{named}, {found} of {rows} rows");
}

async fn newest_fact(outbox: &Outbox) -> uuid::Uuid {
    outbox.emit(1).await;
    let newest = "select id from event_outbox order by created_at desc limit 1";
    outbox.client.query_one(newest, &[]).await.unwrap().get(0)
}

/// How many jobs a fact is shown with when its explanation has been read, how many without, and the most rows of the queue that were read.
async fn shown(outbox: &Outbox, id: uuid::Uuid) -> (usize, usize, i64) {
    outbox.client.batch_execute("analyze job_queue").await.unwrap();
    let client = outbox.db.pool(1).get().await.unwrap();
    let made = explain::jobs(&explain::event(&client, id).await.unwrap().unwrap());
    let read = async |made: &[uuid::Uuid]| {
        client.batch_execute("begin").await.unwrap();
        let before = rows_read_in(&client, "job_queue").await;
        let fact = events::show(&client, id, made).await.unwrap().unwrap();
        let rows = rows_read_in(&client, "job_queue").await - before;
        client.batch_execute("rollback").await.unwrap();
        (fact["jobs"].as_array().unwrap().len(), rows)
    };
    let ((named, rows), (found, more)) = (read(&made).await, read(&[]).await);
    (named, found, rows.max(more))
}

#[tokio::test]
async fn a_kind_is_paused_without_a_look_at_every_job() {
    let outbox = Outbox::open().await;
    let kinds = "select fn_job_enqueue('kind.' || n % 20, 'test') from generate_series(1, 5000) n";
    outbox.client.batch_execute(kinds).await.unwrap();
    outbox.client.batch_execute("analyze job_queue").await.unwrap();
    let rows = rows_read_by(&outbox, "job_queue", async || {
        let answer = outbox.answer("fn_pause('job_kind', 'kind.7', 'test', 'a test')").await;
        assert_eq!(answer["known"], true, "{answer}");
    })
    .await;
    assert!(rows <= 1100, "{rows} rows");
}
