//! What each consumer says of an event that dispatch has read.

use serde_json::json;

use super::stage::{Stage, says};

#[tokio::test]
async fn a_job_that_was_made_is_named_with_its_state() {
    let stage = Stage::open().await;
    stage.outbox.consumer("one", "iu", json!({})).await;
    let event = stage.dispatched(json!({})).await;
    let rows = stage.of_event(event).await;
    says(&rows[0], "dispatched", "dispatched", &["has read it"], "");
    says(&rows[1], "job", "job", &["(test.one), which is queued"], "reveille jobs explain ");
    assert_eq!(rows[1]["job_status"], "queued");
    stage.end("succeed($1, $2)").await;
    says(&stage.of_consumer(event, "one").await, "job", "job", &["which is succeeded"], "");
    stage.value("select fn_consumer_set_enabled('one', false, 'test', 'a test')", &[]).await;
    says(&stage.of_consumer(event, "one").await, "job", "job", &["now it would be disabled"], "");
}

#[tokio::test]
async fn a_type_or_a_stream_that_is_not_wanted_is_told_with_the_one_that_is() {
    let stage = Stage::open().await;
    stage.outbox.consumer("type", "iu", json!({"event_type": "record_*"})).await;
    stage.outbox.consumer("stream", "iu", json!({"event_stream": "alert"})).await;
    let event = stage.dispatched(json!({})).await;
    let row = stage.of_consumer(event, "type").await;
    says(&row, "no_job", "other_type", &["it wants type record_*, this is changed"], "");
    let row = stage.of_consumer(event, "stream").await;
    says(&row, "no_job", "other_stream", &["it wants stream alert, this is update"], "");
}

#[tokio::test]
async fn a_filter_that_does_not_hold_is_told_with_the_values_that_it_found() {
    let stage = Stage::open().await;
    let filter = "$.payload.amount > 100 && $.payload.currency == \"EUR\"";
    stage.outbox.consumer("large", "iu", json!({"filter": filter})).await;
    let event = stage.dispatched(json!({"amount": 12})).await;
    let what =
        ["\"amount\" > 100", "$.\"payload\".\"amount\" is 12", "$.\"payload\".\"currency\" is not there"];
    says(&stage.of_consumer(event, "large").await, "no_job", "filtered", &what, "");
    // what may not go round is not told
    let event = stage.dispatched(json!({"amount": 12})).await;
    stage.run("update event_outbox set payload_classification = 'restricted'").await;
    let row = stage.of_consumer(event, "large").await;
    says(&row, "no_job", "filtered", &["$.\"payload\".\"amount\" is there, and restricted"], "");
}

#[tokio::test]
async fn a_consumer_that_is_disabled_starts_later_only_counts_or_only_looks_says_so() {
    let stage = Stage::open().await;
    let consumers = [
        ("off", json!({"enabled": false})),
        ("late", json!({"starts_at": "2099-01-01T00:00:00Z"})),
        ("dry", json!({"dry_run": true})),
        ("seen", json!({"job_kind": null})),
    ];
    for (key, columns) in consumers {
        stage.outbox.consumer(key, "iu", columns).await;
    }
    let event = stage.dispatched(json!({})).await;
    let again = format!("reveille events dispatch {event}");
    let of = async |key| stage.of_consumer(event, key).await;
    says(&of("off").await, "no_job", "disabled", &["is disabled"], "reveille consumers enable off");
    says(&of("off").await, "no_job", "disabled", &[], &again);
    says(&of("late").await, "no_job", "before_start", &["it starts at 2099-01-01", "was created at"], &again);
    says(&of("dry").await, "no_job", "dry_run", &["it would make a job test.dry"], "\"dry_run\": false");
    says(&of("seen").await, "no_job", "terminal", &["it has no job kind"], "");
}

#[tokio::test]
async fn what_the_hint_says_makes_the_job_that_was_missing() {
    let stage = Stage::open().await;
    stage.outbox.consumer("dry", "iu", json!({"dry_run": true})).await;
    stage.outbox.consumer("late", "iu", json!({"starts_at": "2099-01-01T00:00:00Z"})).await;
    let event = stage.dispatched(json!({})).await;
    for key in ["dry", "late"] {
        let row = stage.of_consumer(event, key).await;
        let (sql, _) = row["hint"].as_str().unwrap().split_once(", then reveille events dispatch").unwrap();
        stage.run(sql).await;
        says(
            &stage.of_consumer(event, key).await,
            "error",
            "missing",
            &["there is no job"],
            "events dispatch",
        );
    }
    stage.value("select fn_consumer_dispatch($1)", &[&event]).await;
    for key in ["dry", "late"] {
        says(&stage.of_consumer(event, key).await, "job", "job", &["which is queued"], "");
    }
}

#[tokio::test]
async fn an_event_that_a_consumer_could_not_digest_is_told_with_its_error() {
    let stage = Stage::open().await;
    stage.outbox.consumer("key", "iu", json!({"idempotency_key": "{payload.number}"})).await;
    let event = stage.dispatched(json!({})).await;
    let row = stage.of_consumer(event, "key").await;
    let what = ["it could not digest the event", "idempotency_key has a variable without a value"];
    says(&row, "error", "error", &what, &format!("reveille events dispatch {event}"));
    assert_eq!(row["detail"]["sqlstate"], "22004");
}

#[tokio::test]
async fn a_key_that_another_job_holds_is_told_with_who_made_that_one() {
    let stage = Stage::open().await;
    stage.outbox.consumer("key", "iu", json!({"idempotency_key": "{payload.number}"})).await;
    let first = stage.dispatched(json!({"number": 7})).await;
    let second = stage.dispatched(json!({"number": 7})).await;
    says(&stage.of_consumer(first, "key").await, "job", "job", &["made job"], "");
    let row = stage.of_consumer(second, "key").await;
    says(
        &row,
        "job",
        "duplicate",
        &["its key was taken", &format!("by event {first}")],
        "reveille jobs explain",
    );
}

#[tokio::test]
async fn a_consumer_that_fans_out_says_for_each_recipient_or_that_there_is_none() {
    let stage = Stage::open().await;
    stage.outbox.consumer("each", "iu", json!({"fan_out": "recipients"})).await;
    let event = stage.dispatched(json!({})).await;
    let row = stage.of_consumer(event, "each").await;
    says(&row, "no_job", "no_recipient", &["nobody is subscribed"], "reveille events recipients");
    stage.run("insert into event_subscription (recipient_ref, event_domain) values ('user:ann', 'iu'), ('user:bob', 'iu')").await;
    let event = stage.dispatched(json!({})).await;
    let rows = stage.of_event(event).await;
    let recipients: Vec<_> = rows[1..].iter().map(|row| (&row["recipient"], &row["reason"])).collect();
    assert_eq!(recipients, [(&json!("user:ann"), &json!("job")), (&json!("user:bob"), &json!("job"))]);
}

#[tokio::test]
async fn an_archived_job_is_still_the_job_of_its_event() {
    let stage = Stage::open().await;
    stage.outbox.consumer("one", "iu", json!({})).await;
    let event = stage.dispatched(json!({})).await;
    let job = stage.end("succeed($1, $2)").await;
    stage.set("queue.archive.enabled", "true").await;
    stage
        .value("select fn_job_archive(100, false, p_now => clock_timestamp() + interval '2 hours')", &[])
        .await;
    assert_eq!(stage.outbox.jobs().await, 0, "it has left");
    let what = format!("made job {job} (test.one), which is succeeded");
    says(&stage.of_consumer(event, "one").await, "job", "job", &[&what], "");
    let rows = stage.of_job(job).await;
    says(&rows[0], "ended", "succeeded", &["archived at"], "");
    says(&rows[1], "attempt", "succeeded", &["attempt 1 by one: succeeded after"], "");
}

#[tokio::test]
async fn an_unknown_event_or_job_is_a_refusal() {
    let stage = Stage::open().await;
    let id = uuid::Uuid::new_v4();
    for rows in [stage.of_event(id).await, stage.of_job(id).await] {
        assert_eq!(rows.len(), 1);
        assert_eq!((&rows[0]["refused"], &rows[0]["reason"]), (&true.into(), &"not_found".into()));
    }
}

#[tokio::test]
async fn an_event_of_a_domain_without_consumers_says_so() {
    let stage = Stage::open().await;
    let event = stage.dispatched(json!({})).await;
    let rows = stage.of_event(event).await;
    says(&rows[1], "no_job", "other_domain", &["no consumer is registered for domain iu"], "");
}

#[tokio::test]
async fn the_preview_and_the_explanation_say_the_same_of_every_consumer() {
    let stage = Stage::open().await;
    let consumers = [
        ("type", json!({"event_type": "record_*"}), "other_type"),
        ("stream", json!({"event_stream": "alert"}), "other_stream"),
        ("filter", json!({"filter": "$.payload.n == 1"}), "filtered"),
        ("seen", json!({"job_kind": null}), "terminal"),
        ("each", json!({"fan_out": "recipients"}), "no_recipient"),
        ("key", json!({"idempotency_key": "{payload.n}", "dry_run": true}), "undigestible"),
    ];
    for (key, columns, _) in &consumers {
        stage.outbox.consumer(key, "iu", columns.clone()).await;
    }
    let event = stage.dispatched(json!({})).await;
    for (key, _, reason) in &consumers {
        let preview = "select reason from fn_route_consumer_dry_run($1::text)";
        assert_eq!(stage.value(preview, &[key]).await, *reason, "{key}");
        says(&stage.of_consumer(event, key).await, "no_job", reason, &[], "");
    }
}
