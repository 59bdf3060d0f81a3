//! Workers killed with SIGKILL at every point of a job's life: a lease is lost, never a job, and no effect comes twice.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::exec_stops::{all_are_gone, runs};
use super::shop::Shop;
use super::tools::Tools;
use crate::support::{Program, SOON, Sidecar, polling, wait_until};

/// Where a statement can be made to wait: numbers of advisory locks.
const CLAIM: i64 = 1;
const START: i64 = 2;
/// In the handler.
const BEFORE_EFFECT: i64 = 3;
const AFTER_EFFECT: i64 = 4;
const END: i64 = 5;

/// Each lease as it was given, and the places of the job's row where it can be made to wait.
const WATCH: &str = "
    create table given (job_id uuid, lease_token bigint, primary key (job_id, lease_token));
    create function watch() returns trigger language plpgsql set search_path from current as $$
    begin
      if new.lease_token is distinct from old.lease_token then
        insert into given values (new.job_id, new.lease_token);
        perform pg_advisory_xact_lock_shared(1);
      elsif new.status = 'in_progress' and old.status = 'leased' then
        perform pg_advisory_xact_lock_shared(2);
      elsif new.status = 'succeeded' then
        perform pg_advisory_xact_lock_shared(5);
      end if;
      return null;
    end $$;
    create trigger watch after update on job_queue for each row execute function watch()";

/// The effect is one row; it takes a moment before and after it.
const HANDLER: &str = "
    perform pg_sleep(0.01), pg_advisory_xact_lock_shared(3);
    insert into effect values ((p_job ->> 'job_id')::uuid, 'hit');
    perform pg_sleep(0.01), pg_advisory_xact_lock_shared(4);
    return '{}';";

/// What becomes of the statement that the killed worker had sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statement {
    /// It ends, and nobody hears how.
    GoesOn,
    /// It ends when its lease was reaped and somebody else has the job.
    ComesTooLate,
    /// The server notices that nobody is there any more.
    IsCut,
}

/// Statements that wait at the first of these points while their worker is killed.
const ROUNDS: [(&[i64], Statement); 12] = [
    (&[CLAIM], Statement::GoesOn),
    (&[CLAIM], Statement::IsCut),
    (&[START, BEFORE_EFFECT], Statement::GoesOn),
    (&[START, BEFORE_EFFECT], Statement::IsCut),
    (&[BEFORE_EFFECT], Statement::GoesOn),
    (&[BEFORE_EFFECT], Statement::ComesTooLate),
    (&[BEFORE_EFFECT], Statement::IsCut),
    (&[AFTER_EFFECT], Statement::GoesOn),
    (&[AFTER_EFFECT], Statement::ComesTooLate),
    (&[AFTER_EFFECT], Statement::IsCut),
    (&[END], Statement::GoesOn),
    (&[END], Statement::IsCut),
];

/// A shop with leases of a second, a reaper, and no pause before the next run.
async fn open(kind: &str) -> (Shop, Sidecar) {
    let shop = Shop::open().await;
    shop.set("queue.lease.duration_sec", "1").await;
    shop.set("queue.lease_reaper.enabled", "true").await;
    shop.set("queue.lease_reaper.dry_run_only", "false").await;
    shop.set(&format!("job.{kind}.backoff_seconds"), "0").await;
    shop.set(&format!("job.{kind}.max_lease_losses"), "1000").await;
    let mut settings = polling(&shop.db);
    settings.maintenance.reap_interval = Duration::from_millis(200);
    let reaper = Sidecar::start(settings);
    (shop, reaper)
}

fn worker(shop: &Shop, more: &[&str]) -> Program {
    let arguments: Vec<&str> = ["work"].iter().chain(more).copied().collect();
    Program::start(&shop.db.url(), &arguments, &[("REVEILLE__WORKER__POLL_INTERVAL", "200ms")])
}

async fn kill(worker: Program) {
    worker.signal("KILL");
    assert_eq!(worker.ends().await.code, None, "killed by the signal");
}

/// Kills a worker whose statement waits at the first of these points.
async fn kill_at(shop: &Shop, points: &[i64], statement: Statement) {
    let lock = "select count(pg_advisory_lock(point)) from unnest($1::bigint[]) point";
    shop.client.execute(lock, &[&points]).await.unwrap();
    for _ in 0..2 {
        shop.enqueue("hit").await;
    }
    let worker = worker(shop, &[]);
    let waits = "select exists (select from pg_locks l join pg_database d on d.oid = l.database
        where d.datname = current_database() and l.locktype = 'advisory' and not l.granted and l.objid::bigint = $1)";
    wait_until(&format!("a statement waits at {points:?}"), SOON, async || {
        shop.client.query_one(waits, &[&points[0]]).await.unwrap().get(0)
    })
    .await;
    kill(worker).await;
    let mut next = None;
    match statement {
        Statement::GoesOn => {}
        Statement::ComesTooLate => {
            let leased = "select exists (select from job_queue where lease_until is not null)";
            wait_until("its leases were reaped", SOON, async || {
                !shop.client.query_one(leased, &[]).await.unwrap().get::<_, bool>(0)
            })
            .await;
            next = Some(self::worker(shop, &[]));
            wait_until("they run again", SOON, async || shop.count("in_progress").await > 0).await;
        }
        Statement::IsCut => {
            let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and application_name like 'reveille/worker%'";
            wait_until("its sessions are gone", SOON, async || {
                shop.client.query_one(cut, &[]).await.unwrap().get::<_, i64>(0) == 0
            })
            .await;
        }
    }
    shop.client.batch_execute("select pg_advisory_unlock_all()").await.unwrap();
    if let Some(next) = next {
        kill(next).await;
    }
}

#[tokio::test]
async fn a_worker_killed_at_any_point_of_a_jobs_life_loses_leases_but_no_job_and_no_effect_comes_twice() {
    let (shop, reaper) = open("hit").await;
    shop.client.batch_execute(WATCH).await.unwrap();
    shop.handler("hit", HANDLER).await;
    for (points, statement) in ROUNDS {
        kill_at(&shop, points, statement).await;
    }
    // and wherever it happens to be, from its first millisecond on
    for moment in (1..=250).step_by(5) {
        shop.enqueue("hit").await;
        let worker = worker(&shop, &[]);
        sleep(Duration::from_millis(moment)).await;
        kill(worker).await;
    }
    shop.enqueue("hit").await; // the one job that only a worker who lives can end
    let last = worker(&shop, &[]);
    wait_until("all have succeeded", SOON, async || shop.count("succeeded").await == 75).await;
    last.stops().await;
    reaper.stop().await;
    every_job_and_every_lease_ended_once(&shop, 75).await;
}

async fn every_job_and_every_lease_ended_once(shop: &Shop, count: i64) {
    let jobs = "select jsonb_build_object(
          'jobs', count(*),
          'with one effect', count(*) filter (where 1 = (select count(*) from effect e where e.job_id = j.job_id)),
          'leased', count(j.lease_until),
          'failures', sum(j.attempts + j.error_count),
          'losses as told', bool_and(j.lease_losses = (select count(*) from job_attempt a where a.job_id = j.job_id)))
        from job_queue j";
    let sound =
        json!({"jobs": count, "with one effect": count, "leased": 0, "failures": 0, "losses as told": true});
    assert_eq!(shop.value(jobs, &[]).await, sound);
    let leases = "with ended as (
          select job_id, lease_token, outcome from job_attempt
          union all
          select job_id, lease_token, 'succeeded' from job_queue)
        select jsonb_build_object(
          'ends', (select jsonb_object_agg(outcome, n) from (select outcome, count(*) as n from ended group by 1) e),
          'given', (select count(*) from given),
          'ended once', (select count(*) from given g
            where 1 = (select count(*) from ended e where (e.job_id, e.lease_token) = (g.job_id, g.lease_token))))";
    let leases = shop.value(leases, &[]).await;
    let lost = leases["ends"]["lease_lost"].as_i64().unwrap();
    // of the claim that nobody heard of, of two runs that came too late, and of four that were cut
    assert!(lost >= 7, "{leases}");
    let given = lost + count;
    let all = json!({"ends": {"succeeded": count, "lease_lost": lost}, "given": given, "ended once": given});
    assert_eq!(leases, all);
}

/// Says who it is in the file 1, or 2 when it is the second, and goes on when it is let.
const SLOW: &str = "n=1; [ ! -e \"$DIR/1\" ] || n=2
    echo $$ > \"$DIR/$n\"
    while [ -d \"$DIR\" ] && [ ! -e \"$DIR/go$n\" ]; do sleep 0.02; done
    echo \"{\\\"result_ref\\\": \\\"run:$n\\\"}\"";

#[tokio::test]
async fn the_program_of_a_killed_worker_runs_on_and_its_late_end_changes_nothing() {
    let ((shop, reaper), tools) = (open("slow").await, Tools::new());
    let exec = format!("'{}'", tools.program("slow", SLOW));
    let id = shop.enqueue("slow").await;
    let start = || worker(&shop, &["--exec", &exec, "--job-kinds", "slow"]);
    let first = start();
    let early = tools.line("1").await;
    kill(first).await;
    let second = start();
    let late = tools.line("2").await;
    assert!(runs(&early) && runs(&late), "the job runs again beside what is left of its first run");
    let before = shop.wait_for_status(id, "in_progress").await;
    std::fs::write(tools.path("go1"), "").unwrap();
    all_are_gone(&[early]).await;
    let now = shop.job(id).await;
    assert_eq!((&now["status"], &now["lease_token"]), (&json!("in_progress"), &before["lease_token"]));
    std::fs::write(tools.path("go2"), "").unwrap();
    let done = shop.wait_for_status(id, "succeeded").await;
    assert_eq!((&done["result_ref"], &done["lease_token"]), (&json!("run:2"), &before["lease_token"]));
    assert_eq!((&done["attempts"], &done["lease_losses"]), (&json!(0), &json!(1)));
    second.stops().await;
    reaper.stop().await;
}

#[tokio::test]
async fn under_setpriv_a_program_dies_with_its_killed_worker() {
    let ((shop, reaper), tools) = (open("slow").await, Tools::new());
    let exec = format!("setpriv --pdeathsig KILL '{}'", tools.program("slow", SLOW));
    let id = shop.enqueue("slow").await;
    let start = || worker(&shop, &["--exec", &exec, "--job-kinds", "slow"]);
    let first = start();
    let early = tools.line("1").await;
    kill(first).await;
    all_are_gone(&[early]).await;
    std::fs::write(tools.path("go2"), "").unwrap();
    let second = start();
    assert_eq!(shop.wait_for_status(id, "succeeded").await["result_ref"], "run:2");
    second.stops().await;
    reaper.stop().await;
}
