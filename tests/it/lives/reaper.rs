//! Leases that end unreported.

use std::time::Duration;

use serde_json::{Value, json};

use super::stage::Stage;
use crate::support::{Program, SOON, Sidecar, polling, wait_until};

#[tokio::test]
async fn the_reaper_only_tells_until_both_gates_are_open() {
    let stage = Stage::open().await;
    let id = stage.enqueue("any").await;
    stage.claim().await;
    assert_eq!(stage.reap().await["found"], 0, "a lease that lives is left alone");
    stage.leases_end().await;
    let before = stage.job(id).await;
    let dry = stage.reap().await;
    assert_eq!((&dry["dry_run"], &dry["found"], &dry["dead_lettered"]), (&json!(true), &json!(1), &json!(0)));
    assert_eq!(dry["jobs"][0]["status"], "queued", "what it would do");
    let force = "select fn_job_lease_reaper(p_dry_run => false)";
    assert_eq!(stage.value(force, &[]).await["reason"], "reaper_disabled");
    stage.set("queue.lease_reaper.enabled", "true").await;
    assert_eq!(stage.reap().await["dry_run"], true, "one of two gates");
    assert_eq!(stage.value(force, &[]).await["reason"], "reaper_disabled");
    assert_eq!(stage.job(id).await, before);
    stage.set("queue.lease_reaper.dry_run_only", "false").await;
    assert_eq!(stage.value("select fn_job_lease_reaper(p_dry_run => true)", &[]).await, dry);
    assert_eq!(stage.job(id).await, before);
    let done = stage.reap().await;
    assert_eq!((&done["dry_run"], &done["jobs"]), (&json!(false), &dry["jobs"]), "the same numbers");
    assert_eq!(stage.job(id).await["status"], "queued");
}

#[tokio::test]
async fn no_callers_clock_ends_a_lease_that_lives() {
    let stage = Stage::open().await;
    stage.open_reaper().await;
    let id = stage.enqueue("any").await;
    stage.claim().await;
    for now in ["infinity", "2999-01-01"] {
        let reap = format!("select fn_job_lease_reaper(p_now => '{now}')");
        assert_eq!(stage.value(&reap, &[]).await["found"], 0, "{now}");
    }
    assert_eq!(stage.job(id).await["status"], "leased");
    let error = stage.client.batch_execute("select fn_job_lease_reaper(0)").await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("p_limit"));
}

#[tokio::test]
async fn a_job_that_cannot_be_freed_holds_up_no_other() {
    let stage = Stage::open().await;
    stage.open_reaper().await;
    let bad = stage.enqueue("any").await;
    stage.claim().await;
    let good = stage.enqueue("any").await;
    stage.claim().await;
    stage.leases_end().await;
    let poison = format!(
        "create function refuse() returns trigger language plpgsql as 'begin raise exception ''no''; end';
         create trigger refuse before insert on job_attempt for each row when (new.job_id = '{bad}') execute function refuse()"
    );
    stage.client.batch_execute(&poison).await.unwrap();
    let reaped = stage.reap().await;
    assert_eq!((&reaped["found"], &reaped["failed"]), (&json!(2), &json!(1)));
    assert_eq!(reaped["jobs"][0]["error"], "no", "it says why");
    assert_eq!(
        (&stage.job(bad).await["status"], &stage.job(good).await["status"]),
        (&json!("leased"), &json!("queued"))
    );
}

#[tokio::test]
async fn more_jobs_that_cannot_be_freed_than_a_batch_holds_hold_up_no_other() {
    let stage = Stage::open().await;
    stage.open_reaper().await;
    let poison = "
        select fn_job_enqueue('bad', 'test') from generate_series(1, 70);
        create function refuse() returns trigger language plpgsql as
          'begin if (select job_kind from job_queue j where j.job_id = new.job_id) = ''bad'' then raise exception ''no''; end if; return new; end';
        create trigger refuse before insert on job_attempt for each row execute function refuse()";
    stage.client.batch_execute(poison).await.unwrap();
    let good = stage.enqueue("good").await;
    stage.client.batch_execute("select count(*) from fn_job_claim('one', 100)").await.unwrap();
    let end = "update job_queue set lease_until = clock_timestamp() - case job_kind when 'bad' then interval '1 hour' else '1 second' end";
    stage.client.batch_execute(end).await.unwrap();
    let mut settings = polling(&stage.db);
    settings.maintenance.reap_interval = Duration::from_secs(1);
    let sidecar = Sidecar::start(settings);
    wait_until("the good one is queued", SOON, async || stage.job(good).await["status"] == "queued").await;
    sidecar.stop().await;
}

#[tokio::test]
async fn an_operator_takes_a_job_from_its_worker() {
    let stage = Stage::open().await;
    let id = stage.enqueue("any").await;
    let token = stage.claim().await;
    let role = format!("operator_{}", uuid::Uuid::new_v4().simple());
    let become_operator =
        format!("create role {role} in role reveille_operator; set session authorization {role}");
    stage.client.batch_execute(&become_operator).await.unwrap();
    let take = "select fn_job_take_back($1, 'test', 'its host is gone')";
    assert_eq!(stage.value(take, &[&id]).await["status"], "queued");
    assert_eq!(stage.value(take, &[&id]).await["reason"], "illegal_transition");
    stage.client.batch_execute(&format!("reset session authorization; drop role {role}")).await.unwrap();
    assert_eq!(stage.value("select fn_job_succeed($1, $2)", &[&id, &token]).await["reason"], "lease_lost");
    assert_eq!(stage.outcomes(id).await, json!(["released"]));
}

#[tokio::test]
async fn a_lost_lease_is_no_failure_and_the_first_workers_report_comes_too_late() {
    let stage = Stage::open().await;
    stage.open_reaper().await;
    let id = stage.enqueue("any").await;
    let old = stage.claim().await;
    stage.leases_end().await;
    stage.reap().await;
    let job = stage.job(id).await;
    assert_eq!(
        (&job["attempts"], &job["error_count"], &job["lease_losses"]),
        (&json!(0), &json!(0), &json!(1))
    );
    assert_eq!(stage.outcomes(id).await, json!(["lease_lost"]));
    stage.time_passes().await;
    let new = stage.claim().await;
    let late = stage.value("select fn_job_succeed($1, $2)", &[&id, &old]).await;
    assert_eq!(late["reason"], "lease_lost");
    assert_eq!(stage.value("select fn_job_succeed($1, $2)", &[&id, &new]).await["refused"], false);
}

#[tokio::test]
async fn a_job_that_kills_its_workers_ends_in_the_dead_letters() {
    let stage = Stage::open().await;
    stage.open_reaper().await;
    let id = stage.enqueue("any").await;
    for status in ["queued", "queued", "dead_letter"] {
        stage.claim().await;
        stage.leases_end().await;
        let reaped = stage.reap().await;
        assert_eq!(reaped["jobs"][0]["status"], status, "{reaped}");
        stage.time_passes().await;
    }
    let letter = stage.value("select to_jsonb(d) from job_dead_letter d", &[]).await;
    assert_eq!((&letter["reason_class"], &letter["job_id"]), (&json!("lease_lost"), &json!(id)));
    assert_eq!(letter["attempts"].as_array().unwrap().len(), 3);
    assert_eq!(stage.job(id).await["attempts"], 0, "it never failed");
    assert_eq!(stage.reap().await["found"], 0);
}

#[tokio::test]
async fn a_row_that_somebody_has_locked_holds_up_no_other() {
    let stage = Stage::open().await;
    stage.open_reaper().await;
    let stuck = stage.enqueue("any").await;
    stage.claim().await;
    let other = stage.enqueue("any").await;
    stage.claim().await;
    stage.leases_end().await;
    let holder = stage.db.client().await;
    let lock = format!("begin; select from job_queue where job_id = '{stuck}' for update");
    holder.batch_execute(&lock).await.unwrap();
    assert_eq!(stage.reap().await["found"], 1);
    assert_eq!(stage.job(other).await["status"], "queued");
    assert_eq!(stage.job(stuck).await["status"], "leased");
    holder.batch_execute("rollback").await.unwrap();
    assert_eq!(stage.reap().await["found"], 1);
}

#[tokio::test]
async fn a_cancelled_run_whose_worker_went_away_is_cancelled() {
    let stage = Stage::open().await;
    stage.open_reaper().await;
    let id = stage.enqueue("any").await;
    stage.claim().await;
    stage.value("select fn_job_cancel($1, 'test', 'test')", &[&id]).await;
    stage.leases_end().await;
    assert_eq!(stage.reap().await["jobs"][0]["status"], "cancelled");
}

#[tokio::test]
async fn closed_gates_strand_no_leased_job() {
    let stage = Stage::open().await;
    stage.open_reaper().await;
    let id = stage.enqueue("any").await;
    stage.claim().await;
    stage.leases_end().await;
    for gate in ["queue.worker.enabled", "queue.job_substrate.enabled"] {
        stage.set(gate, "false").await;
    }
    assert_eq!(stage.reap().await["found"], 1);
    assert_eq!(stage.job(id).await["status"], "queued");
}

#[tokio::test]
async fn the_sidecar_reaps() {
    let stage = Stage::open().await;
    stage.open_reaper().await;
    let id = stage.enqueue("any").await;
    stage.claim().await;
    stage.leases_end().await;
    let mut settings = polling(&stage.db);
    settings.maintenance.reap_interval = Duration::from_secs(1);
    let sidecar = Sidecar::start(settings);
    wait_until("the job is queued", SOON, async || stage.job(id).await["status"] == "queued").await;
    sidecar.stop().await;
}

#[tokio::test]
async fn the_job_of_a_killed_worker_is_run_by_the_next_one() {
    let stage = Stage::open().await;
    stage.open_reaper().await;
    stage.set("queue.lease.duration_sec", "1").await;
    stage.set("job.any.backoff_seconds", "0").await;
    let handler = "create table gone (pid int);
        create function any_job(p_job jsonb) returns jsonb language plpgsql as
          $$ begin perform pg_advisory_xact_lock(7); insert into gone values (1); return '{}'; end $$;
        insert into job_handler (job_kind, handler) values ('any', 'any_job(jsonb)');
        select pg_advisory_lock(7)";
    stage.client.batch_execute(handler).await.unwrap();
    let id = stage.enqueue("any").await;
    let worker = || Program::start(&stage.db.url(), &["work", "--poll-only"], &[]);
    let first = worker();
    wait_until("it runs", SOON, async || stage.job(id).await["status"] == "in_progress").await;
    first.signal("KILL");
    first.ends().await;
    let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and application_name like 'reveille/worker%'";
    stage.value(kill, &[]).await;
    wait_until("its lease has ended and was reaped", SOON, async || {
        stage.reap().await["found"].as_i64() == Some(1)
    })
    .await;
    stage.client.batch_execute("select pg_advisory_unlock(7)").await.unwrap();
    let second = worker();
    wait_until("it has succeeded", SOON, async || stage.job(id).await["status"] == "succeeded").await;
    assert_eq!(stage.value("select count(*) from gone", &[]).await, 1);
    assert_eq!(stage.outcomes(id).await, json!(["lease_lost"]));
    assert_eq!(second.stops().await.code, Some(0));
}

#[tokio::test]
async fn a_tick_reaps_too() {
    let stage = Stage::open().await;
    stage.open_reaper().await;
    stage.enqueue("any").await;
    stage.claim().await;
    stage.leases_end().await;
    let ended = Program::start(&stage.db.url(), &["tick", "--json"], &[]).ends().await;
    let told: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((ended.code, &told["reaped"]["found"]), (Some(0), &json!(1)), "{told}");
}
