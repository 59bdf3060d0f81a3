//! Jobs that are SQL functions.

use reveille::work::Handlers;
use serde_json::Value;

use super::shop::Shop;
use crate::cli::{output, reveille};
use crate::commands::json;
use crate::support::{SOON, wait_until};
use crate::tracing::PARENT;

const EFFECT: &str = "insert into effect values ((p_job ->> 'job_id')::uuid, p_job ->> 'source_ref');";

#[tokio::test]
async fn effect_and_completion_are_one_transaction() {
    let shop = Shop::open().await;
    shop.handler("effect", &format!("{EFFECT} return '{{\"result_ref\": \"effect:1\"}}';")).await;
    let id = shop.enqueue("effect").await;
    let counts = shop.run_once().await.unwrap();
    assert_eq!((counts.claimed, counts.succeeded), (1, 1));
    let job = shop.job(id).await;
    assert_eq!((&job["status"], &job["result_ref"]), (&"succeeded".into(), &"effect:1".into()));
    let same = "select e.xmin = j.xmin from effect e join job_queue j using (job_id)";
    assert!(shop.client.query_one(same, &[]).await.unwrap().get::<_, bool>(0), "two transactions");
}

#[tokio::test]
async fn the_effect_of_a_failure_is_undone() {
    let shop = Shop::open().await;
    shop.handler("half", &format!("{EFFECT} raise exception 'half way';")).await;
    let id = shop.enqueue("half").await;
    assert_eq!(shop.run_once().await.unwrap().failed_transient, 1);
    let job = shop.job(id).await;
    assert_eq!((&job["status"], &job["attempts"]), (&"retry_waiting".into(), &1.into()));
    assert_eq!(job["last_error"], "half way (SQLSTATE P0001)");
    assert_eq!(shop.effects().await, 0);
}

#[tokio::test]
async fn sqlstate_decides_whether_a_failure_is_tried_again() {
    let shop = Shop::open().await;
    shop.handler("raise", "raise exception 'x' using errcode = p_job ->> 'source_ref';").await;
    let permanent = ["0A000", "21000", "22012", "23505", "2BP01", "42601", "44000"];
    // the last three are what a deployment of the host brings in a moment
    let transient =
        ["P0001", "40001", "40P01", "53100", "55P03", "57014", "58030", "XX000", "42501", "42883", "42P01"];
    for state in permanent.iter().chain(&transient) {
        shop.value("select fn_job_enqueue('raise', 'test', p_source_ref => $1)", &[state]).await;
    }
    shop.run_once().await.unwrap();
    let rows = shop.client.query("select source_ref, status from job_queue", &[]).await.unwrap();
    assert_eq!(rows.len(), permanent.len() + transient.len());
    for row in rows {
        let (state, status): (&str, &str) = (row.get(0), row.get(1));
        let expected = if permanent.contains(&state) { "dead_letter" } else { "retry_waiting" };
        assert_eq!(status, expected, "{state}");
    }
}

#[tokio::test]
async fn a_refusal_in_the_answer_is_permanent_and_undoes_the_effect() {
    let shop = Shop::open().await;
    let body = format!("{EFFECT} return '{{\"refused\": true, \"reason\": \"not_approved\"}}';");
    shop.handler("refuse", &body).await;
    let id = shop.enqueue("refuse").await;
    assert_eq!(shop.run_once().await.unwrap().failed_permanent, 1);
    let job = shop.job(id).await;
    assert_eq!(job["status"], "dead_letter");
    assert!(job["last_error"].as_str().unwrap().contains("not_approved"), "{job}");
    assert_eq!(shop.effects().await, 0);
}

#[tokio::test]
async fn a_run_over_its_kinds_time_limit_is_stopped_and_the_next_on_its_connection_is_not() {
    let shop = Shop::open().await;
    shop.handler("long", &format!("{EFFECT} perform pg_sleep(60); return '{{}}';")).await;
    shop.handler("longer_than_that_limit", "perform pg_sleep(0.5); return '{}';").await;
    shop.set("job.long.time_limit_seconds", "0.2").await;
    let long = shop.enqueue("long").await;
    let after = shop.enqueue("longer_than_that_limit").await;
    let mut settings = shop.settings();
    settings.worker.concurrency = 1;
    let worker = shop.start(&settings, Handlers::new().with_sql()).await;
    let job = shop.wait_for_status(long, "retry_waiting").await;
    assert_eq!(job["last_error"], "time limit of 200ms is over");
    shop.wait_for_status(after, "succeeded").await;
    assert_eq!(shop.effects().await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn a_long_run_shows_as_in_progress_while_it_runs() {
    let shop = Shop::open().await;
    shop.handler("hold", "perform pg_advisory_xact_lock(7); return '{}';").await;
    shop.client.batch_execute("select pg_advisory_lock(7)").await.unwrap();
    let worker = shop.start(&shop.settings(), Handlers::new().with_sql()).await;
    let id = shop.enqueue("hold").await;
    let job = shop.wait_for_status(id, "in_progress").await;
    assert_eq!(job["lease_owner"], "worker-1");
    shop.client.batch_execute("select pg_advisory_unlock(7)").await.unwrap();
    shop.wait_for_status(id, "succeeded").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_job_without_a_handler_waits_and_runs_as_soon_as_there_is_one() {
    let shop = Shop::open().await;
    shop.handler("known", "return '{}';").await;
    let later = shop.enqueue("later").await;
    let worker = shop.start(&shop.settings(), Handlers::new().with_sql()).await;
    let known = shop.enqueue("known").await;
    shop.wait_for_status(known, "succeeded").await;
    let job = shop.job(later).await;
    assert_eq!((&job["status"], &job["attempts"]), (&"queued".into(), &0.into()));
    shop.handler("later", "return '{}';").await;
    shop.wait_for_status(later, "succeeded").await;
    worker.stop().await;
}

#[tokio::test]
async fn only_the_kinds_asked_for_are_claimed() {
    let shop = Shop::open().await;
    shop.handler("mine", "return '{}';").await;
    shop.handler("others", "return '{}';").await;
    let (others, mine) = (shop.enqueue("others").await, shop.enqueue("mine").await);
    let mut settings = shop.settings();
    settings.worker.job_kinds = vec!["mine".to_owned()];
    let worker = shop.start(&settings, Handlers::new().with_sql()).await;
    shop.wait_for_status(mine, "succeeded").await;
    assert_eq!(shop.job(others).await["status"], "queued");
    worker.stop().await;
}

#[tokio::test]
async fn as_many_run_at_once_as_the_settings_say() {
    let shop = Shop::open().await;
    shop.handler("hold", "perform pg_advisory_xact_lock_shared(7); return '{}';").await;
    shop.client.batch_execute("select pg_advisory_lock(7)").await.unwrap();
    for _ in 0..6 {
        shop.enqueue("hold").await;
    }
    let mut settings = shop.settings();
    settings.worker.concurrency = 3;
    let worker = shop.start(&settings, Handlers::new().with_sql()).await;
    let waiting = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
        where d.datname = current_database() and l.locktype = 'advisory' and not l.granted";
    let count = async || shop.client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0);
    wait_until("three handlers wait", SOON, async || count().await == 3).await;
    shop.client.batch_execute("select pg_advisory_unlock(7)").await.unwrap();
    wait_until("all are done", SOON, async || shop.count("succeeded").await == 6).await;
    worker.stop().await;
}

#[tokio::test]
async fn once_runs_everything_that_is_ready_and_ends() {
    let shop = Shop::open().await;
    shop.handler("one", "perform fn_job_enqueue('two', 'one'); return '{}';").await;
    shop.handler("two", "return '{}';").await;
    for _ in 0..20 {
        shop.enqueue("one").await;
    }
    let mut command = reveille(&["work", "--once", "--executor-name", "cron", "--json"]);
    let (code, counts, log) = output(command.env("DATABASE_URL", shop.db.url()));
    assert_eq!(code, Some(0), "{log}");
    let counts: Value = serde_json::from_str(&counts).unwrap();
    assert_eq!(counts["succeeded"], 40, "{counts}");
    assert_eq!(shop.count("succeeded").await, 40);
    let expected = "select count(*) from queue_heartbeat";
    let expected: i64 = shop.client.query_one(expected, &[]).await.unwrap().get(0);
    assert_eq!(expected, 0, "nobody is expected to beat until the next run");
}

#[tokio::test]
async fn once_behind_a_closed_gate_is_refused() {
    let shop = Shop::open().await;
    shop.set("queue.worker.enabled", "false").await;
    assert_eq!(shop.run_once().await.unwrap_err().reason, "worker_disabled");
    let (code, answer, _) =
        output(reveille(&["work", "--once", "--json"]).env("DATABASE_URL", shop.db.url()));
    assert_eq!(code, Some(3));
    assert!(answer.contains("worker_disabled"), "{answer}");
    let names = "select count(*) from queue_heartbeat";
    let names: i64 = shop.client.query_one(names, &[]).await.unwrap().get(0);
    assert_eq!(names, 0, "nobody is expected to beat");
}

#[tokio::test]
async fn a_kind_of_executor_without_handlers_is_wrong_usage() {
    let shop = Shop::open().await;
    let (code, _, error) = json(&shop.db, &["work", "--kind", "Agent"]);
    assert_eq!(code, Some(2));
    assert!(error["error"]["hint"].as_str().unwrap().contains("PG_worker"), "{error}");
}

#[tokio::test]
async fn a_connection_whose_statement_was_cancelled_runs_no_other_job() {
    let shop = Shop::open().await;
    // a sequence keeps its value when the handler's transaction is undone
    shop.client.batch_execute("create sequence cancelled_in").await.unwrap();
    shop.handler("slow", "perform setval('cancelled_in', pg_backend_pid()), pg_sleep(60); return '{}';")
        .await;
    shop.handler("quick", "insert into effect values (null, pg_backend_pid()::text); return '{}';").await;
    let mut settings = shop.settings();
    settings.worker.concurrency = 1;
    settings.worker.lease = std::time::Duration::from_secs(1);
    let worker = shop.start(&settings, Handlers::new().with_sql()).await;
    let slow = shop.enqueue("slow").await;
    shop.wait_for_status(slow, "in_progress").await;
    let cancel =
        "update job_queue set status = 'cancelled', lease_until = null, finished_at = clock_timestamp()
        where job_id = $1";
    shop.client.execute(cancel, &[&slow]).await.unwrap();
    let quick = shop.enqueue("quick").await;
    shop.wait_for_status(quick, "succeeded").await;
    let same = "select (select note from effect) = (select last_value::text from cancelled_in)";
    assert!(!shop.client.query_one(same, &[]).await.unwrap().get::<_, bool>(0));
    worker.stop().await;
}

#[tokio::test]
async fn what_follows_in_the_transaction_of_a_run_belongs_to_the_callers_trace() {
    let shop = Shop::open().await;
    shop.handler(
        "traced",
        "return jsonb_build_object('result_ref', 'trace:' || current_setting('reveille.traceparent'));",
    )
    .await;
    let of_job = PARENT.replace("4bf9", "0000");
    for caller in [PARENT, ""] {
        let id = shop.enqueue("traced").await;
        shop.client
            .batch_execute(&format!(
                "begin; set local reveille.traceparent = '{caller}';
                 select fn_queue_heartbeat_register('traced', 'PG_worker')"
            ))
            .await
            .unwrap();
        let run = "select fn_job_run(c.job_id, c.lease_token, $1) from fn_job_claim('traced', 1) c";
        let done: Value = shop.client.query_one(run, &[&of_job]).await.unwrap().get(0);
        assert_eq!(done["refused"], false, "{done}");
        let left = "select current_setting('reveille.traceparent')";
        assert_eq!(shop.client.query_one(left, &[]).await.unwrap().get::<_, &str>(0), caller);
        shop.client.batch_execute("commit").await.unwrap();
        assert_eq!(shop.job(id).await["result_ref"], format!("trace:{of_job}"));
    }
}
