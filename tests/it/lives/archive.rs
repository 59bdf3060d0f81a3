//! Finished jobs leave for the archive, and are as if they were there.

use reveille::error::Kind;
use reveille::postgres::Server;
use reveille::postgres::migrator::Migrator;
use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::Stage;
use crate::support::{Program, SOON, Sidecar, emit, polling, wait_until};

/// Whatever is finished is due.
pub(super) const ARCHIVE: &str =
    "select fn_job_archive(p_dry_run => false, p_now => clock_timestamp() + interval '2 hours')";

/// A stage whose archive is open.
pub(super) async fn open() -> Stage {
    let stage = Stage::open().await;
    stage.set("queue.archive.enabled", "true").await;
    stage
}

/// How many jobs left now.
pub(super) async fn archive(stage: &Stage) -> i64 {
    stage.value(ARCHIVE, &[]).await["archived"].as_i64().unwrap()
}

/// Runs the one job that is ready, well.
pub(super) async fn succeed(stage: &Stage, id: Uuid) -> i64 {
    let token = stage.claim().await;
    assert_eq!(stage.value("select fn_job_succeed($1, $2)", &[&id, &token]).await["refused"], false);
    token
}

/// A job with this key, that has run well and has left.
pub(super) async fn archived(stage: &Stage, key: &str) -> Uuid {
    let enqueued =
        stage.value("select fn_job_enqueue('any', 'test', p_idempotency_key => $1)", &[&key]).await;
    let id = enqueued["job_id"].as_str().unwrap().parse().unwrap();
    succeed(stage, id).await;
    assert_eq!(archive(stage).await, 1);
    id
}

/// What the program says with `--json`.
pub(super) async fn show(stage: &Stage, arguments: &[&str]) -> Value {
    let ended = Program::start(&stage.db.url(), arguments, &[]).ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    serde_json::from_str(&ended.out).unwrap()
}

#[tokio::test]
async fn a_finished_job_leaves_with_its_history_and_is_still_found() {
    let stage = open().await;
    let id = stage.enqueue("any").await;
    stage.fail(id, "not yet").await;
    stage.time_passes().await;
    let token = succeed(&stage, id).await;
    assert_eq!(
        stage.value("select fn_job_archive(p_dry_run => false)", &[]).await["found"],
        0,
        "it stays for an hour"
    );
    let before = stage.job(id).await;
    assert_eq!(archive(&stage).await, 1);
    let left =
        "select jsonb_build_array((select count(*) from job_queue), (select count(*) from job_attempt))";
    assert_eq!(stage.value(left, &[]).await, json!([0, 0]));
    let shown = show(&stage, &["jobs", "show", &id.to_string(), "--json"]).await;
    assert!(shown["archived_at"].is_string());
    for (column, value) in before.as_object().unwrap() {
        if !["claimable", "lane", "ordering_slot", "limit_slot", "lease_until"].contains(&column.as_str()) {
            assert_eq!(shown[column], *value, "{column}");
        }
    }
    let history = shown["history"].as_array().unwrap();
    let outcomes: Vec<_> = history.iter().map(|run| (&run["outcome"], &run["error"])).collect();
    assert_eq!(outcomes, [(&json!("transient"), &json!("not yet")), (&json!("succeeded"), &Value::Null)]);
    assert_eq!(history[1]["ended_at"], before["finished_at"]);
    let listed = show(&stage, &["jobs", "list", "--archived", "--status", "succeeded", "--json"]).await;
    assert_eq!((listed[0]["job_id"].clone(), listed.as_array().unwrap().len()), (json!(id), 1));
    // and calls about it are answered as before
    let again = "select fn_job_succeed($1, $2)";
    assert_eq!(stage.value(again, &[&id, &token]).await["refused"], false);
    assert_eq!(stage.value(again, &[&id, &1_i64]).await["reason"], "lease_lost");
    let cancel = stage.value("select fn_job_cancel($1, 'test', 'test')", &[&id]).await;
    assert_eq!((&cancel["reason"], &cancel["status"]), (&json!("illegal_transition"), &json!("succeeded")));
}

#[tokio::test]
async fn the_archive_keeps_every_column_of_a_job() {
    let stage = open().await;
    let lost = "
        select coalesce(jsonb_agg(q.attname), '[]') from pg_attribute q
        left join pg_attribute a on a.attrelid = 'job_archive'::regclass and a.attname = q.attname and a.atttypid = q.atttypid
        where q.attrelid = 'job_queue'::regclass and q.attnum > 0 and q.attgenerated = '' and not q.attisdropped
          and a.attname is null
          and q.attname <> all (array['lease_until', 'ordering_slot', 'freed_at', 'limit_slot'])"; // places among those that have not ended
    assert_eq!(stage.value(lost, &[]).await, json!([]));
}

#[tokio::test]
async fn until_its_gate_is_open_the_archiver_only_tells() {
    let stage = Stage::open().await;
    let id = stage.enqueue("any").await;
    succeed(&stage, id).await;
    stage.set("queue.archive.after_seconds", "0").await;
    let before = stage.job(id).await;
    assert_eq!(
        stage.value("select fn_job_archive(p_dry_run => false)", &[]).await["reason"],
        "archive_disabled"
    );
    for call in ["fn_job_archive()", "fn_job_archive(p_dry_run => null)"] {
        let told = stage.value(&format!("select {call}"), &[]).await;
        assert_eq!(
            (&told["dry_run"], &told["found"], &told["archived"]),
            (&json!(true), &json!(1), &json!(0))
        );
    }
    assert_eq!(stage.job(id).await, before);
    stage.set("queue.archive.enabled", "true").await;
    assert_eq!(
        stage.value("select fn_job_archive()", &[]).await["dry_run"],
        true,
        "unless it is told otherwise"
    );
    assert_eq!(stage.value("select fn_job_archive(p_dry_run => null)", &[]).await["archived"], 1);
}

#[tokio::test]
async fn a_dead_letters_job_stays_until_triage_has_closed_it_and_then_for_good() {
    let stage = open().await;
    stage.set("queue.retry.default.max_attempts", "1").await;
    let id = stage.enqueue("any").await;
    stage.fail(id, "boom").await;
    let letter: Uuid =
        stage.client.query_one("select dead_letter_id from job_dead_letter", &[]).await.unwrap().get(0);
    let triage = async |status: &str| {
        stage.value("select fn_job_dead_letter_triage($1, $2, 'test')", &[&letter, &status]).await
    };
    assert_eq!(archive(&stage).await, 0);
    for status in ["investigating", "discarded", "manual_replay"] {
        assert_eq!(triage(status).await["refused"], false);
        stage.client.batch_execute("begin").await.unwrap();
        assert_eq!(archive(&stage).await, i64::from(status == "discarded"), "{status}");
        stage.client.batch_execute("rollback").await.unwrap(); // a decision that is taken back in time
    }
    triage("closed").await;
    let soon =
        "select fn_job_archive(p_dry_run => false, p_now => clock_timestamp() + interval '59 minutes')";
    assert_eq!(stage.value(soon, &[]).await["archived"], 0, "a decision may be taken back for an hour");
    assert_eq!(archive(&stage).await, 1);
    assert_eq!(
        triage("manual_replay").await["reason"],
        "illegal_transition",
        "there is nothing left to replay"
    );
    assert_eq!(triage("superseded").await["refused"], false);
    let kept =
        "select jsonb_build_array(status, history -> 0 ->> 'outcome') from job_archive where job_id = $1";
    assert_eq!(stage.value(kept, &[&id]).await, json!(["dead_letter", "transient"]));
}

#[tokio::test]
async fn jobs_go_to_the_month_in_which_they_ended_by_utc() {
    let stage = open().await;
    for end in ["2026-08-31 23:59:59.999999+00", "2026-09-01 00:00:00+00"] {
        let id = stage.enqueue("any").await;
        succeed(&stage, id).await;
        stage
            .client
            .execute(&format!("update job_queue set finished_at = '{end}' where job_id = $1"), &[&id])
            .await
            .unwrap();
    }
    stage.client.batch_execute("set timezone = 'Asia/Tokyo'; set datestyle = 'German'").await.unwrap();
    assert_eq!(archive(&stage).await, 2);
    let months = "select jsonb_agg(tableoid::regclass order by finished_at) from job_archive";
    assert_eq!(stage.value(months, &[]).await, json!(["job_archive_2026_08", "job_archive_2026_09"]));
    let ahead = "select count(*) from generate_series(0, 1) m
        where to_regclass(to_char(now() at time zone 'UTC' + interval '2 hours' + m * interval '1 month', '\"job_archive_\"YYYY_MM')) is not null";
    assert_eq!(stage.value(ahead, &[]).await, 2, "this month and the next are there before they are needed");
}

#[tokio::test]
async fn the_archive_is_not_lost_on_the_way_down_and_the_queue_works_without_it() {
    let stage = open().await;
    archived(&stage, "first").await;
    let migrator = Migrator::new(Server::direct(&stage.db.settings().database).unwrap());
    let error = migrator.down(Some(7), false).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("job_archive"), "{error}");
    stage.client.batch_execute("truncate job_archive, job_archive_key").await.unwrap();
    migrator.down(Some(7), false).await.unwrap();
    let enqueue = "select fn_job_enqueue('any', 'test', p_idempotency_key => 'first')";
    assert_eq!(stage.value(enqueue, &[]).await["created"], true);
    assert_eq!(stage.value(enqueue, &[]).await["created"], false);
    let many =
        r#"select fn_job_enqueue_many('[{"job_kind": "any", "actor": "test", "idempotency_key": "first"}]')"#;
    assert_eq!(stage.value(many, &[]).await["duplicates"], 1);
    let put = r#"select fn_consumer_put('{"consumer_key": "c", "event_domain": "iu", "job_kind": "any", "enabled": true}', 'test')"#;
    stage.value(put, &[]).await;
    emit(&stage.client, "iu", 1).await;
    assert_eq!(stage.value("select fn_consumer_dispatch_batch('iu')", &[]).await["jobs"], 1);
}

#[tokio::test]
async fn the_sidecar_and_a_tick_archive() {
    let stage = open().await;
    stage.set("queue.archive.after_seconds", "0").await;
    let finished = async || {
        let id = stage.enqueue("any").await;
        succeed(&stage, id).await;
    };
    finished().await;
    let mut settings = polling(&stage.db);
    settings.maintenance.archive_interval = std::time::Duration::from_secs(1);
    let sidecar = Sidecar::start(settings);
    let count = async || stage.value("select count(*) from job_archive", &[]).await;
    wait_until("it has left", SOON, async || count().await == 1).await;
    finished().await;
    wait_until("the next one has left", SOON, async || count().await == 2).await;
    sidecar.stop().await;
    finished().await;
    let told = show(&stage, &["tick", "--json"]).await;
    assert_eq!((&told["archived"]["archived"], count().await), (&json!(1), json!(3)), "{told}");
}

#[tokio::test]
async fn what_runs_now_is_in_one_view() {
    let stage = Stage::open().await;
    stage.set("job.any.time_limit_seconds", "7").await;
    let id = stage.enqueue("any").await;
    let now = "select coalesce(jsonb_agg(to_jsonb(v)), '[]') from v_job_queue_in_progress v";
    assert_eq!(stage.value(now, &[]).await, json!([]));
    stage.claim().await;
    stage.value("select fn_job_cancel($1, 'test', 'test')", &[&id]).await;
    let row = stage.value(now, &[]).await[0].clone();
    assert_eq!(
        (&row["job_id"], &row["lease_owner"], &row["time_limit_seconds"], &row["lease_has_ended"]),
        (&json!(id), &json!("one"), &json!("7"), &json!(false))
    );
    assert!(row["cancel_requested_at"].is_string() && row["age_seconds"].as_f64().is_some(), "{row}");
    stage.leases_end().await;
    assert_eq!(stage.value(now, &[]).await[0]["lease_has_ended"], true);
}
