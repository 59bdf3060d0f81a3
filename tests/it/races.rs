//! Races of the reading order and of falling asleep, each made certain by a lock.

use std::time::Duration;

use reveille::model::pass::FoundBy;
use reveille::postgres::Server;
use reveille::postgres::migrator::Migrator;
use reveille::store;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{SOON, TestDb, wait_until};

/// A consumer of everything in domain `iu`, and gates open.
async fn database() -> TestDb {
    let database = TestDb::new().await;
    database.open_gates().await;
    let consumer = "insert into consumer_registry (consumer_key, event_domain, job_kind, enabled, starts_at)
                    values ('all', 'iu', 'race', true, '-infinity')";
    database.client().await.batch_execute(consumer).await.unwrap();
    database
}

async fn insert(client: &Client, subject: &str) -> Uuid {
    let insert =
        "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, event_subject_ref)
                  values ('iu', 'changed', 'update', 'immediate', $1) returning id";
    client.query_one(insert, &[&subject]).await.unwrap().get(0)
}

/// Passes until nothing is left.
async fn dispatch(client: &Client) {
    let pass = "select (fn_consumer_dispatch_batch('iu') ->> 'more')::boolean";
    while client.query_one(pass, &[]).await.unwrap().get(0) {}
}

/// The subjects that became jobs, sorted.
async fn jobs(client: &Client) -> Vec<String> {
    let jobs =
        "select coalesce(array_agg(coalesce(source_ref, '') order by source_ref), '{}') from job_queue";
    client.query_one(jobs, &[]).await.unwrap().get(0)
}

/// Uses up a transaction id, so that ids below it lie below the xmax of any later snapshot.
async fn pass_an_id(client: &Client) {
    client
        .batch_execute("create temp table if not exists used (); alter table used set (fillfactor = 50)")
        .await
        .unwrap();
}

/// Makes statements of this kind on `event_arrival` wait, in the middle of their work, for whoever holds
/// advisory lock 1.
async fn halt_on(client: &Client, operation: &str) {
    let trigger = format!(
        "create function halt() returns trigger language plpgsql as
         $$ begin perform pg_advisory_xact_lock(1); return null; end $$;
         create trigger halt before {operation} on event_arrival for each statement execute function halt()"
    );
    client.batch_execute(&trigger).await.unwrap();
}

/// Ends when somebody waits for advisory lock 1.
async fn somebody_halts(client: &Client) {
    wait_until("the statement has been halted", SOON, async || {
        let waiting = "select exists (select from pg_locks where locktype = 'advisory' and not granted)";
        client.query_one(waiting, &[]).await.unwrap().get(0)
    })
    .await;
}

#[tokio::test]
async fn what_a_pass_of_an_open_transaction_leaves_unread_is_read_later() {
    let database = database().await;
    let (own, other) = (database.client().await, database.client().await);
    own.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    pass_an_id(&other).await;
    insert(&own, "before").await;
    dispatch(&own).await;
    insert(&own, "after").await;
    own.batch_execute("commit").await.unwrap();
    dispatch(&own).await;
    assert_eq!(jobs(&own).await, ["after", "before"]);
}

#[tokio::test]
async fn a_domain_added_in_an_open_transaction_keeps_that_transactions_events() {
    let database = database().await;
    let (own, other) = (database.client().await, database.client().await);
    own.batch_execute("begin; delete from dispatch_pass where event_domain = 'iu'; delete from dispatch_cursor where event_domain = 'iu'")
        .await
        .unwrap();
    pass_an_id(&other).await;
    own.batch_execute("select fn_dispatch_domain_add('iu')").await.unwrap();
    insert(&own, "first").await;
    own.batch_execute("commit").await.unwrap();
    dispatch(&own).await;
    assert_eq!(jobs(&own).await, ["first"]);
}

#[tokio::test]
async fn unread_events_of_a_restored_dump_are_read_though_others_commit_meanwhile() {
    let database = database().await;
    let (own, other) = (database.client().await, database.client().await);
    insert(&own, "restored").await;
    own.batch_execute("update dispatch_cursor set system_identifier = 1").await.unwrap();
    halt_on(&own, "update").await;
    other.batch_execute("select pg_advisory_lock(1)").await.unwrap();
    let attaching = database.client().await;
    let attach = attaching.batch_execute("select fn_dispatch_attach()");
    let meanwhile = async {
        somebody_halts(&other).await;
        pass_an_id(&other).await;
        other.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
    };
    let (attached, ()) = tokio::join!(attach, meanwhile);
    attached.unwrap();
    dispatch(&own).await;
    assert_eq!(jobs(&own).await, ["restored"]);
}

#[tokio::test]
async fn an_event_that_commits_while_a_sweep_looks_is_found_by_the_next() {
    let database = database().await;
    let (own, other) = (database.client().await, database.client().await);
    // minutes ahead, because a watermark that moved by seconds is not kept
    let sweep = async |minutes: i32| {
        let sweep = "select fn_event_sweep(interval '0', clock_timestamp() + make_interval(mins => $1))";
        own.query_one(sweep, &[&minutes]).await.unwrap();
    };
    sweep(0).await;
    let producer = database.client().await;
    producer.batch_execute("begin; set local session_replication_role = replica").await.unwrap();
    insert(&producer, "silent").await;
    halt_on(&own, "insert").await;
    other.batch_execute("select pg_advisory_lock(1)").await.unwrap();
    let meanwhile = async {
        somebody_halts(&other).await;
        producer.batch_execute("commit").await.unwrap();
        other.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
    };
    tokio::join!(sweep(1), meanwhile);
    sweep(2).await;
    dispatch(&own).await;
    assert_eq!(jobs(&own).await, ["silent"]);
}

#[tokio::test]
async fn an_event_with_two_arrivals_in_one_batch_makes_one_job_and_one_error() {
    let database = database().await;
    let client = database.client().await;
    let undigestible = "insert into consumer_registry (consumer_key, event_domain, job_kind, enabled, starts_at, idempotency_key)
                        values ('undigestible', 'iu', 'race', true, '-infinity', '{payload.missing}')";
    client.batch_execute(undigestible).await.unwrap();
    let id = insert(&client, "twice").await;
    let again =
        "insert into event_arrival (tx_id, event_domain, event_id) values (pg_current_xact_id(), 'iu', $1)";
    client.execute(again, &[&id]).await.unwrap();
    dispatch(&client).await;
    assert_eq!(jobs(&client).await, ["twice"]);
    let errors = client.query_one("select count(*) from dispatch_error", &[]).await.unwrap();
    assert_eq!(errors.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_pass_that_reads_the_rest_of_what_an_earlier_one_began_says_that_there_may_be_more() {
    let database = database().await;
    let client = database.client().await;
    client.batch_execute("begin").await.unwrap();
    for subject in ["one", "two", "three"] {
        insert(&client, subject).await;
    }
    client.batch_execute("commit; select fn_consumer_dispatch_batch('iu', 2)").await.unwrap();
    insert(&client, "since").await;
    dispatch(&client).await;
    assert_eq!(jobs(&client).await, ["one", "since", "three", "two"]);
}

#[tokio::test]
async fn the_newest_transaction_is_known_to_be_blind() {
    let database = database().await;
    let dispatcher = database.pool(1).get().await.unwrap();
    store::wakes::awake(&dispatcher, "queue_wake_iu", Duration::from_mins(1)).await.unwrap();
    let producer = database.client().await;
    producer.batch_execute("begin").await.unwrap();
    insert(&producer, "blind").await; // reads the mark: no NOTIFY
    let armed = store::wakes::arm(&dispatcher, "queue_wake_iu").await.unwrap();
    assert!(store::wakes::is_blind(&dispatcher, armed).await.unwrap());
    producer.batch_execute("commit").await.unwrap();
    // whatever other databases have open counts too
    wait_until("nobody is blind", SOON, async || !store::wakes::is_blind(&dispatcher, armed).await.unwrap())
        .await;
    let pass = store::dispatch::pass(&dispatcher, "iu", 10, FoundBy::Look).await.unwrap().unwrap();
    assert_eq!(pass.events, 1);
}

#[tokio::test]
async fn a_job_that_is_about_to_commit_is_not_dropped_by_migrate_down() {
    let database = database().await;
    let (client, other) = (database.client().await, database.client().await);
    client.batch_execute("delete from consumer_registry; delete from dispatch_error").await.unwrap();
    client.batch_execute("begin; select fn_job_enqueue('race', 'test')").await.unwrap();
    let migrator = Migrator::new(Server::direct(&database.settings().database).unwrap());
    let down = tokio::spawn(async move { migrator.down(Some(2), false).await });
    wait_until("down waits for the producer", SOON, async || {
        // it wrote a job and looked who rests
        let blocked = "select exists (select from pg_locks l join pg_class c on c.oid = l.relation
                     where c.relname in ('job_queue', 'queue_heartbeat') and not l.granted
                       and l.database = (select oid from pg_database where datname = current_database()))";
        other.query_one(blocked, &[]).await.unwrap().get(0)
    })
    .await;
    client.batch_execute("commit").await.unwrap();
    let refused = down.await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("job_queue holds jobs that would be lost"), "{refused}");
    assert_eq!(jobs(&client).await.len(), 1);
}
