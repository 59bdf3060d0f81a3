//! Events that a consumer cannot digest: alone, kept, and tried again on demand.

use serde_json::{Value, json};

use crate::support::Outbox;

/// One statement with events whose payload may be beyond what a job takes.
async fn emit_payloads(outbox: &Outbox, payload: &str, events: i32) {
    let insert = format!(
        "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, event_subject_ref, safe_payload)
         select 'iu', 'happened', 'update', 'immediate', 'ref-' || n, {payload} from generate_series(1, {events}) n"
    );
    outbox.client.batch_execute(&insert).await.unwrap();
}

/// Signal, not data: a job refuses what is not an object, and what is too large.
const NO_OBJECT: &str = "'[1, 2]'::jsonb";
const TOO_LARGE: &str = "jsonb_build_object('text', repeat('x', 20000))";

async fn errors(outbox: &Outbox) -> Vec<(String, String, i32)> {
    let query = "select consumer_key, sqlstate, tries from dispatch_error order by event_id, consumer_key";
    let rows = outbox.client.query(query, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[tokio::test]
async fn an_undigestible_event_goes_to_dispatch_error_alone() {
    let outbox = Outbox::with_two_consumers().await;
    outbox.consumer("picky", "iu", json!({"idempotency_key": "{payload.order}"})).await;
    emit_payloads(&outbox, "jsonb_build_object('order', n)", 5).await;
    emit_payloads(&outbox, NO_OBJECT, 1).await;
    emit_payloads(&outbox, TOO_LARGE, 1).await;
    emit_payloads(&outbox, "jsonb_build_object('order', 'a' || n)", 5).await;
    assert_eq!(outbox.drain(1000).await, 12);
    assert_eq!(outbox.jobs().await, 30, "ten good events for three consumers");
    let mut found: Vec<_> = errors(&outbox).await.into_iter().map(|(key, state, _)| (key, state)).collect();
    found.sort();
    let bad = [("one", "23514"), ("picky", "22004"), ("two", "23514")];
    let bad = bad.iter().flat_map(|(key, state)| vec![((*key).to_owned(), (*state).to_owned()); 2]);
    assert_eq!(found, bad.collect::<Vec<_>>());
    outbox.emit(1).await;
    assert_eq!(outbox.drain(1000).await, 1, "the domain goes on");
}

#[tokio::test]
async fn a_mended_consumer_gets_the_event_on_demand_and_the_error_is_gone() {
    let outbox = Outbox::open().await;
    outbox.consumer("picky", "iu", json!({"idempotency_key": "{payload.order}"})).await;
    outbox.consumer("other", "iu", json!({"idempotency_key": "{payload.order}"})).await;
    outbox.consumer("good", "iu", json!({})).await;
    outbox.emit(1).await;
    outbox.drain(10).await;
    let id: String = outbox.client.query_one("select id::text from event_outbox", &[]).await.unwrap().get(0);
    let again = async || outbox.answer(&format!("fn_consumer_dispatch('{id}')")).await;
    let answer = again().await;
    assert_eq!(
        (&answer["jobs"], &answer["duplicates"], &answer["errors"]),
        (&json!(0), &json!(1), &json!(2)),
        "{answer}"
    );
    let tried = |key: &str, tries| (key.to_owned(), "22004".to_owned(), tries);
    assert_eq!(errors(&outbox).await, [tried("other", 2), tried("picky", 2)], "a second try is counted");

    outbox.consumer("picky", "iu", json!({"idempotency_key": "{event_id}"})).await;
    outbox.answer("fn_consumer_set_enabled('other', false, 'test', 'a test')").await;
    let answer = again().await;
    assert_eq!(
        (&answer["jobs"], &answer["duplicates"], &answer["errors"]),
        (&json!(1), &json!(1), &json!(0)),
        "{answer}"
    );
    let decisions: Vec<_> =
        answer["decisions"].as_array().unwrap().iter().map(|d| d["decision"].clone()).collect();
    assert_eq!(decisions, ["job", "disabled", "job"], "{answer}");
    assert_eq!(errors(&outbox).await, [tried("other", 2)], "who is disabled keeps his error");
    let answer = again().await;
    assert_eq!((&answer["jobs"], &answer["duplicates"]), (&json!(0), &json!(2)), "{answer}");
}

#[tokio::test]
async fn ten_thousand_bad_rows_do_not_stop_the_others() {
    let outbox = Outbox::open().await;
    outbox.consumer("one", "iu", json!({})).await;
    emit_payloads(&outbox, "case when n % 2 = 0 then '[]'::jsonb else '{}' end", 200).await;
    emit_payloads(&outbox, NO_OBJECT, 10_000).await;
    outbox.emit(5).await;
    assert_eq!(outbox.drain(1000).await, 10_205);
    assert_eq!(outbox.jobs().await, 105);
    assert_eq!(outbox.count("select count(*) from dispatch_error").await, 10_100);
    assert_eq!(outbox.count("select coalesce(sum(errors), 0)::bigint from dispatch_pass").await, 10_100);
}

#[tokio::test]
async fn a_filter_that_fails_on_a_value_does_not_stop_the_domain() {
    let outbox = Outbox::open().await;
    outbox.consumer("one", "iu", json!({})).await;
    let filters = [
        "$.payload.at.datetime() < \"2030-01-01\".datetime()",
        "strict $.payload.no.where > 1",
        "1 / $.payload.zero > 1",
        "$.payload.at.double() > 1",
        "$.payload.zero.datetime() > \"10:00:00\".datetime()",
        "$.payload.big * 1e300 * 1e300 > 1",
    ];
    for (n, filter) in filters.iter().enumerate() {
        outbox.consumer(&format!("f{n}"), "iu", json!({"filter": filter})).await;
    }
    let payload = r#"'{"at": "2026-01-01T00:00:00+02:00", "zero": 0, "big": 1e300}'::jsonb"#;
    emit_payloads(&outbox, payload, 3).await;
    assert_eq!(outbox.drain(1000).await, 3);
    assert_eq!(outbox.count("select count(*) from job_queue where consumer_key = 'one'").await, 3);
}

#[tokio::test]
async fn an_event_that_arrives_twice_is_digested_once() {
    let outbox = Outbox::open().await;
    outbox.consumer("one", "iu", json!({})).await;
    outbox.consumer("picky", "iu", json!({"idempotency_key": "{payload.order}"})).await;
    outbox.emit(2).await;
    let twice = "insert into event_arrival (tx_id, event_domain, event_id)
                 select pg_current_xact_id(), event_domain, event_id from event_arrival";
    outbox.client.batch_execute(twice).await.unwrap();
    assert_eq!(outbox.drain(1000).await, 4);
    assert_eq!(outbox.jobs().await, 2);
    assert_eq!(errors(&outbox).await.len(), 2);
}

#[tokio::test]
async fn a_gate_that_is_closed_refuses_and_changes_nothing() {
    let outbox = Outbox::with_two_consumers().await;
    outbox.emit(3).await;
    assert_eq!(outbox.pass(2).await, (2, true));
    outbox.gate("queue.job_substrate.enabled", false).await;
    let id: String =
        outbox.client.query_one("select id::text from event_outbox limit 1", &[]).await.unwrap().get(0);
    for call in
        ["fn_consumer_dispatch_batch('iu')", "fn_dispatch_poll()", &format!("fn_consumer_dispatch('{id}')")]
    {
        let answer: Value = outbox.answer(call).await;
        assert_eq!(
            (&answer["refused"], &answer["reason"]),
            (&json!(true), &json!("job_substrate_disabled")),
            "{call}"
        );
    }
    outbox.emit(3).await;
    outbox.gate("queue.job_substrate.enabled", true).await;
    assert_eq!(outbox.drain(100).await, 4);
    outbox.assert_exactly_once().await;
}

#[tokio::test]
async fn a_filter_with_a_variable_is_refused_and_an_old_one_does_not_stop_the_domain() {
    let outbox = Outbox::open().await;
    outbox.consumer("one", "iu", json!({})).await;
    let put = "select fn_consumer_put($1, 'test', 'sql', true)";
    let of = |filter: &str| json!({"consumer_key": "v", "event_domain": "iu", "job_kind": "v", "enabled": true, "filter": filter});
    for filter in [
        "$.payload.amount > 100 && $.payload.region == $region", // never reached by a sample
        "exists($.payload.items[*] ? (@.sku == $sku))",
        "$.payload.a == \"\\\"\" && $.payload.b == $\"two words\"",
    ] {
        let error = outbox.client.execute(put, &[&of(filter)]).await.unwrap_err();
        let message = error.as_db_error().unwrap().message().to_owned();
        assert!(message.contains("filter has a variable"), "{filter}: {message}");
    }
    let plain = r#"$.payload.a == "$region \" $x" && $.payload."b$" like_regex "x$""#;
    outbox.client.execute(put, &[&of(plain)]).await.unwrap();

    // written before that was checked
    let old = "set session_replication_role = replica;
               update consumer_registry set filter = '$.payload.n > 1 && $.payload.r == $r' where consumer_key = 'v';
               reset session_replication_role";
    outbox.client.batch_execute(old).await.unwrap();
    emit_payloads(&outbox, "jsonb_build_object('n', n)", 4).await;
    assert_eq!(outbox.drain(1000).await, 4);
    assert_eq!(outbox.count("select count(*) from job_queue where consumer_key = 'one'").await, 4);
    assert_eq!(errors(&outbox).await, vec![("v".to_owned(), "42704".to_owned(), 1); 3]);
}

#[tokio::test]
async fn one_bad_event_late_in_a_batch_costs_a_few_passes_only() {
    let outbox = Outbox::with_two_consumers().await;
    emit_payloads(&outbox, "case when n = 990 then '[]'::jsonb else '{}' end", 1000).await;
    assert_eq!(outbox.drain(1000).await, 1000);
    assert_eq!(outbox.jobs().await, 2 * 999);
    assert_eq!(errors(&outbox).await.len(), 2);
    let passes = outbox.count("select count(*) from dispatch_pass where events > 0").await;
    assert!(passes <= 12, "{passes} passes");
}

#[tokio::test]
async fn an_error_stays_while_its_consumer_only_counts() {
    let outbox = Outbox::open().await;
    outbox.consumer("picky", "iu", json!({"idempotency_key": "{payload.order}"})).await;
    outbox.emit(1).await;
    outbox.drain(10).await;
    outbox.consumer("picky", "iu", json!({"idempotency_key": "{event_id}", "dry_run": true})).await;
    let id: String = outbox.client.query_one("select id::text from event_outbox", &[]).await.unwrap().get(0);
    let again = format!("fn_consumer_dispatch('{id}')");
    outbox.answer(&again).await;
    assert_eq!(errors(&outbox).await.len(), 1, "nothing has become of the event yet");
    outbox.consumer("picky", "iu", json!({"idempotency_key": "{event_id}", "dry_run": false})).await;
    outbox.answer(&again).await;
    assert_eq!((errors(&outbox).await.len(), outbox.jobs().await), (0, 1));
}

#[tokio::test]
async fn a_preview_foresees_what_no_job_can_take() {
    let outbox = Outbox::open().await;
    outbox.consumer("one", "iu", json!({})).await;
    emit_payloads(&outbox, NO_OBJECT, 1).await;
    emit_payloads(&outbox, TOO_LARGE, 1).await;
    emit_payloads(&outbox, "'{}'::jsonb", 1).await;
    let foreseen = "select count(*) from fn_route_consumer_dry_run('one') where reason = 'undigestible'";
    assert_eq!(outbox.count(foreseen).await, 2);
    outbox.drain(10).await;
    assert_eq!(errors(&outbox).await.len(), 2, "same events, same numbers");
}

#[tokio::test]
async fn jobs_of_events_and_jobs_of_hand_have_the_same_max_attempts() {
    let outbox = Outbox::open().await;
    outbox.consumer("one", "iu", json!({})).await;
    for (value, wanted) in [("0", 1), ("2.0", 2), ("7", 7), ("plenty", 5)] {
        let set = "insert into dot_config (key, value) values ('queue.retry.max_attempts.test.one', $1)
                   on conflict (key) do update set value = excluded.value";
        outbox.client.execute(set, &[&value]).await.unwrap();
        outbox.emit(1).await;
        outbox.drain(10).await;
        outbox.answer("fn_job_enqueue('test.one', 'test')").await;
        let same = format!("select count(*) from job_queue where max_attempts = {wanted}");
        assert_eq!(outbox.count(&same).await, 2, "{value}");
        outbox.client.batch_execute("truncate job_queue").await.unwrap();
    }
}
