//! Which of the newest events would change target.

use serde_json::{Value, json};

use super::stage::Stage;
use crate::commands::{json as command, words};
use crate::support::Folder;

async fn stage() -> Stage {
    let stage = Stage::new(0, json!({"event_type": "happened", "filter": "$.payload.n < 10"})).await;
    for n in 0..20 {
        stage.past("iu", "happened", 1, &format!("{{\"n\": {n}}}")).await;
    }
    stage.past("iu", "other", 3, "{}").await;
    stage
}

/// gain, lose, change, error, same, none.
async fn diff(stage: &Stage, columns: Value) -> ([i64; 6], Value) {
    let call = format!("fn_consumer_diff('{}')", columns.to_string().replace('\'', "''"));
    let answer = stage.outbox.answer(&call).await;
    let counts =
        ["gain", "lose", "change", "error", "same", "none"].map(|name| answer[name].as_i64().unwrap());
    (counts, answer)
}

#[tokio::test]
async fn events_that_gain_lose_or_change_their_job_are_counted_and_shown_with_both_sides() {
    let stage = stage().await;
    let of = async |columns: Value| {
        let mut row = json!({"consumer_key": "k"});
        row.as_object_mut().unwrap().extend(columns.as_object().unwrap().clone());
        diff(&stage, row).await
    };
    assert_eq!(of(json!({})).await.0, [0, 0, 0, 0, 10, 13], "no change");
    assert_eq!(of(json!({"description": "words"})).await.0, [0, 0, 0, 0, 10, 13]);
    assert_eq!(of(json!({"filter": "$.payload.n < 15"})).await.0, [5, 0, 0, 0, 10, 8]);
    assert_eq!(of(json!({"filter": "$.payload.n >= 8"})).await.0, [10, 8, 0, 0, 2, 3]);
    assert_eq!(of(json!({"event_type": "*", "filter": null})).await.0, [13, 0, 0, 0, 10, 0]);
    assert_eq!(of(json!({"enabled": false})).await.0, [0, 10, 0, 0, 0, 13]);
    assert_eq!(of(json!({"job_kind": null})).await.0, [0, 10, 0, 0, 0, 13], "terminal");
    assert_eq!(of(json!({"dry_run": true})).await.0, [0, 10, 0, 0, 0, 13]);
    assert_eq!(of(json!({"idempotency_key": "{payload.none}"})).await.0, [0, 10, 0, 0, 0, 13]);
    assert_eq!(of(json!({"event_domain": "kg"})).await.0, [0, 10, 0, 0, 0, 13]);
    let (counts, answer) =
        of(json!({"executor": "Agent", "priority": 7, "ordering_key": "{payload.n}"})).await;
    assert_eq!(counts, [0, 0, 10, 0, 0, 13]);
    assert_eq!(answer["columns"], json!({"executor": 10, "priority": 10, "ordering_key": 10}));
    let sample = &answer["samples"][0];
    assert_eq!(
        (&sample["before"]["executor"], &sample["after"]["executor"]),
        (&json!("PG_worker"), &json!("Agent"))
    );
    assert_eq!(answer["samples"].as_array().unwrap().len(), 10);
    let few = stage.outbox.answer("fn_consumer_diff('{\"consumer_key\": \"k\"}', 5)").await;
    assert_eq!(few["events"], json!(5));
}

#[tokio::test]
async fn a_row_that_is_not_there_yet_is_judged_as_if_it_were_enabled_and_a_bad_one_is_refused() {
    let stage = stage().await;
    let (counts, answer) =
        diff(&stage, json!({"consumer_key": "new", "event_domain": "iu", "job_kind": "test.new"})).await;
    assert_eq!(
        (counts, &answer["as_if_enabled"], &answer["stored"]),
        ([23, 0, 0, 0, 0, 0], &json!(true), &json!(false))
    );
    let bad = "select fn_consumer_diff('{\"consumer_key\": \"k\", \"source_ref\": \"{nothing}\"}')";
    let error = stage.outbox.client.batch_execute(bad).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "23514");
}

#[tokio::test]
async fn recipients_that_gain_or_lose_a_job_are_named() {
    let stage = Stage::new(2, json!({"fan_out": "recipients"})).await;
    stage.run("insert into event_subscription (recipient_ref) values ('user:a'), ('user:b')").await;
    let (counts, answer) = diff(&stage, json!({"consumer_key": "k", "priority": 5})).await;
    assert_eq!(counts, [0, 0, 4, 0, 0, 0]);
    assert_eq!(answer["samples"][0]["recipient"], "user:a");
}

#[tokio::test]
async fn enable_disable_and_sync_show_it_before_they_act() {
    let stage = stage().await;
    let db = stage.db();
    let (code, shown, _) = words(db, &["consumers", "disable", "k", "--dry-run"]);
    assert_eq!(code, Some(0));
    assert!(
        shown.contains("of the newest 23 events: 10 lose theirs") && shown.contains("nothing was changed"),
        "{shown}"
    );
    assert_eq!(stage.count("select count(*) from consumer_registry where enabled").await, 1);
    let (code, off, _) = command(db, &["consumers", "disable", "k"]);
    assert_eq!((code, &off["diff"]), (Some(0), &Value::Null));
    let (_, dry, _) = command(db, &["consumers", "enable", "k", "--dry-run"]);
    assert_eq!((&dry["diff"]["gain"], &dry["enabled"]), (&json!(10), &json!(false)), "{dry}");
    let (_, shown, _) = words(db, &["consumers", "enable", "k", "--last", "15"]);
    assert!(shown.contains("of the newest 15 events: ") && shown.contains(" get a job"), "{shown}");

    let folder = Folder::open_to_all();
    let file = folder.path().join("filed.toml");
    let write = |more: &str| {
        std::fs::write(&file, format!("event_domain = \"iu\"\njob_kind = \"one.do\"\n{more}")).unwrap();
    };
    write("event_type = \"*\"\n");
    let sync = ["consumers", "sync", "--dir", folder.path().to_str().unwrap()];
    let (_, text, error) = words(db, &sync);
    assert!(text.contains("of the newest 23 events (if it were enabled): 23 get a job"), "{text} {error}");
    let (_, applied, _) = command(db, &[&sync[..], &["--apply"]].concat());
    assert_eq!((&applied["applied"], &applied["diffs"]["filed"]["gain"]), (&json!(true), &json!(23)));
    write("event_type = \"other\"\npriority = 9\n");
    let (_, changed, _) = command(db, &sync);
    let diff = &changed["diffs"]["filed"];
    assert_eq!((&diff["lose"], &diff["change"]), (&json!(20), &json!(3)), "{changed}");
    let (_, quiet, _) = command(db, &[&sync[..], &["--last", "0"]].concat());
    assert_eq!(quiet["diffs"], json!({}));
}

#[tokio::test]
async fn what_cannot_be_shown_is_not_enabled_unless_nobody_wants_to_see_it() {
    let stage = stage().await;
    stage
        .run(
            "update consumer_registry set enabled = false;
             create or replace function fn_consumer_diff(p_consumer jsonb, p_last int default 1000, p_samples int default 20)
             returns jsonb language plpgsql stable as $$ begin raise exception 'it takes too long'; end $$",
        )
        .await;
    let enabled = "select count(*) from consumer_registry where enabled";
    let key: String = stage
        .outbox
        .client
        .query_one("select consumer_key from consumer_registry", &[])
        .await
        .unwrap()
        .get(0);
    let enable = ["consumers", "enable", &key, "--reason", "test"];
    let (code, _, err) = words(stage.db(), &enable);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("was not enabled") && err.contains("--last 0"), "{err}");
    assert_eq!(stage.count(enabled).await, 0);
    let (code, _, err) = words(stage.db(), &[&enable[..], &["--last", "0"]].concat());
    assert_eq!((code, stage.count(enabled).await), (Some(0), 1), "{err}");
}
