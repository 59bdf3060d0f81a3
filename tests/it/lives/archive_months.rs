//! Months of the archive that have had their time are dropped, when somebody has said how long that is.

use serde_json::{Value, json};
use uuid::Uuid;

use super::archive::{archived, open, show};
use super::stage::Stage;
use crate::support::Program;

/// A job of this key that ended so many months ago, and its month.
async fn aged(stage: &Stage, key: &str, months: i32) -> (Uuid, String) {
    let id = archived(stage, key).await;
    let age = "with at as (select clock_timestamp() - make_interval(months => $2) as at),
        month as (select fn_job_archive_month(at.at) from at),
        keys as (update job_archive_key k set finished_at = at.at from at, month where k.job_id = $1 returning k.finished_at)
        update job_archive a set finished_at = k.finished_at from keys k where a.job_id = $1
        returning to_char(k.finished_at at time zone 'UTC', '\"job_archive_\"YYYY_MM')";
    // made before the statement that moves the row looks for it
    stage
        .client
        .execute("select fn_job_archive_month(clock_timestamp() - make_interval(months => $1))", &[&months])
        .await
        .unwrap();
    let month = stage.client.query_one(age, &[&id, &months]).await.unwrap().get(0);
    (id, month)
}

async fn months(stage: &Stage) -> i64 {
    let count = "select count(*) from pg_inherits where inhparent = 'job_archive'::regclass";
    stage.client.query_one(count, &[]).await.unwrap().get(0)
}

async fn drop_now(stage: &Stage) -> Value {
    stage.value("select fn_job_archive_drop(false)", &[]).await
}

#[tokio::test]
async fn by_default_no_month_is_ever_dropped() {
    let stage = open().await;
    let (id, _) = aged(&stage, "old", 30).await;
    for setting in [None, Some("0"), Some("0.5"), Some("never"), Some("-1"), Some("999999999")] {
        if let Some(value) = setting {
            stage.set("queue.retention.archive_months", value).await;
        }
        let before = months(&stage).await;
        assert_eq!(drop_now(&stage).await["found"], json!([]), "{setting:?}");
        show(&stage, &["tick", "--json"]).await;
        assert_eq!(months(&stage).await, before, "{setting:?}");
    }
    show(&stage, &["jobs", "show", &id.to_string(), "--json"]).await;
}

#[tokio::test]
async fn a_month_that_ended_longer_ago_goes_with_its_keys_and_an_enqueue_with_such_a_key_makes_a_new_job() {
    let stage = open().await;
    let (old, month) = aged(&stage, "old", 14).await;
    let (young, _) = aged(&stage, "young", 12).await;
    stage.set("queue.retention.archive_months", "12").await;
    let told = stage.value("select fn_job_archive_drop()", &[]).await;
    assert_eq!(
        (&told["dry_run"], &told["found"], &told["dropped"]),
        (&json!(true), &json!([month]), &json!([]))
    );
    assert_eq!(stage.value("select fn_job_archive()", &[]).await["months"]["found"], json!([month]));
    let enqueue = |key: &str| format!("select fn_job_enqueue('any', 'test', p_idempotency_key => '{key}')");
    assert_eq!(stage.value(&enqueue("old"), &[]).await["job_id"], json!(old), "a dry run forgets nothing");

    let done = drop_now(&stage).await;
    assert_eq!((&done["dropped"], &done["keys"], &done["more"]), (&json!([month]), &json!(1), &json!(false)));
    assert_eq!(
        stage.value(&enqueue("young"), &[]).await["job_id"],
        json!(young),
        "what is kept still answers"
    );
    let new = stage.value(&enqueue("old"), &[]).await;
    assert_eq!(new["created"], true, "{new}");
    assert_ne!(new["job_id"], json!(old));
    let ended = Program::start(&stage.db.url(), &["jobs", "show", &old.to_string()], &[]).ends().await;
    assert_eq!(ended.code, Some(1), "{}", ended.out);
    assert_eq!(drop_now(&stage).await["found"], json!([]));
}

#[tokio::test]
async fn behind_the_closed_gate_months_are_only_told_and_tick_and_the_maintenance_job_drop_them_behind_the_open_one()
 {
    let stage = open().await;
    stage.set("queue.retention.archive_months", "2").await;
    for drop in ["tick", "job"] {
        let (_, month) = aged(&stage, drop, 20).await;
        stage.set("queue.archive.enabled", "false").await;
        assert_eq!(drop_now(&stage).await["reason"], "archive_disabled");
        assert_eq!(stage.value("select fn_job_archive_drop(null)", &[]).await["found"], json!([month]));
        assert_eq!(show(&stage, &["tick", "--json"]).await["archived"]["months_dropped"], 0);
        stage.set("queue.archive.enabled", "true").await;
        if drop == "tick" {
            assert_eq!(show(&stage, &["tick", "--json"]).await["archived"]["months_dropped"], 1);
        } else {
            let answer = stage.value("select fn_maintenance_archive('{}')", &[]).await;
            assert_eq!(answer["months"]["dropped"], json!([month]));
        }
        assert_eq!(stage.value("select count(*) from job_archive_key", &[]).await, 0);
    }
}

#[tokio::test]
async fn a_month_that_somebody_has_locked_holds_nothing_up_and_goes_the_next_time() {
    let stage = open().await;
    let (_, locked) = aged(&stage, "locked", 20).await;
    let (_, free) = aged(&stage, "free", 10).await;
    stage.set("queue.retention.archive_months", "2").await;
    let reader = stage.db.client().await;
    reader.batch_execute(&format!("begin; select from {locked}")).await.unwrap();
    stage.client.batch_execute("set statement_timeout = '5s'").await.unwrap();
    let done = drop_now(&stage).await;
    assert_eq!(
        (&done["dropped"], &done["locked"], &done["keys"]),
        (&json!([free]), &json!([locked]), &json!(1))
    );
    let key = "select count(*) from job_archive_key where idempotency_key = 'locked'";
    assert_eq!(stage.value(key, &[]).await, 1, "its keys stay with it");
    reader.batch_execute("commit; begin; select from job_archive").await.unwrap();
    assert_eq!(
        drop_now(&stage).await["locked"],
        json!([locked]),
        "nor does a reader of the whole archive wait"
    );
    archived(&stage, "meanwhile").await;
    reader.batch_execute("commit").await.unwrap();
    assert_eq!(drop_now(&stage).await["dropped"], json!([locked]));
}

#[tokio::test]
async fn a_month_of_many_keys_goes_in_small_steps() {
    let stage = open().await;
    let (_, month) = aged(&stage, "one", 20).await;
    let many = "insert into job_archive_key select 'any', 'k' || n, gen_random_uuid(), k.finished_at from job_archive_key k, generate_series(1, 25000) n";
    stage.client.batch_execute(many).await.unwrap();
    stage.set("queue.retention.archive_months", "2").await;
    let step = stage.value("select fn_job_archive_drop(false, 5000)", &[]).await;
    assert_eq!(
        (&step["keys"], &step["more"], &step["dropped"]),
        (&json!(5000), &json!(true), &json!([])),
        "{month}"
    );
    assert_eq!(
        show(&stage, &["tick", "--json"]).await["archived"]["months_dropped"],
        1,
        "in one round of the archiver"
    );
    assert_eq!(stage.value("select count(*) from job_archive_key", &[]).await, 0);
}

#[tokio::test]
async fn how_far_keys_are_forgotten_is_known_and_a_batch_that_relies_on_it_is_not_overtaken() {
    let stage = open().await;
    let (_, month) = aged(&stage, "old", 20).await;
    aged(&stage, "young", 10).await;
    let until = "select (select f.until from job_archive_forgotten f) = k.ends from (
        select date_trunc('month', (clock_timestamp() - make_interval(months => 20)) at time zone 'UTC') + interval '1 month' as at) m,
        lateral (select m.at at time zone 'UTC' as ends) k";
    stage.set("queue.retention.archive_months", "12").await;
    let batch = stage.db.client().await;
    batch.batch_execute("begin; select from job_archive_forgotten for share").await.unwrap();
    let done = drop_now(&stage).await;
    assert_eq!((&done["locked"], &done["keys"]), (&json!([month]), &json!(0)), "{done}");
    assert_eq!(stage.value(until, &[]).await, json!(false));
    batch.batch_execute("commit").await.unwrap();
    assert_eq!(drop_now(&stage).await["dropped"], json!([month]));
    assert_eq!(stage.value(until, &[]).await, json!(true));
}
