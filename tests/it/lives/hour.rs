//! An hour's worth of accidents within some seconds: workers that fail, vanish and come late, reapers, operators, at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;
use tokio_postgres::Client;
use uuid::Uuid;

use super::stage::Stage;
use crate::support::{Dice, wait_until};

const JOBS: i32 = 400;
const KEYS: i32 = 20;

/// What the workers saw: leases that they were given, and successes that were taken.
#[derive(Default)]
struct Seen {
    leases: Mutex<Vec<(Uuid, i64)>>,
    successes: Mutex<BTreeMap<Uuid, usize>>,
}

/// One worker: claims some jobs and does one of all that workers do with each.
async fn work(client: Client, name: String, seed: u64, books: Arc<Seen>, stop: Arc<AtomicBool>) {
    let mut dice = Dice(seed);
    client.execute("select fn_queue_heartbeat_register($1, 'PG_worker')", &[&name]).await.unwrap();
    while !stop.load(Ordering::Relaxed) {
        let limit = i32::try_from(1 + dice.roll(4)).unwrap();
        let claim = "select job_id, lease_token from fn_job_claim($1, $2, 1) where not refused";
        for job in client.query(claim, &[&name, &limit]).await.unwrap() {
            let (id, token): (Uuid, i64) = (job.get(0), job.get(1));
            books.leases.lock().unwrap().push((id, token));
            let call = match dice.roll(12) {
                0..=4 => "fn_job_succeed($1, $2)",
                5 => "fn_job_fail_transient($1, $2, 'may pass')",
                6 => "fn_job_fail_permanent($1, $2, 'will not pass')",
                7 => "fn_job_release($1, $2)",
                8 => "fn_job_snooze($1, $2, clock_timestamp() + interval '20 milliseconds')",
                9 => "fn_job_renew($1, $2, 1)", // and then silence
                10 => "fn_job_start($1, $2)",
                _ => continue, // killed
            };
            let answer =
                client.query_one(&format!("select {call} ->> 'refused'"), &[&id, &token]).await.unwrap();
            if call.starts_with("fn_job_succeed") && answer.get::<_, String>(0) == "false" {
                *books.successes.lock().unwrap().entry(id).or_default() += 1;
            }
        }
    }
}

/// Somebody who does the same thing again and again.
async fn repeat(client: Client, call: &'static str, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        client.batch_execute(call).await.unwrap();
        tokio::task::yield_now().await;
    }
}

/// What others do meanwhile, some of it now and then: the pauses set the pace, nothing waits for them. A lease of a second
/// that nobody reports on ends at once.
const OTHERS: [&str; 10] = [
    "select fn_job_lease_reaper(10, 'one')",
    "select fn_job_lease_reaper(10, 'two')",
    "update job_queue set lease_until = clock_timestamp() where job_id in (
       select job_id from job_queue where lease_until is not null and picked_at < clock_timestamp() - interval '50 milliseconds'
       limit 3 for update skip locked)",
    "select fn_job_cancel(job_id, 'operator', 'unwanted') from job_queue tablesample bernoulli (1)
       where status not in ('succeeded', 'cancelled') limit 1; select pg_sleep(0.2)",
    "select fn_job_take_back(job_id, 'operator', 'at once') from job_queue where lease_until is not null limit 1; select pg_sleep(0.05)",
    "select fn_job_dead_letter_triage(dead_letter_id, 'manual_replay', 'operator') from job_dead_letter where triage_status = 'open' limit 5;
     select fn_job_dead_letter_redrive('{}', 'ticket', 5, 1000, false)",
    "select fn_job_dead_letter_triage(dead_letter_id, 'discarded', 'other') from job_dead_letter
       where triage_status = 'open' and random() < 0.1 limit 1; select pg_sleep(0.05)",
    "select fn_pause('job_kind', 'limited', 'operator', 'a while'); select pg_sleep(0.05);
     select fn_resume('job_kind', 'limited', 'operator', 'enough'); select pg_sleep(0.1)",
    "select fn_job_archive(50, false)",
    "select count(*) from v_queue_health; select count(*) from v_job_queue_backlog; select count(*) from v_ordering_blocked",
];

async fn prepare(stage: &Stage) {
    stage.open_reaper().await;
    for (key, value) in [
        ("queue.retry.default.backoff_seconds", "0.01"),
        ("queue.retry.default.max_attempts", "3"),
        ("queue.dlq.replay_enabled", "true"),
        ("job.limited.concurrency_limit", "2"),
        ("queue.archive.enabled", "true"),
        ("queue.archive.after_seconds", "0"),
    ] {
        stage.set(key, value).await;
    }
    let fill = "insert into job_queue (job_kind, actor, idempotency_key, ordering_key, priority)
        select (array['plain', 'limited', 'keyed', 'plain'])[1 + n % 4], 'test', n::text,
               case when n % 4 = 2 then 'k' || n % $2 end, 100 + n % 3
        from generate_series(1, $1::int) n";
    stage.client.execute(fill, &[&JOBS, &KEYS]).await.unwrap();
}

#[tokio::test]
async fn nothing_is_lost_done_twice_or_deadlocked_in_an_hour_of_accidents() {
    let stage = Stage::open().await;
    prepare(&stage).await;
    let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for worker in 0..4_u64 {
        let client = stage.db.client().await;
        tasks.spawn(work(client, format!("worker-{worker}"), worker + 1, seen.clone(), stop.clone()));
    }
    for call in OTHERS {
        tasks.spawn(repeat(stage.db.client().await, call, stop.clone()));
    }
    let open = "select count(*) from job_queue j where j.status not in ('succeeded', 'cancelled')
        and not (j.status = 'dead_letter' and exists (
          select from job_dead_letter d where d.job_id = j.job_id and d.triage_status = 'discarded' and d.replayed_at is null))";
    wait_until("every job to come to its end", std::time::Duration::from_secs(90), async || {
        assert!(!tasks.is_empty() && tasks.try_join_next().is_none(), "somebody ended: an error, see above");
        stage.value(open, &[]).await == 0
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    settled(&stage, &seen).await;
}

/// All jobs, here or in the archive.
const ALL: &str = "with job as (
      select job_id, ordering_key, status, picked_at, finished_at from job_queue
      union all select job_id, ordering_key, status, picked_at, finished_at from job_archive)";

/// The books are in order.
async fn settled(stage: &Stage, seen: &Seen) {
    assert_eq!(stage.value(&format!("{ALL} select count(*) from job"), &[]).await, JOBS);
    let succeeded = format!("{ALL} select job_id from job where status = 'succeeded'");
    let succeeded = stage.client.query(&succeeded, &[]).await.unwrap();
    let succeeded: BTreeMap<Uuid, usize> = succeeded.iter().map(|row| (row.get(0), 1)).collect();
    assert!(*seen.successes.lock().unwrap() == succeeded, "each success was taken once, and stands");
    let ended = "select job_id, lease_token from job_attempt
        union all select job_id, lease_token from job_queue where status = 'succeeded'
        union all select a.job_id, (h ->> 'lease_token')::bigint from job_archive a, jsonb_array_elements(a.history) h";
    let ended = stage.client.query(ended, &[]).await.unwrap();
    let ended: Vec<(Uuid, i64)> = ended.iter().map(|row| (row.get(0), row.get(1))).collect();
    let leases: BTreeSet<(Uuid, i64)> = seen.leases.lock().unwrap().iter().copied().collect();
    assert_eq!(ended.len(), leases.len(), "each lease has one end");
    assert!(ended.into_iter().collect::<BTreeSet<_>>() == leases, "no end is without its lease");
    let overlap = format!(
        "{ALL} select count(*) from job a join job b
         on a.ordering_key = b.ordering_key and a.job_id < b.job_id and a.status = 'succeeded' and b.status = 'succeeded'
         and a.picked_at < b.finished_at and b.picked_at < a.finished_at"
    );
    assert_eq!(stage.value(&overlap, &[]).await, 0, "one of a key at a time");
    let waiting =
        "select count(*) from job_queue where ordering_slot = 0 and status in ('queued', 'retry_waiting')";
    assert_eq!(stage.value(waiting, &[]).await, 0, "no key was forgotten");
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(stage.value(deadlocks, &[]).await, 0);
}
