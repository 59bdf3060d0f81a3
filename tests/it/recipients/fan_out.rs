//! One job a recipient: made once, previewed alike, and never for nobody.

use serde_json::{Value, json};

use super::{fact, subscribe};
use crate::commands::words;
use crate::support::{Folder, Outbox};

/// Target and key of the jobs of a consumer.
async fn jobs(outbox: &Outbox, key: &str) -> Vec<(Option<String>, String)> {
    let query = "select target_ref, idempotency_key::text from job_queue where consumer_key = $1 order by idempotency_key collate \"C\"";
    let rows = outbox.client.query(query, &[&key]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// A database with two recipients of `saved`, one of whom subscribed twice, and a consumer that tells them.
async fn with_two_recipients() -> Outbox {
    let outbox = Outbox::open().await;
    let rows =
        ["user:a|iu|saved", "user:a|iu|saved|update", "role:b|iu|saved", "user:m|iu", "user:m|iu|||||true"];
    subscribe(&outbox, &rows).await;
    outbox.consumer("tell", "iu", json!({"fan_out": "recipients", "target_ref": "{recipient}"})).await;
    outbox
}

#[tokio::test]
async fn a_consumer_that_fans_out_makes_one_job_a_recipient_and_the_others_one_as_before() {
    let outbox = with_two_recipients().await;
    outbox.consumer("plain", "iu", json!({})).await;
    let id = fact(&outbox, "saved", json!({})).await;
    let answer = outbox.answer("fn_consumer_dispatch_batch('iu', 100)").await;
    assert_eq!(
        (&answer["jobs"], &answer["duplicates"], &answer["no_recipient"]),
        (&json!(3), &json!(0), &json!(0)),
        "{answer}"
    );
    let expected = ["role:b", "user:a"].map(|who| (Some(who.to_owned()), format!("tell:{id}:{who}")));
    assert_eq!(jobs(&outbox, "tell").await, expected);
    assert_eq!(jobs(&outbox, "plain").await, [(None, format!("plain:{id}"))]);

    // again, and one recipient more since
    subscribe(&outbox, &["agent:c|iu"]).await;
    let answer = outbox.answer(&format!("fn_consumer_dispatch('{id}')")).await;
    assert_eq!(
        (&answer["jobs"], &answer["duplicates"], &answer["errors"]),
        (&json!(1), &json!(3), &json!(0)),
        "{answer}"
    );
    let told = answer["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["recipient"].as_str(), one["decision"].as_str().unwrap()));
    let told: Vec<_> = told.collect();
    assert_eq!(
        told,
        [(None, "job"), (Some("agent:c"), "job"), (Some("role:b"), "job"), (Some("user:a"), "job")]
    );
    assert_eq!(outbox.jobs().await, 4);
}

#[tokio::test]
async fn an_event_for_nobody_is_seen_and_makes_no_job() {
    let outbox = with_two_recipients().await;
    let id = fact(&outbox, "gone", json!({})).await;
    let answer = outbox.answer("fn_consumer_dispatch_batch('iu', 100)").await;
    assert_eq!(
        (&answer["events"], &answer["jobs"], &answer["no_recipient"]),
        (&json!(1), &json!(0), &json!(1)),
        "{answer}"
    );
    let answer = outbox.answer(&format!("fn_consumer_dispatch('{id}')")).await;
    assert_eq!(answer["decisions"][0]["decision"], "no_recipient", "{answer}");
    let reason = "select reason from fn_route_consumer_dry_run('tell')";
    assert_eq!(outbox.client.query_one(reason, &[]).await.unwrap().get::<_, String>(0), "no_recipient");
    assert_eq!(outbox.count("select count(*) from dispatch_error").await, 0);
}

#[tokio::test]
async fn the_preview_of_a_consumer_that_fans_out_is_what_dispatch_then_does() {
    let outbox = with_two_recipients().await;
    for event_type in ["saved", "gone", "saved"] {
        fact(&outbox, event_type, json!({})).await;
    }
    let query =
        "select target_ref, idempotency_key from fn_route_consumer_dry_run('tell') where would_enqueue
                 order by idempotency_key collate \"C\"";
    let rows = outbox.client.query(query, &[]).await.unwrap();
    let previewed: Vec<(Option<String>, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(outbox.drain(100).await, 3);
    assert_eq!(jobs(&outbox, "tell").await, previewed);
    assert_eq!(previewed.len(), 4);

    let unstored = "select count(*) from fn_route_consumer_dry_run(jsonb_build_object('event_domain', 'iu', 'job_kind', 'x.y',
        'fan_out', 'recipients')) where would_enqueue and idempotency_key = 'preview:' || event_id || ':' || recipient";
    assert_eq!(outbox.count(unstored).await, 4, "a row that need not be stored has the same default key");
}

#[tokio::test]
async fn a_dry_run_that_fans_out_counts_and_makes_nothing() {
    let outbox = with_two_recipients().await;
    outbox.client.batch_execute("update consumer_registry set dry_run = true").await.unwrap();
    fact(&outbox, "saved", json!({})).await;
    let answer = outbox.answer("fn_consumer_dispatch_batch('iu', 100)").await;
    assert_eq!((&answer["jobs"], &answer["dry"]), (&json!(0), &json!(2)), "{answer}");
    assert_eq!(outbox.jobs().await, 0);
}

#[tokio::test]
async fn what_one_fanning_consumer_cannot_digest_holds_up_no_other() {
    let outbox = with_two_recipients().await;
    outbox
        .consumer(
            "picky",
            "iu",
            json!({"fan_out": "recipients", "idempotency_key": "{payload.order}:{recipient}"}),
        )
        .await;
    outbox.consumer("careful", "iu", json!({"idempotency_key": "{payload.order}"})).await;
    let id = fact(&outbox, "saved", json!({})).await;
    fact(&outbox, "saved", json!({"order": 7})).await;
    assert_eq!(outbox.drain(100).await, 2);
    assert_eq!(jobs(&outbox, "tell").await.len(), 4);
    let keys: Vec<String> = jobs(&outbox, "picky").await.into_iter().map(|(_, key)| key).collect();
    assert_eq!(keys, ["7:role:b", "7:user:a"]);
    let errors =
        outbox.count("select count(*) from dispatch_error where consumer_key in ('picky', 'careful')").await;
    assert_eq!(errors, 2, "one a consumer, though there are two recipients");
    assert_eq!(
        outbox.count(&format!("select count(*) from dispatch_error where event_id <> '{id}'")).await,
        0
    );
}

#[tokio::test]
async fn a_row_whose_recipients_would_share_a_job_is_refused_and_so_are_its_like() {
    let outbox = Outbox::open().await;
    let refused = [
        (
            json!({"fan_out": "recipients", "idempotency_key": "{event_id}"}),
            "idempotency_key lacks {recipient}",
        ),
        (
            json!({"target_ref": "{recipient}"}),
            "target_ref has {recipient}, which only a consumer with fan_out",
        ),
        (
            json!({"fan_out": "recipients", "job_kind": null}),
            "fan_out makes one job a recipient, and a terminal",
        ),
        (json!({"fan_out": "everybody"}), "fan_out 'everybody' is not known"),
    ];
    for (columns, reason) in refused {
        let mut row = json!({"consumer_key": "one", "event_domain": "iu", "job_kind": "one.do"});
        row.as_object_mut().unwrap().extend(columns.as_object().unwrap().clone());
        for call in [
            "select fn_consumer_put($1, 'test')",
            "select count(*) from fn_route_consumer_dry_run($1::jsonb)",
        ] {
            let error = outbox.client.query(call, &[&row]).await.unwrap_err();
            let said = error.as_db_error().unwrap();
            assert_eq!(said.code().code(), "23514", "{said}");
            assert!(said.message().contains(reason), "{call}: {said}");
        }
    }
    outbox.consumer("one", "iu", json!({"fan_out": "recipients"})).await;
    let change = "update consumer_registry set fan_out = null, idempotency_key = '{event_id}'";
    let error = outbox.client.batch_execute(change).await.unwrap_err();
    assert!(
        error.as_db_error().unwrap().message().contains("fan_out is fixed when the row is made"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_replay_of_an_archived_recipients_job_is_a_duplicate() {
    let outbox = with_two_recipients().await;
    let id = fact(&outbox, "saved", json!({})).await;
    assert_eq!(outbox.drain(100).await, 1);
    let archive = "
        select fn_gate_set('queue.archive.enabled', 'true', 'test', 'test');
        select fn_job_cancel(job_id, 'test', 'test') from job_queue;
        select fn_job_archive(100, false, p_now => clock_timestamp() + interval '1 day');";
    outbox.client.batch_execute(archive).await.unwrap();
    assert_eq!(outbox.jobs().await, 0);
    let answer: Value = outbox.answer(&format!("fn_consumer_dispatch('{id}')")).await;
    assert_eq!((&answer["jobs"], &answer["duplicates"]), (&json!(0), &json!(2)), "{answer}");
    assert_eq!(outbox.jobs().await, 0);
}

#[tokio::test]
async fn a_file_says_fan_out_and_a_later_change_of_it_is_told_before_anything_is_written() {
    let outbox = Outbox::open().await;
    let folder = Folder::open_to_all();
    let path = folder.path().join("tell.toml");
    let text = "event_domain = \"iu\"\nevent_type = \"saved\"\njob_kind = \"tell.one\"\n";
    let sync = ["consumers", "sync", "--apply", "--dir", folder.path().to_str().unwrap()];
    let write = |more: &str| std::fs::write(&path, format!("{text}{more}")).unwrap();

    write("fan_out = \"recipient\"\n");
    let (code, _, err) = words(&outbox.db, &sync);
    assert!(code == Some(2) && err.contains("tell.toml:4: fan_out is \"recipients\" or left out"), "{err}");
    write("fan_out = \"recipients\"\nidempotency_key = \"{consumer_key}:{event_id}\"\n");
    let (code, _, err) = words(&outbox.db, &sync);
    assert!(code == Some(2) && err.contains("tell.toml:5: idempotency_key lacks {recipient}"), "{err}");
    write("fan_out = \"recipients\"\n");
    assert_eq!(words(&outbox.db, &sync).1, "+ tell: added\n1 consumer written\n");
    assert_eq!(words(&outbox.db, &sync).1, "= tell: as its file\nnothing to change\n");
    let (_, list, _) = words(&outbox.db, &["consumers", "list"]);
    assert!(list.contains("tell.one, one a recipient"), "{list}");
    write("");
    let (code, _, err) = words(&outbox.db, &sync);
    assert!(code == Some(2) && err.contains("fan_out is fixed when the row is made"), "{err}");
}
