//! Jobs that ask for a workflow which cannot be made: each is a dead letter, and nothing else stands still.

use serde_json::{Value, json};

use super::stage::{Stage, node};
use crate::support::{Program, SOON, connect, login, wait_until};

/// Passes every check of a template, and cannot be made: a trigger of the host refuses its job where the note is long.
async fn poisoned() -> Stage {
    let stage = Stage::open().await;
    let schema = json!({"type": "object", "properties": {"note": {"type": "string"}}});
    let nodes = json!([{"key": "a", "job_kind": "a.a", "safe_payload": {"x": "{params.note}"}}]);
    assert_eq!(stage.put_with("poison", schema, nodes, json!([])).await["refused"], false);
    let trigger = "
        create function refuse_long() returns trigger language plpgsql as $$ begin raise exception 'the host refuses it'; end $$;
        create trigger refuse_long before insert on job_queue for each row
          when (new.job_kind = 'a.a' and length(new.safe_payload::text) > 8000) execute function refuse_long()";
    stage.client.batch_execute(trigger).await.unwrap();
    stage.put("t", json!([node("a")]), json!([])).await;
    stage
}

impl Stage {
    async fn ask(&self, kind: &str, note: usize) -> Value {
        let payload = json!({"note": "n".repeat(note)});
        self.value("select fn_job_enqueue($1, 'test', $2)", &[&kind, &payload]).await
    }

    async fn starts(&self) -> Value {
        let starts = "select jsonb_object_agg(status, jobs) from (
            select status, count(*) as jobs from job_queue where job_kind like 'workflow:%' group by 1) s";
        self.value(starts, &[]).await
    }
}

#[tokio::test]
async fn a_workflow_that_cannot_be_made_is_a_dead_letter_and_its_event_stops_no_domain() {
    let stage = poisoned().await;
    let put = r#"select fn_consumer_put('{"consumer_key": "poison", "event_domain": "system", "event_type": "queue_dispatch_gap",
        "job_kind": "workflow:poison", "enabled": true}', 'test', p_set_enabled => true)"#;
    stage.client.batch_execute(put).await.unwrap();
    for note in [9000, 10] {
        let event = "select fn_event_emit('system', 'queue_dispatch_gap', 's', $1)";
        stage.value(event, &[&json!({"note": "n".repeat(note)})]).await;
    }
    let pass = stage.value("select fn_consumer_dispatch_batch('system')", &[]).await;
    assert_eq!((&pass["events"], &pass["jobs"]), (&json!(2), &json!(2)));
    assert_eq!(stage.starts().await, json!({"dead_letter": 1, "succeeded": 1}));
    let letter = "select jsonb_build_array(reason_class, error) from job_dead_letter";
    let letter = stage.value(letter, &[]).await;
    assert_eq!(letter[0], "permanent");
    assert!(letter[1].as_str().unwrap().starts_with("not_started: "), "{letter}");
    assert_eq!(stage.run(&[]).await, ["a"]);
}

#[tokio::test]
async fn those_before_and_behind_one_that_cannot_be_made_are_started_by_the_same_refresh() {
    let stage = poisoned().await;
    for note in [1, 9000, 2, 3, 9001, 4] {
        stage.ask("workflow:poison", note).await;
    }
    stage.ask("workflow:t", 1).await;
    let answer = stage.value("select fn_job_workflow_refresh()", &[]).await;
    assert_eq!(answer["started"], 5, "{answer}");
    assert_eq!(stage.starts().await, json!({"dead_letter": 2, "succeeded": 5}));
    assert_eq!(stage.run(&[]).await.len(), 5);
}

#[tokio::test]
async fn a_dead_start_is_replayed_like_any_other_once_what_stopped_it_is_gone() {
    let stage = poisoned().await;
    stage.ask("workflow:poison", 9000).await;
    stage.value("select fn_job_workflow_refresh()", &[]).await;
    stage.client.batch_execute("drop trigger refuse_long on job_queue").await.unwrap();
    stage.value("select fn_gate_set('queue.dlq.replay_enabled', 'true', 'test', 'test')", &[]).await;
    let replay = "select fn_job_dead_letter_triage(dead_letter_id, 'manual_replay', 'test'),
        fn_job_dead_letter_replay(dead_letter_id, 'test', false) from job_dead_letter";
    stage.client.batch_execute(replay).await.unwrap();
    assert_eq!(stage.value("select fn_job_workflow_refresh()", &[]).await["started"], 1);
    assert_eq!(stage.starts().await, json!({"succeeded": 1}));
}

#[tokio::test]
async fn of_very_many_that_cannot_be_made_each_call_takes_some_and_none_is_lost() {
    let stage = poisoned().await;
    for _ in 0..45 {
        stage.ask("workflow:poison", 9000).await;
    }
    for left in [25, 5] {
        assert_eq!(stage.value("select fn_job_workflow_refresh()", &[]).await["more"], true);
        assert_eq!(stage.starts().await, json!({"dead_letter": 45 - left, "queued": left}));
    }
    assert_eq!(stage.value("select fn_job_workflow_refresh()", &[]).await["more"], false);
    assert_eq!(stage.starts().await, json!({"dead_letter": 45}));
}

#[tokio::test]
async fn a_tick_prunes_and_sweeps_though_the_refresh_fails_and_names_it() {
    let stage = Stage::open().await;
    let broken = "
        create or replace function fn_job_workflow_refresh(p_limit int default 100, p_now timestamptz default null) returns jsonb
        language plpgsql as $$ begin raise exception 'this refresh is broken'; end $$;
        select fn_job_enqueue('a.a', 'test', p_ordering_key => 'k')";
    stage.client.batch_execute(broken).await.unwrap();
    let ended = Program::start(&stage.db.url(), &["tick"], &[]).ends().await;
    assert_eq!(ended.code, Some(1), "{}", ended.out);
    assert!(
        ended.err.contains("looking after workflows") && ended.err.contains("this refresh is broken"),
        "{}",
        ended.err
    );
    assert!(ended.out.contains("arrivals pruned"), "{}", ended.out);
    assert_eq!(stage.value("select ordering_slot from job_queue", &[]).await, 1, "the order was seen to");
}

#[tokio::test]
async fn who_may_not_start_workflows_may_not_ask_for_one_by_a_job() {
    let stage = poisoned().await;
    let name = format!("login_{}", uuid::Uuid::new_v4().simple());
    for (role, may) in [("reveille_executor", false), ("reveille_operator", true)] {
        let url = login(&stage.client, &stage.db.url(), &name, &format!("in role {role}")).await;
        let client = connect(&url).await;
        for (n, call) in [
            "fn_job_enqueue('workflow:t', 'test')",
            "fn_job_enqueue_many('[{\"job_kind\": \"a.a\", \"actor\": \"test\"}, {\"job_kind\": \"workflow:t\", \"actor\": \"test\"}]')",
        ]
        .iter()
        .enumerate()
        {
            let answer: Value = client.query_one(&format!("select {call}"), &[]).await.unwrap().get(0);
            assert_eq!(answer["refused"], !may, "{role}, {n}: {answer}");
            if !may {
                assert_eq!((&answer["reason"], &answer["job_kind"]), (&json!("workflow_not_allowed"), &json!("workflow:t")));
            }
        }
        let answer: Value =
            client.query_one("select fn_job_enqueue('a.a', 'test')", &[]).await.unwrap().get(0);
        assert_eq!(answer["created"], true, "{role} may ask for other work");
        drop(client);
        wait_until("the role can go", SOON, async || {
            stage.client.batch_execute(&format!("drop role {name}")).await.is_ok()
        })
        .await;
    }
    assert_eq!(stage.starts().await, json!({"queued": 2}));
}

#[tokio::test]
async fn a_schedule_that_an_operator_has_enabled_starts_workflows_whoever_ticks() {
    let stage = poisoned().await;
    let put = "
        select fn_schedule_put('nightly', 'workflow:t', 'test', p_every => '1 day', p_starts_at => '2026-06-01T10:00:00Z',
          p_now => '2026-06-01T09:00:00Z');
        select fn_schedule_enable('nightly', true, 'test', 'test', '2026-06-01T09:00:00Z')";
    stage.client.batch_execute(put).await.unwrap();
    let name = format!("login_{}", uuid::Uuid::new_v4().simple());
    let url = login(&stage.client, &stage.db.url(), &name, "in role reveille_dispatcher").await;
    let ended = Program::start(&url, &["tick"], &[]).ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(stage.starts().await, json!({"succeeded": 1}));
    wait_until("the role can go", SOON, async || {
        stage.client.batch_execute(&format!("drop role {name}")).await.is_ok()
    })
    .await;
}
