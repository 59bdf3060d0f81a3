//! Workers killed with SIGKILL, and sessions cut by the server, in the middle of the ends of steps: what an end frees is never seen
//! apart from it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_postgres::error::SqlState;

use super::stage::{Stage, edge, node};
use crate::support::{Dice, Program, SOON, Sidecar, polling, wait_for, wait_until};

/// Workflows, and steps between the first one and the last one of each.
const WORKFLOWS: usize = 12;
const BETWEEN: usize = 4;
/// Workers killed, at most: while there are ends on their way; and at least, or it has shown too little.
const KILLS: u32 = 30;
const ENOUGH: u32 = 12;

/// Begins and good ends of steps, as they are committed; a begin notes how many needed steps have not ended well. Every part of an
/// end takes a moment: the job, the edges, those that it frees, the workflow.
const WATCH: &str = "
    create table begun (job_id uuid, unmet bigint);
    create table ended (job_id uuid);
    create function watch() returns trigger language plpgsql set search_path from current as $$
    begin
      if tg_table_name = 'job_queue' then
        if new.status = 'leased' and old.status <> 'leased' then
          insert into begun
          select new.job_id, count(*) filter (where j.status <> 'succeeded')
          from job_dependency d join job_queue j on j.job_id = d.needs_job_id where d.job_id = new.job_id;
          return null;
        elsif new.status = 'succeeded' and old.status <> 'succeeded' then
          insert into ended values (new.job_id);
        elsif new.blocked_by >= old.blocked_by then
          return null;
        end if;
      end if;
      perform pg_sleep(0.004);
      return null;
    end $$;
    create trigger watch after update on job_queue for each row execute function watch();
    create trigger watch after update on job_dependency for each row execute function watch();
    create trigger watch after update on job_workflow for each row execute function watch()";

/// One step, then several at the same time, twice, then one that needs all of those.
async fn diamonds(stage: &Stage) {
    let mut nodes = vec![node("first")];
    let mut edges = Vec::new();
    for n in 0..BETWEEN {
        let (early, late) = (format!("early{n}"), format!("late{n}"));
        nodes.extend([node(&early), node(&late)]);
        edges.extend([edge("first", &early), edge(&late, "last")]);
        edges.extend((0..BETWEEN).map(|other| edge(&format!("early{other}"), &late)));
    }
    nodes.push(node("last"));
    assert_eq!(stage.put("diamond", json!(nodes), json!(edges)).await["refused"], false);
    for _ in 0..WORKFLOWS {
        stage.emit("diamond", json!({})).await;
    }
}

fn worker(stage: &Stage) -> Program {
    Program::start(&stage.db.url(), &["work"], &[("REVEILLE__WORKER__POLL_INTERVAL", "100ms")])
}

/// Waits until some end is on its way; false when all are over.
async fn an_end_is_on_its_way(stage: &Stage) -> bool {
    wait_for("an end is on its way", SOON, async || {
        let over = "select not exists (select from job_workflow where status = 'active')";
        let now = "select exists (select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep')";
        if stage.value(over, &[]).await == true {
            return Some(false);
        }
        (stage.value(now, &[]).await == true).then_some(true)
    })
    .await
}

#[tokio::test]
async fn workers_killed_in_the_middle_of_ends_leave_every_workflow_to_end_well_and_every_step_to_end_once() {
    let stage = Stage::open().await;
    let settings = "
        select fn_gate_set(k, v, 'test', 'test') from (values ('queue.lease.duration_sec', '1'), ('queue.lease_reaper.enabled', 'true'),
          ('queue.lease_reaper.dry_run_only', 'false'), ('job.a.a.max_lease_losses', '1000')) g (k, v)";
    stage.client.batch_execute(settings).await.unwrap();
    diamonds(&stage).await;
    stage.client.batch_execute(WATCH).await.unwrap();
    let mut keeper = polling(&stage.db);
    keeper.maintenance.reap_interval = Duration::from_millis(100);
    let reaper = Sidecar::start(keeper);
    let mut dice = Dice(7);
    let mut workers = vec![worker(&stage), worker(&stage)];
    let mut kills = 0;
    while kills < KILLS && an_end_is_on_its_way(&stage).await {
        kills += 1;
        sleep(Duration::from_millis(dice.roll(12))).await; // and anywhere within it
        let killed = workers.remove(0);
        killed.signal("KILL");
        if dice.roll(2) == 0 {
            // the server notices at once, in whatever statement; else what was sent is done, and nobody hears of it
            let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and application_name like 'reveille/worker%'";
            stage.value(cut, &[]).await;
        }
        assert_eq!(killed.ends().await.code, None, "killed by the signal");
        workers.push(worker(&stage));
    }
    assert!(kills >= ENOUGH, "{kills} kills");
    wait_until("every workflow has succeeded", SOON * 3, async || {
        stage.value("select bool_and(status = 'succeeded') from job_workflow", &[]).await == true
    })
    .await;
    for worker in workers {
        worker.stops().await;
    }
    reaper.stop().await;
    let steps = i64::try_from(WORKFLOWS * (2 * BETWEEN + 2)).unwrap();
    let sound = "select jsonb_build_object(
        'succeeded', (select count(*) from job_queue where status = 'succeeded' and blocked_by = 0),
        'ends', (select count(*) from ended), 'ended', (select count(distinct job_id) from ended),
        'begun', (select count(distinct job_id) from begun), 'too early', (select count(*) from begun where unmet > 0),
        'edges not met', (select count(*) from job_dependency where state is distinct from 'met'))";
    let all = json!({"succeeded": steps, "ends": steps, "ended": steps, "begun": steps, "too early": 0, "edges not met": 0});
    assert_eq!(stage.value(sound, &[]).await, all);
    let lost = stage.value("select count(*) from job_attempt where outcome = 'lease_lost'", &[]).await;
    assert!(lost.as_i64().unwrap() > 0, "some were killed with a lease");
}

/// What there is of a workflow, but for the moments.
const ALL_OF_IT: &str = "select jsonb_build_object(
    'jobs', (select jsonb_object_agg(substr(idempotency_key, 38), array[status::text, blocked_by::text, lease_token::text]) from job_queue),
    'edges', (select jsonb_object_agg(needs_job_id::text || job_id, state) from job_dependency),
    'workflow', (select jsonb_agg(status) from job_workflow))";

/// Where an end can be made to wait for an advisory lock: behind each statement that it writes with.
const PLACES: &str = "
    create function wait_here() returns trigger language plpgsql as $$
    begin
      perform pg_advisory_xact_lock_shared(tg_argv[0]::int) ;
      return null;
    end $$;
    create trigger place1 after update of status on job_queue for each row when (new.status = 'succeeded') execute function wait_here(1);
    create trigger place2 after update on job_dependency for each statement execute function wait_here(2);
    create trigger place3 after update of blocked_by on job_queue for each row when (new.blocked_by < old.blocked_by) execute function wait_here(3);
    create trigger place4 after update on job_workflow for each statement execute function wait_here(4)";

#[tokio::test]
async fn a_session_that_is_cut_in_the_middle_of_fn_job_succeed_many_has_ended_and_freed_nothing() {
    let stage = Stage::open().await;
    let nodes = json!([node("a"), node("b"), node("c"), node("needs_all"), node("needs_two"), node("alone")]);
    let edges = json!([
        edge("a", "needs_all"),
        edge("b", "needs_all"),
        edge("c", "needs_all"),
        edge("a", "needs_two"),
        edge("b", "needs_two")
    ]);
    stage.put("t", nodes, edges).await;
    let id = stage.emit("t", json!({})).await;
    stage.client.batch_execute(PLACES).await.unwrap();
    let jobs = stage.claim("one", 10).await;
    let (ids, tokens): (Vec<_>, Vec<_>) = jobs.iter().map(|job| (job.id, job.token)).unzip();
    assert_eq!(jobs.len(), 4);
    let before = stage.value(ALL_OF_IT, &[]).await;
    // the workflow's own row is written when its last steps end: see below
    for place in 1..=3_i64 {
        cut_at(&stage, place, (ids.clone(), tokens.clone())).await;
        assert_eq!(stage.value(ALL_OF_IT, &[]).await, before, "cut at place {place}");
    }
    end_many(&stage, &ids, &tokens).await;
    let last = stage.claim("two", 10).await;
    assert_eq!(last.len(), 2, "{last:?}");
    let (ids, tokens): (Vec<_>, Vec<_>) = last.iter().map(|job| (job.id, job.token)).unzip();
    let before = stage.value(ALL_OF_IT, &[]).await;
    for place in [1, 4] {
        cut_at(&stage, place, (ids.clone(), tokens.clone())).await;
        assert_eq!(stage.value(ALL_OF_IT, &[]).await, before, "cut at place {place}");
    }
    end_many(&stage, &ids, &tokens).await;
    assert_eq!(stage.status(id).await, "succeeded");
}

const END_MANY: &str = "select fn_job_succeed_many($1, $2)";

async fn end_many(stage: &Stage, ids: &[uuid::Uuid], tokens: &[i64]) {
    let answer = stage.value(END_MANY, &[&ids, &tokens]).await;
    assert_eq!(answer["succeeded"], ids.len(), "{answer}");
}

/// Ends these jobs in a session of its own, and cuts that while it waits at a place.
async fn cut_at(stage: &Stage, place: i64, (ids, tokens): (Vec<uuid::Uuid>, Vec<i64>)) {
    stage.value("select count(pg_advisory_lock($1))", &[&place]).await;
    let other = stage.db.client().await;
    let pid: i32 = other.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let end = tokio::spawn(async move { other.query_one(END_MANY, &[&ids, &tokens]).await.map(drop) });
    let waits =
        "select exists (select from pg_locks where pid = $1 and locktype = 'advisory' and not granted)";
    wait_until("it is in the middle of the end", SOON, async || stage.value(waits, &[&pid]).await == true)
        .await;
    assert_eq!(stage.value("select pg_terminate_backend($1)", &[&pid]).await, Value::Bool(true));
    let error = end.await.unwrap().unwrap_err();
    assert!(error.code() == Some(&SqlState::ADMIN_SHUTDOWN) || error.is_closed(), "{error}");
    wait_until("the session is gone", SOON, async || {
        let there = "select exists (select from pg_stat_activity where pid = $1)";
        stage.value(there, &[&pid]).await == false
    })
    .await;
    stage.value("select pg_advisory_unlock($1)", &[&place]).await;
}
