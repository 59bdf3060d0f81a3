//! What stops a run, who may begin one, and how it goes on.

use std::time::Duration;

use serde_json::json;

use super::stage::Stage;
use crate::commands::words;
use crate::http::Served;
use crate::http::client::get;
use crate::support::{connect, login, server_at};

#[tokio::test]
async fn a_run_stops_at_every_obstacle_says_so_and_goes_on_when_it_is_gone() {
    let stage = Stage::new(60, json!({})).await;
    let first = stage.begin("backfill", ", p_batch => 10").await;
    let mut made = 10;
    for (begin, reason, end) in [
        ("select fn_pause('domain', 'iu', 't', 't')", "paused", "select fn_resume('domain', 'iu', 't', 't')"),
        (
            "select fn_pause('consumer', 'k', 't', 't')",
            "paused",
            "select fn_resume('consumer', 'k', 't', 't')",
        ),
        (
            "select fn_gate_set('queue.job_substrate.enabled', 'false', 't', 't')",
            "job_substrate_disabled",
            "select fn_gate_set('queue.job_substrate.enabled', 'true', 't', 't')",
        ),
        (
            "select fn_consumer_set_enabled('k', false, 't', 't')",
            "consumer_disabled",
            "select fn_consumer_set_enabled('k', true, 't', 't')",
        ),
    ] {
        stage.run(begin).await;
        let stopped = stage.step(&first, ", 10").await;
        assert_eq!(
            (&stopped["refused"], &stopped["reason"]),
            (&json!(true), &json!(reason)),
            "{begin}: {stopped}"
        );
        assert_eq!(stopped["status"], "paused");
        assert_eq!(stage.jobs().await, made, "{begin}");
        stage.run(end).await;
        assert_eq!(stage.step(&first, ", 10").await["status"], "paused", "nobody has resumed it");
        assert_eq!(stage.set_status(&first, "running", "").await["status"], "running");
        made += 10;
        assert_eq!(stage.step(&first, ", 10").await["made"], json!(made), "after {end}");
    }
}

#[tokio::test]
async fn a_changed_consumer_stops_its_run_until_somebody_accepts_the_change() {
    let stage = Stage::new(20, json!({})).await;
    let first = stage.begin("backfill", ", p_batch => 5").await;
    stage
        .run(
            "select fn_consumer_put('{\"consumer_key\": \"k\", \"description\": \"new words\"}', 't', 'sql')",
        )
        .await;
    assert_eq!(stage.step(&first, ", 5").await["made"], json!(10), "words change nothing");
    stage
        .run("select fn_consumer_put('{\"consumer_key\": \"k\", \"job_kind\": \"test.other\"}', 't', 'sql')")
        .await;
    let stopped = stage.step(&first, ", 5").await;
    assert_eq!(
        (&stopped["reason"], &stopped["columns"]),
        (&json!("consumer_changed"), &json!(["job_kind"])),
        "{stopped}"
    );
    stage.set_status(&first, "running", "").await;
    assert_eq!(stage.step(&first, ", 5").await["reason"], "consumer_changed");
    let accepted = stage.set_status(&first, "running", ", true").await;
    assert_eq!(accepted["status"], "running");
    let run = stage.finish(accepted).await;
    assert_eq!((&run["status"], &run["made"]), (&json!("finished"), &json!(20)), "{run}");
    assert_eq!(stage.count("select count(*) from job_queue where job_kind = 'test.other'").await, 10);
}

#[tokio::test]
async fn who_is_paused_stays_so_who_is_cancelled_is_over_and_each_move_is_audited() {
    let stage = Stage::new(20, json!({})).await;
    let first = stage.begin("backfill", ", p_batch => 5").await;
    assert_eq!(stage.set_status(&first, "paused", "").await["was"], "running");
    let still = stage.step(&first, ", 5").await;
    assert_eq!(
        (&still["status"], &still["made"], &still["note"]),
        (&json!("paused"), &json!(5), &json!("a test"))
    );
    stage.set_status(&first, "running", "").await;
    assert_eq!(stage.step(&first, ", 5").await["made"], json!(10));
    let cancelled = stage.set_status(&first, "cancelled", "").await;
    assert!(cancelled["ended_at"].is_string(), "{cancelled}");
    assert_eq!(stage.step(&first, ", 5").await["status"], "cancelled");
    for status in ["running", "paused", "cancelled"] {
        assert_eq!(stage.set_status(&first, status, "").await["reason"], "illegal_transition", "{status}");
    }
    assert_eq!(stage.jobs().await, 10, "what it made stays");
    assert_eq!(
        stage
            .count("select count(*) from dot_config_audit where key = 'consumer.k.backfill' and actor <> ''")
            .await,
        4
    );
    let unknown = stage.outbox.answer("fn_consumer_backfill_step(gen_random_uuid())").await;
    assert_eq!(unknown["reason"], "not_found");
}

#[tokio::test]
async fn a_terminal_an_unknown_and_a_disabled_consumer_are_refused_with_the_reason() {
    let stage = Stage::new(3, json!({"enabled": false})).await;
    stage.outbox.consumer("end", "iu", json!({"job_kind": null})).await;
    for (call, reason) in [
        ("fn_consumer_backfill('end')", "terminal"),
        ("fn_consumer_replay('end')", "terminal"),
        ("fn_consumer_backfill('nobody')", "not_found"),
        ("fn_consumer_backfill('k', p_dry_run => false)", "consumer_disabled"),
    ] {
        let answer = stage.outbox.answer(call).await;
        assert_eq!((&answer["refused"], &answer["reason"]), (&json!(true), &json!(reason)), "{call}");
    }
    let dry = stage.outbox.answer("fn_consumer_backfill('k')").await;
    assert_eq!((&dry["made"], &dry["obstacle"]["reason"]), (&json!(3), &json!("consumer_disabled")), "{dry}");
    assert_eq!(stage.count("select count(*) from consumer_backfill").await, 0);
}

#[tokio::test]
async fn only_operators_may_rehearse_and_readers_see_what_runs() {
    let stage = Stage::new(3, json!({})).await;
    stage.real("backfill", "").await;
    for (role, may) in [
        ("reveille_operator", true),
        ("reveille_reader", false),
        ("reveille_dispatcher", false),
        ("reveille_executor", false),
    ] {
        let name = format!("r{}", uuid::Uuid::new_v4().simple());
        let url = login(&stage.outbox.client, &stage.db().url(), &name, &format!("in role {role}")).await;
        let client = connect(&url).await;
        for call in [
            "fn_consumer_backfill('k')",
            "fn_consumer_replay('k')",
            "fn_consumer_diff('{\"consumer_key\": \"k\"}')",
        ] {
            let done = client.query_one(&format!("select {call}"), &[]).await;
            let code = done.as_ref().err().and_then(|error| error.code()).map(|code| code.code().to_owned());
            assert_eq!(code.as_deref(), (!may).then_some("42501"), "{role} {call}");
        }
        let seen = client.query_one("select count(*) from v_consumer_backfill", &[]).await.unwrap();
        assert_eq!(seen.get::<_, i64>(0), 1, "{role}");
        drop(client);
        stage.run(&format!("drop role {name}")).await;
    }
}

#[tokio::test]
async fn a_run_without_a_runner_is_a_line_of_health() {
    let stage = Stage::new(20, json!({})).await;
    let first = stage.begin("backfill", ", p_batch => 5").await;
    let check = |minutes: i32| {
        format!(
            "select count(*) from fn_consumer_backfill_check(clock_timestamp() + interval '{minutes} minutes')"
        )
    };
    assert_eq!((stage.count(&check(5)).await, stage.count(&check(11)).await), (0, 1));
    stage.set_status(&first, "paused", "").await;
    assert_eq!((stage.count(&check(11)).await, stage.count(&check(1450)).await), (0, 1));
    stage.set_status(&first, "running", "").await;
    stage.set_status(&first, "failed", "").await;
    assert_eq!(stage.count(&check(0)).await, 1);
    let (code, health, _) = crate::commands::json(stage.db(), &["health"]);
    let lines = health.as_array().unwrap_or_else(|| panic!("{code:?} {health}"));
    assert!(lines.iter().any(|one| one["component"] == "backfill" && one["name"] == "k"), "{health}");
    // people are told what to do about it, by the command and on the first page
    let mend = format!("consumers backfill --resume {}", first["backfill_id"].as_str().unwrap());
    let (_, told, _) = crate::commands::words(stage.db(), &["health"]);
    assert!(told.contains(&mend) && told.contains("somebody asked for these jobs"), "{told}");
    let face = Served::start(server_at(&stage.db().url()), None, Duration::ZERO).await;
    let page = get(face.address(), "/").await.body;
    assert!(page.contains(&mend) && page.contains("href=\"/consumers/k\""), "{page}");
    face.stop().await;
    stage.set_status(&first, "cancelled", "").await;
    assert_eq!(stage.count(&check(100_000)).await, 0);
}

#[tokio::test]
async fn events_whose_jobs_would_not_be_known_any_more_are_not_made_again() {
    let stage = Stage::new(100, json!({})).await;
    // as if the month of the first 40 had gone
    stage.run("update job_archive_forgotten set until = (select created_at from event_outbox order by created_at offset 40 limit 1)").await;
    let dry = stage.dry("backfill", "").await;
    assert_eq!(dry["made"], json!(100), "of a consumer that came later no key can have gone");
    // another one that came before
    let old = stage.begin("backfill", ", p_batch => 10").await;
    stage
        .run("update consumer_registry set created_at = '2020-01-01', updated_at = updated_at where consumer_key = 'k'")
        .await;
    let stopped = stage.step(&old, ", 10").await;
    assert_eq!(
        (&stopped["refused"], &stopped["reason"], &stopped["status"]),
        (&json!(true), &json!("keys_forgotten"), &json!("paused")),
        "one that was under way: {stopped}"
    );
    assert_eq!(stage.set_status(&old, "cancelled", "").await["status"], "cancelled");
    let since = ", p_since => '2020-01-01'";
    let refused = stage.begin("backfill", since).await;
    assert_eq!((&refused["reason"], stage.jobs().await), (&json!("keys_forgotten"), 10), "{refused}");
    let page = "fn_consumer_backfill('k', '2020-01-01')";
    assert_eq!(stage.outbox.answer(page).await["obstacle"]["reason"], "keys_forgotten", "a dry run says so");
    let (code, text, err) =
        words(stage.db(), &["consumers", "backfill", "k", "--since", "190days", "--until", "10m", "--apply"]);
    assert!(code == Some(3) && err.contains("all are known from 20"), "{text}{err}");
    let made = stage.real("backfill", "").await;
    assert_eq!((&made["made"], &made["since"]), (&json!(60), &refused["forgotten_until"]), "{made}");
    let replay = stage.real("replay", since).await;
    assert_eq!(
        (&replay["status"], &replay["made"]),
        (&json!("finished"), &json!(70)),
        "what is known to have a job"
    );
}
