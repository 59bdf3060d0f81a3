//! Silence: announced once when it begins and once when it ends, and never hidden by somebody else's beat.

use std::time::Duration;

use serde_json::{Value, json};

use super::stage::Stage;
use crate::support::{Program, SOON, Sidecar, polling, wait_until};

async fn check(stage: &Stage) -> Value {
    stage.value("select fn_queue_stale_check()", &[]).await
}

async fn events(stage: &Stage) -> Value {
    let events = "select coalesce(jsonb_agg(jsonb_build_array(event_type, event_subject_ref) order by created_at, id), '[]')
        from event_outbox where event_domain = 'system'";
    stage.value(events, &[]).await
}

/// The executor has not beaten for so many seconds.
async fn fall_silent(stage: &Stage, name: &str, seconds: i32) {
    let silence = format!(
        "update queue_heartbeat set last_beat_at = clock_timestamp() - interval '{seconds} s' where executor_name = '{name}'"
    );
    stage.client.batch_execute(&silence).await.unwrap();
}

#[tokio::test]
async fn a_silence_is_announced_once_and_its_end_once() {
    let stage = Stage::open().await;
    assert_eq!(check(&stage).await["silent"], 0);
    fall_silent(&stage, "one", 301).await;
    assert_eq!(check(&stage).await["silent"], 1);
    for _ in 0..3 {
        let again = check(&stage).await;
        assert_eq!(
            (&again["silent"], &again["stale"][0]["executor_name"]),
            (&json!(0), &json!("one")),
            "it lasts"
        );
    }
    stage.value("select fn_queue_heartbeat_tick('one')", &[]).await;
    assert_eq!(check(&stage).await["recovered"], 1);
    let ended = check(&stage).await;
    assert_eq!((&ended["recovered"], &ended["stale"]), (&json!(0), &json!([])));
    fall_silent(&stage, "one", 301).await;
    assert_eq!(check(&stage).await["silent"], 1, "the next silence");
    let all = json!([
        ["queue_worker_silent", "one"],
        ["queue_worker_recovered", "one"],
        ["queue_worker_silent", "one"]
    ]);
    assert_eq!(events(&stage).await, all);
}

#[tokio::test]
async fn each_executor_has_its_own_threshold() {
    let stage = Stage::open().await;
    let slow = "select fn_queue_heartbeat_register('slow', 'PG_worker', p_expected_cadence_seconds => 3600,
        p_stale_threshold_seconds => 7200)";
    stage.value(slow, &[]).await;
    for name in ["one", "slow"] {
        fall_silent(&stage, name, 1000).await;
    }
    assert_eq!(check(&stage).await["stale"].as_array().unwrap().len(), 1);
    let strict = stage.value("select fn_queue_stale_check(p_threshold_seconds => 10)", &[]).await;
    assert_eq!(strict["stale"].as_array().unwrap().len(), 2, "one threshold for all");
}

#[tokio::test]
async fn where_the_type_is_not_registered_it_is_only_named() {
    let stage = Stage::open().await;
    let unregister = "update event_type_registry set active = false where event_type = 'queue_worker_silent'";
    stage.client.batch_execute(unregister).await.unwrap();
    fall_silent(&stage, "one", 301).await;
    let answer = check(&stage).await;
    assert_eq!((&answer["silent"], &answer["missing_types"]), (&json!(1), &json!(["queue_worker_silent"])));
    assert_eq!(events(&stage).await, json!([]));
}

#[tokio::test]
async fn two_checks_at_once_announce_a_silence_once() {
    let stage = Stage::open().await;
    fall_silent(&stage, "one", 301).await;
    let other = stage.db.client().await;
    stage.client.batch_execute("begin").await.unwrap();
    assert_eq!(check(&stage).await["silent"], 1);
    let second: Value = other.query_one("select fn_queue_stale_check()", &[]).await.unwrap().get(0);
    assert_eq!(second["silent"], 0, "whoever has the row announces");
    stage.client.batch_execute("commit").await.unwrap();
    assert_eq!(events(&stage).await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn nobody_can_heal_a_worker_of_the_host_by_beating_for_it() {
    let stage = Stage::open().await;
    let refused = async |call: &str| stage.value(&format!("select {call}"), &[]).await["reason"].clone();
    let register = "fn_queue_heartbeat_register('iu_outbound_default', 'PG_worker')";
    assert_eq!(refused(register).await, "not_owner", "also where there is no such worker");
    let legacy = "create table iu_route_worker_cursor (
          worker_name text primary key, event_domain text, last_run_at timestamptz, events_seen bigint);
        insert into iu_route_worker_cursor values ('iu_outbound_default', 'iu', now() - interval '95 hours', 68),
          ('iu_other', 'iu', now(), 1)";
    stage.client.batch_execute(legacy).await.unwrap();
    assert_eq!(check(&stage).await["stale"][0]["executor_name"], "iu_outbound_default");
    for name in ["iu_outbound_default", "iu_other"] {
        assert_eq!(refused(&format!("fn_queue_heartbeat_tick('{name}')")).await, "not_owner");
        let takeover = format!("fn_queue_heartbeat_register('{name}', 'PG_worker', p_takeover => true)");
        assert_eq!(refused(&takeover).await, "not_owner");
    }
    let health = "select jsonb_agg(jsonb_build_array(component, name, status_hint) order by name)
        from v_queue_health where name like 'iu\\_%'";
    let rows =
        json!([["legacy_cursor", "iu_other", "fresh"], ["legacy_cursor", "iu_outbound_default", "stale"]]);
    assert_eq!(stage.value(health, &[]).await, rows, "each has one row");
    let ran = "update iu_route_worker_cursor set last_run_at = now()";
    stage.client.batch_execute(ran).await.unwrap();
    assert_eq!(check(&stage).await["recovered"], 1, "its own activity does");
}

#[tokio::test]
async fn the_sidecar_says_who_is_silent() {
    let stage = Stage::open().await;
    fall_silent(&stage, "one", 301).await;
    let mut settings = polling(&stage.db);
    settings.maintenance.heartbeat_interval = Duration::from_secs(1);
    let sidecar = Sidecar::start(settings);
    wait_until("the silence is announced", SOON, async || {
        events(&stage).await == json!([["queue_worker_silent", "one"]])
    })
    .await;
    sidecar.stop().await;
    let ended = Program::start(&stage.db.url(), &["tick"], &[]).ends().await;
    assert!(ended.out.contains("silent") && ended.out.contains("one"), "{}", ended.out);
}

#[tokio::test]
async fn a_name_is_refused_while_another_process_beats_under_it() {
    let stage = Stage::open().await;
    let register = async |instance: &str, takeover: bool| {
        let call = "select fn_queue_heartbeat_register('w', 'PG_worker', p_instance => $1, p_takeover => $2)";
        stage.value(call, &[&instance, &takeover]).await["reason"].clone()
    };
    let beat = async |instance: &str| {
        let call = "select fn_queue_heartbeat_tick('w', p_instance => $1)";
        stage.value(call, &[&instance]).await["refused"].clone()
    };
    assert_eq!(register("a", false).await, Value::Null);
    assert_eq!(register("a", false).await, Value::Null, "the same process, again");
    assert_eq!(register("b", false).await, "executor_alive");
    assert_eq!((beat("a").await, beat("b").await), (json!(false), json!(true)));
    fall_silent(&stage, "w", 301).await;
    assert_eq!(register("b", false).await, Value::Null, "a stale one gives way");
    assert_eq!((beat("a").await, beat("b").await), (json!(true), json!(false)));
    assert_eq!(register("a", true).await, Value::Null, "and one that is taken over");
    let claim = "select (select reason from fn_job_claim('w', p_instance => $1) where refused)";
    let claims = [stage.value(claim, &[&"a"]).await, stage.value(claim, &[&"b"]).await];
    assert_eq!(
        claims,
        [Value::Null, json!("executor_alive")],
        "the name that was taken over claims nothing more"
    );
    stage.value("select fn_queue_heartbeat_leave('w', 'a')", &[]).await;
    assert_eq!(register("c", false).await, Value::Null, "and one that said goodbye");
}

#[tokio::test]
async fn a_second_worker_of_a_name_waits_and_one_that_is_taken_over_ends() {
    let stage = Stage::open().await;
    let start = |more: &[&str]| {
        let arguments = [&["work", "--executor-name", "w", "--poll-only"], more].concat();
        let cadence = [("REVEILLE__MAINTENANCE__HEARTBEAT_INTERVAL", "1s")];
        Program::start(&stage.db.url(), &arguments, &cadence)
    };
    let mut first = start(&[]);
    first.says(&["w is working"]).await;
    let mut second = start(&[]);
    second.says(&["another process beats under this name", "--takeover"]).await;
    assert_eq!(start(&["--once"]).ends().await.code, Some(3), "once does not wait");
    let mut third = start(&["--takeover"]);
    third.says(&["w is working"]).await;
    let ended = first.ends().await;
    assert_eq!(ended.code, Some(3), "{}", ended.err);
    assert!(ended.err.contains("has taken over the name w"), "{}", ended.err);
    assert_eq!(third.stops().await.code, Some(0));
    second.says(&["w is working"]).await;
    assert_eq!(second.stops().await.code, Some(0));
}

#[tokio::test]
async fn a_program_from_cron_has_a_name_and_a_cadence_of_its_own() {
    let stage = Stage::open().await;
    let does = async |arguments: &[&str]| {
        let ended = Program::start(&stage.db.url(), arguments, &[]).ends().await;
        (ended.code, ended.out + &ended.err)
    };
    let register = ["executors", "register", "export", "--cadence", "1day", "--threshold", "26h"];
    assert_eq!(does(&register).await.0, Some(0));
    assert_eq!(does(&["executors", "beat", "export", "--status", "warn"]).await.0, Some(0));
    let row = "select jsonb_build_array(executor_kind, expected_cadence_seconds, stale_threshold_seconds, last_beat_status)
        from queue_heartbeat where executor_name = 'export'";
    assert_eq!(stage.value(row, &[]).await, json!(["external_worker", 86400, 93600, "warn"]));
    let (code, out) = does(&["executors", "beat", "nobody"]).await;
    assert!(code == Some(3) && out.contains("executor_not_registered"), "{out}");
    let (code, out) = does(&["executors", "register", "iu_outbound_default"]).await;
    assert!(code == Some(3) && out.contains("not_owner"), "{out}");
}

#[tokio::test]
async fn whatever_the_host_keeps_stops_neither_the_check_nor_the_view() {
    let stage = Stage::open().await;
    let legacy = "create table iu_route_worker_cursor (worker_name text, last_run_at timestamptz, events_seen text);
        insert into iu_route_worker_cursor values ('iu_outbound_default', '-infinity', '1'),
          ('iu_outbound_default', now() - interval '1 day', '2'), (' x', now(), 'many'), (repeat('y', 500), now(), '1'),
          ('MOT', now(), '1'), (null, now(), '1')";
    stage.client.batch_execute(legacy).await.unwrap();
    stage.value("select fn_queue_heartbeat_register('slow', 'PG_worker', p_expected_cadence_seconds => 2000000000)", &[]).await;
    let found = check(&stage).await;
    assert_eq!((&found["silent"], &found["emit_error"]), (&json!(1), &Value::Null), "{found}");
    let rows = "select jsonb_agg(jsonb_build_array(name, status_hint, value)) from v_queue_health where component = 'legacy_cursor'";
    assert_eq!(stage.value(rows, &[]).await, json!([["iu_outbound_default", "stale", 2]]));
    let forget = "select fn_queue_heartbeat_unregister('iu_outbound_default')";
    assert_eq!(
        stage.value(forget, &[]).await["reason"],
        "not_owner",
        "or it would be announced again and again"
    );
}

#[tokio::test]
async fn a_check_that_somebody_holds_open_keeps_nobody_waiting() {
    let stage = Stage::open().await;
    let legacy = "create table iu_route_worker_cursor (worker_name text, last_run_at timestamptz);
        insert into iu_route_worker_cursor values ('iu_outbound_default', now())";
    stage.client.batch_execute(legacy).await.unwrap();
    check(&stage).await;
    stage.client.batch_execute("begin; update iu_route_worker_cursor set last_run_at = now()").await.unwrap();
    check(&stage).await;
    let other = stage.db.client().await;
    other.batch_execute("set statement_timeout = '2s'; select fn_queue_stale_check()").await.unwrap();
    stage.client.batch_execute("commit").await.unwrap();
}

#[tokio::test]
async fn a_backlog_with_a_live_worker_is_no_alarm_and_one_without_is() {
    let stage = Stage::open().await;
    let late = "select fn_queue_heartbeat_unregister('one');
        insert into job_queue (job_kind, actor, idempotency_key, scheduled_at) values ('any', 'test', 'k', now() - interval '100 s')";
    stage.client.batch_execute(late).await.unwrap();
    let hint = async || {
        stage
            .value(
                "select status_hint from v_queue_health where (component, name) = ('backlog', 'PG_worker')",
                &[],
            )
            .await
    };
    assert_eq!(hint().await, "stale");
    let beat = async |name: &str, role: &str| {
        let register = "select fn_queue_heartbeat_register($1, 'PG_worker', p_metadata => jsonb_build_object('role', $2::text))";
        stage.value(register, &[&name, &role]).await;
    };
    beat("d", "dispatcher").await;
    assert_eq!(hint().await, "stale", "it claims nothing");
    beat("w", "worker").await;
    assert_eq!(hint().await, "fresh");
}
