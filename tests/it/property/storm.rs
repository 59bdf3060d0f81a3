//! The same without order: producers, passes, sweeps, prunes and kills at once, and only the end is compared.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::facts::{Consumer, DOMAINS};
use crate::support::{Dice, TestDb, connect};

const PRODUCERS: u64 = 4;
const TRANSACTIONS: u64 = 120;
/// Between two kills.
const PAUSE: Duration = Duration::from_millis(15);

fn domain(dice: &mut Dice) -> &'static str {
    DOMAINS[usize::try_from(dice.roll(2)).unwrap()]
}

/// A connection that the storm may kill.
async fn mortal(url: &str) -> Client {
    let client = connect(url).await;
    client.batch_execute("set application_name = 'mortal'; set synchronous_commit = off").await.ok();
    client
}

/// Transactions one after another; answers the events of those that have certainly been committed.
async fn produce(url: &str, seed: u64) -> Vec<Uuid> {
    let mut dice = Dice(seed);
    let mut client = mortal(url).await;
    let mut committed = Vec::new();
    for _ in 0..TRANSACTIONS {
        match transaction(&client, &mut dice).await {
            Ok(events) => committed.extend(events),
            Err(_) => client = mortal(url).await,
        }
    }
    committed
}

async fn transaction(client: &Client, dice: &mut Dice) -> Result<Vec<Uuid>, Error> {
    let mut events = Vec::new();
    client.batch_execute("begin").await?;
    for _ in 0..=dice.roll(3) {
        let kept = dice.roll(4) > 0;
        client.batch_execute("savepoint here").await?;
        let rows = i32::try_from(1 + dice.roll(5)).unwrap();
        let insert = "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane)
                      select $1, 'changed', 'update', 'immediate' from generate_series(1, $2) returning id";
        let written = client.query(insert, &[&domain(dice), &rows]).await?;
        if kept {
            events.extend(written.iter().map(|row| row.get::<_, Uuid>(0)));
        } else {
            client.batch_execute("rollback to savepoint here").await?;
        }
    }
    if dice.roll(5) == 0 {
        client.batch_execute("rollback").await?;
        return Ok(Vec::new());
    }
    client.batch_execute("commit").await?;
    Ok(events)
}

/// Passes of random size until told to stop; some are rolled back, some die.
async fn dispatch(url: &str, seed: u64, stop: &AtomicBool) {
    let mut dice = Dice(seed);
    let mut client = mortal(url).await;
    while !stop.load(Ordering::Relaxed) {
        let limit = [1, 3, 20, 1000][usize::try_from(dice.roll(4)).unwrap()];
        let pass = format!("begin; select fn_consumer_dispatch_batch('{}', {limit})", domain(&mut dice));
        let end = if dice.roll(8) == 0 { "rollback" } else { "commit" };
        if client.batch_execute(&pass).await.is_err() || client.batch_execute(end).await.is_err() {
            client = mortal(url).await;
        }
    }
}

/// Sweeps and prunes until told to stop. Every event has its arrival, so no sweep may find one missing.
async fn keep_house(client: &Client, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let sweep = "select (fn_event_sweep(interval '1 second') ->> 'missing')::bigint";
        assert_eq!(client.query_one(sweep, &[]).await.unwrap().get::<_, i64>(0), 0, "missing");
        client.batch_execute("select fn_dispatch_prune(interval '1 day', 100)").await.unwrap();
    }
}

async fn kill(client: &Client, stop: &AtomicBool) {
    let victim = "select pg_terminate_backend(pid) from pg_stat_activity
                  where datname = current_database() and application_name = 'mortal' order by random() limit 1";
    let mut pause = tokio::time::interval(PAUSE);
    while !stop.load(Ordering::Relaxed) {
        pause.tick().await;
        client.batch_execute(victim).await.unwrap();
    }
}

/// Everything is read, and nothing twice.
async fn compare(client: &Client, committed: Vec<Uuid>) {
    let outbox = "select coalesce(array_agg(id), '{}') from event_outbox where event_domain = any ($1)";
    let outbox: Vec<Uuid> = client.query_one(outbox, &[&DOMAINS.to_vec()]).await.unwrap().get(0);
    let outbox: BTreeSet<Uuid> = outbox.into_iter().collect();
    assert!(committed.iter().all(|event| outbox.contains(event)), "what is committed is there");
    let jobs = "select coalesce(array_agg(causation_event_id), '{}') from job_queue";
    let jobs: Vec<Uuid> = client.query_one(jobs, &[]).await.unwrap().get(0);
    assert_eq!(jobs.len(), outbox.len());
    assert_eq!(jobs.into_iter().collect::<BTreeSet<_>>(), outbox);
    let read = "select coalesce(sum(events), 0)::bigint from dispatch_pass";
    let read: i64 = client.query_one(read, &[]).await.unwrap().get(0);
    assert_eq!(usize::try_from(read).unwrap(), outbox.len(), "arrivals that passes have read");
}

/// One storm.
pub(super) async fn rage(seed: u64) {
    let database = TestDb::new().await;
    database.open_gates().await;
    let client = database.client().await;
    for domain in DOMAINS {
        let put = "select fn_consumer_put($1, 'test', 'sql', true)";
        client.query_one(put, &[&Consumer::witness(domain).row()]).await.unwrap();
    }
    let (url, stop) = (database.url(), AtomicBool::new(false));
    let (keeper, killer) = (database.client().await, database.client().await);
    let producers = async {
        let committed = join_all((0..PRODUCERS).map(|n| produce(&url, seed.wrapping_add(n)))).await;
        stop.store(true, Ordering::Relaxed);
        committed.concat()
    };
    let (committed, ..) = tokio::join!(
        producers,
        dispatch(&url, seed.wrapping_add(100), &stop),
        dispatch(&url, seed.wrapping_add(101), &stop),
        keep_house(&keeper, &stop),
        kill(&killer, &stop),
    );
    for domain in DOMAINS {
        let pass = "select (fn_consumer_dispatch_batch($1) ->> 'more')::boolean";
        while client.query_one(pass, &[&domain]).await.unwrap().get(0) {}
    }
    compare(&client, committed).await;
}
