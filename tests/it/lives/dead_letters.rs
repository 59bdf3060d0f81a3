//! Dead letters: kept whole, decided about by those who may, replayed as the same job.

use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::Stage;
use crate::support::Program;

/// A job that died of one failure, and its dead letter.
async fn dead(stage: &Stage) -> (Uuid, Uuid) {
    stage.set("queue.retry.default.max_attempts", "1").await;
    let id = stage.enqueue("any").await;
    assert_eq!(stage.fail(id, "boom").await["status"], "dead_letter");
    (id, newest(stage, id).await)
}

async fn newest(stage: &Stage, id: Uuid) -> Uuid {
    let newest =
        "select dead_letter_id from job_dead_letter where job_id = $1 order by created_at desc limit 1";
    stage.client.query_one(newest, &[&id]).await.unwrap().get(0)
}

async fn letter(stage: &Stage, id: Uuid) -> Value {
    stage.value("select to_jsonb(d) from job_dead_letter d where d.dead_letter_id = $1", &[&id]).await
}

async fn triage(stage: &Stage, id: Uuid, status: &str) -> Value {
    stage.value("select fn_job_dead_letter_triage($1, $2, 'test', 'looked at')", &[&id, &status]).await
}

async fn replay(stage: &Stage, id: Uuid, dry_run: bool) -> Value {
    stage.value("select fn_job_dead_letter_replay($1, 'ticket 1', $2)", &[&id, &dry_run]).await
}

/// The gate is open and the dead letter marked.
async fn ready(stage: &Stage, id: Uuid) {
    stage.set("queue.dlq.replay_enabled", "true").await;
    assert_eq!(triage(stage, id, "manual_replay").await["refused"], false);
}

#[tokio::test]
async fn a_dead_letter_holds_the_job_its_attempts_and_the_reason() {
    let stage = Stage::open().await;
    stage.set("queue.retry.default.max_attempts", "2").await;
    let id = stage.enqueue("any").await;
    stage.fail(id, "first").await;
    stage.time_passes().await;
    stage.fail(id, "second").await;
    let is = letter(&stage, newest(&stage, id).await).await;
    assert_eq!((&is["reason_class"], &is["error"]), (&json!("attempts_exhausted"), &json!("second")));
    assert_eq!((&is["triage_status"], &is["job"]["attempts"]), (&json!("open"), &json!(2)));
    let errors: Vec<&Value> =
        is["attempts"].as_array().unwrap().iter().map(|attempt| &attempt["error"]).collect();
    assert_eq!(errors, [&json!("first"), &json!("second")]);

    let other = stage.enqueue("any").await;
    let token = stage.claim().await;
    stage.value("select fn_job_fail_permanent($1, $2, 'never')", &[&other, &token]).await;
    assert_eq!(letter(&stage, newest(&stage, other).await).await["reason_class"], "permanent");

    let resting = stage.enqueue("any").await;
    let token = stage.claim().await;
    stage.value("select fn_job_fail_permanent($1, $2, 'no', false)", &[&resting, &token]).await;
    assert_eq!(stage.job(resting).await["status"], "failed");
    assert_eq!(
        stage.value("select count(*) from job_dead_letter", &[]).await,
        2,
        "a refusal rests without one"
    );
}

#[tokio::test]
async fn a_replay_is_the_same_job_with_nothing_spent_and_its_history_kept() {
    let stage = Stage::open().await;
    let (id, first) = dead(&stage).await;
    ready(&stage, first).await;
    assert_eq!(replay(&stage, first, false).await["refused"], false);
    let job = stage.job(id).await;
    assert_eq!(
        (&job["status"], &job["attempts"], &job["error_count"]),
        (&json!("queued"), &json!(0), &json!(1))
    );
    let is = letter(&stage, first).await;
    assert_eq!((&is["triage_status"], &is["authorization_source"]), (&json!("closed"), &json!("ticket 1")));
    assert_eq!(stage.outcomes(id).await, json!(["transient"]));

    assert_eq!(stage.fail(id, "again").await["status"], "dead_letter");
    let second = letter(&stage, newest(&stage, id).await).await;
    assert_eq!(second["previous_dead_letter_id"], json!(first), "it names the one before");
    assert_eq!(second["attempts"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_replay_asks_for_the_gate_the_triage_and_where_it_was_allowed() {
    let stage = Stage::open().await;
    let (id, dead) = dead(&stage).await;
    let before = stage.job(id).await;
    let reason = async || replay(&stage, dead, false).await["reason"].clone();
    assert_eq!(reason().await, "replay_disabled");
    stage.set("queue.dlq.replay_enabled", "true").await;
    assert_eq!(reason().await, "not_triaged");
    for status in ["investigating", "discarded", "superseded", "closed", "open"] {
        triage(&stage, dead, status).await;
        assert_eq!(reason().await, "not_triaged", "{status}");
    }
    assert_eq!(replay(&stage, Uuid::nil(), false).await["reason"], "not_found");
    triage(&stage, dead, "manual_replay").await;
    let silent = "select fn_job_dead_letter_replay($1, ' ', false)";
    let error = stage.client.query_one(silent, &[&dead]).await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("p_authorization_source"));
    let dry = replay(&stage, dead, true).await;
    assert_eq!((&dry["dry_run"], &dry["job_id"]), (&json!(true), &json!(id)));
    assert_eq!(stage.job(id).await, before, "a dry run changes nothing");
    assert_eq!(letter(&stage, dead).await["triage_status"], "manual_replay");
}

#[tokio::test]
async fn two_operators_replay_the_same_dead_letter_and_one_is_refused() {
    let stage = Stage::open().await;
    let (id, dead) = dead(&stage).await;
    ready(&stage, dead).await;
    let other = stage.db.client().await;
    stage.client.batch_execute("begin").await.unwrap();
    assert_eq!(replay(&stage, dead, false).await["refused"], false);
    let second = tokio::spawn(async move {
        let replay = "select fn_job_dead_letter_replay($1, 'ticket 2', false)";
        other.query_one(replay, &[&dead]).await.unwrap().get::<_, Value>(0)
    });
    stage.client.batch_execute("commit").await.unwrap();
    assert_eq!(second.await.unwrap()["reason"], "not_triaged");
    assert_eq!(stage.job(id).await["status"], "queued");
    assert_eq!(letter(&stage, dead).await["authorization_source"], "ticket 1");
}

#[tokio::test]
async fn who_may_triage_and_replay_is_a_row_for_each_domain() {
    let stage = Stage::open().await;
    let (_, dead) = dead(&stage).await;
    stage.set("queue.dlq.replay_enabled", "true").await;
    let role = format!("clerk_{}", Uuid::new_v4().simple());
    let begin = format!(
        "create role {role}; grant usage on schema public to {role}; update job_dead_letter set event_domain = 'iu';
         set session authorization {role}"
    );
    stage.client.batch_execute(&begin).await.unwrap();
    let call = format!("select fn_job_dead_letter_triage('{dead}', 'manual_replay', 'test')");
    let denied = stage.client.batch_execute(&call).await.unwrap_err();
    assert!(denied.as_db_error().unwrap().message().contains("permission denied"), "{denied:?}");
    let grant = async |domain: &str, replay: bool| {
        let row = format!(
            "reset session authorization;
             select fn_dead_letter_authority_set('{domain}', '{role}', true, {replay}, 'test', 'a test');
             set session authorization {role}"
        );
        stage.client.batch_execute(&row).await.unwrap();
    };
    grant("staging", true).await;
    assert_eq!(triage(&stage, dead, "manual_replay").await["reason"], "not_authorized", "another domain");
    grant("iu", false).await;
    assert_eq!(triage(&stage, dead, "manual_replay").await["refused"], false);
    assert_eq!(replay(&stage, dead, false).await["reason"], "not_authorized", "triage alone");
    grant("iu", true).await;
    assert_eq!(replay(&stage, dead, false).await["refused"], false);
    let end = format!("reset session authorization; drop owned by {role}; drop role {role}");
    stage.client.batch_execute(&end).await.unwrap();
}

#[tokio::test]
async fn a_redrive_is_bounded_in_number_and_rate_and_dry_at_first() {
    let stage = Stage::open().await;
    let mut jobs = Vec::new();
    for _ in 0..4 {
        let (id, dead) = dead(&stage).await;
        ready(&stage, dead).await;
        jobs.push(id);
    }
    triage(&stage, newest(&stage, jobs[3]).await, "discarded").await;
    let redrive = async |limit: i32, dry_run: bool| {
        let call = r#"select fn_job_dead_letter_redrive('{"job_kind": "any"}', 'ticket 1', $1, 0.5, $2)"#;
        stage.value(call, &[&limit, &dry_run]).await
    };
    let dry = redrive(10, true).await;
    assert_eq!((&dry["found"], &dry["replayed"], &dry["dry_run"]), (&json!(3), &json!(3), &json!(true)));
    assert_eq!(stage.job(jobs[0]).await["status"], "dead_letter");
    assert_eq!(redrive(2, false).await["replayed"], 2);
    let due = "select round(extract(epoch from max(scheduled_at) - min(scheduled_at)))::int
        from job_queue where status = 'queued'";
    assert_eq!(stage.value(due, &[]).await, 2, "one every two seconds");
    assert_eq!(stage.job(jobs[2]).await["status"], "dead_letter", "the oldest first");
    let wrong = r#"select fn_job_dead_letter_redrive('{"kind": "any"}', 'ticket 1')"#;
    let error = stage.client.query_one(wrong, &[]).await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("kind is no filter"));
}

#[tokio::test]
async fn dead_letters_of_the_hosts_older_worker_stand_beside_ours() {
    let stage = Stage::open().await;
    dead(&stage).await;
    let all = "select jsonb_agg(jsonb_build_array(source, reason_class, is_open) order by source) from v_dead_letter_all";
    assert_eq!(stage.value(all, &[]).await, json!([["job_queue", "attempts_exhausted", true]]));
    let legacy = "create table iu_route_dead_letter (
          id uuid primary key default gen_random_uuid(), idempotency_key text unique, failure_code text,
          event_snapshot jsonb, resolved_at timestamptz, resolution text, created_at timestamptz default now());
        insert into iu_route_dead_letter (idempotency_key, failure_code) values ('k', 'worker_process_error')";
    stage.client.batch_execute(legacy).await.unwrap();
    let both = json!([["iu_route", "worker_process_error", true], ["job_queue", "attempts_exhausted", true]]);
    assert_eq!(stage.value(all, &[]).await, both);
}

#[tokio::test]
async fn an_operator_goes_from_the_list_to_the_replay_by_commands() {
    let stage = Stage::open().await;
    let (id, dead) = dead(&stage).await;
    let dlq = async |arguments: &[&str]| {
        let ended = Program::start(&stage.db.url(), arguments, &[]).ends().await;
        (ended.code, ended.out + &ended.err)
    };
    let dead_id = dead.to_string();
    let (code, out) = dlq(&["dlq", "list"]).await;
    assert!(code == Some(0) && out.contains(&dead_id) && out.contains("boom"), "{out}");
    let (code, out) = dlq(&["dlq", "show", &dead_id]).await;
    assert!(code == Some(0) && out.contains("attempts_exhausted"), "{out}");
    let replay = ["dlq", "replay", &dead_id, "--authorization", "ticket 1"];
    let (code, out) = dlq(&replay).await;
    assert!(code == Some(3) && out.contains("replay_disabled") && out.contains("gate open"), "{out}");
    stage.set("queue.dlq.replay_enabled", "true").await;
    let (code, out) = dlq(&replay).await;
    assert!(code == Some(3) && out.contains("not_triaged") && out.contains("dlq triage"), "{out}");
    let (code, out) = dlq(&["dlq", "triage", &dead_id, "manual_replay", "--note", "mended"]).await;
    assert!(code == Some(0) && out.contains("open → manual_replay"), "{out}");
    let (code, out) = dlq(&replay).await;
    assert!(code == Some(0) && out.contains("dry run"), "{out}");
    let (code, out) =
        dlq(&["dlq", "redrive", "--kind", "any", "--authorization", "ticket 1", "--apply"]).await;
    assert!(code == Some(0) && out.contains("1 of 1 dead letters are queued again"), "{out}");
    assert_eq!(stage.job(id).await["status"], "queued");
    let (code, out) = dlq(&["jobs", "policy", "any"]).await;
    assert!(code == Some(0) && out.contains("queue.retry.default.max_attempts"), "{out}");
    let (code, out) = dlq(&["jobs", "release", &id.to_string(), "--reason", "x"]).await;
    assert!(code == Some(3) && out.contains("illegal_transition"), "{out}");
    let (code, out) = dlq(&["jobs", "cancel", &id.to_string(), "--reason", "enough"]).await;
    assert!(code == Some(0) && out.contains("is cancelled"), "{out}");
    let (code, out) = dlq(&["dlq", "list"]).await;
    assert!(code == Some(0) && out.contains("no such dead letters"), "{out}");
}

#[tokio::test]
async fn a_redrive_is_not_held_up_by_letters_that_cannot_be_replayed() {
    let stage = Stage::open().await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let (id, dead) = dead(&stage).await;
        ready(&stage, dead).await;
        jobs.push(id);
    }
    let gone = "update job_queue set status = 'cleaned' where job_id = any ($1)";
    stage.client.execute(gone, &[&&jobs[..2]]).await.unwrap();
    let redrive = "select fn_job_dead_letter_redrive(null, 'ticket 1', 2, 10, false)";
    assert_eq!(stage.value(redrive, &[]).await["replayed"], 1);
    assert_eq!(stage.job(jobs[2]).await["status"], "queued");
}

#[tokio::test]
async fn a_view_of_somebody_else_is_not_taken_for_a_table_of_the_host() {
    let stage = Stage::open().await;
    let role = format!("reader_{}", Uuid::new_v4().simple());
    let trap = format!(
        "create role {role} in role reveille_reader; set session authorization {role};
         create function pg_temp.caught() returns int language sql as $$ select 1 / (session_user <> current_user)::int $$;
         create temp view iu_route_dead_letter as select pg_temp.caught() as id;
         create temp view iu_route_worker_cursor as select pg_temp.caught()::text as worker_name"
    );
    stage.client.batch_execute(&trap).await.unwrap();
    assert_eq!(stage.value("select count(*) from v_dead_letter_all", &[]).await, 0);
    assert_eq!(
        stage.value("select count(*) from v_queue_health where component = 'legacy_cursor'", &[]).await,
        0
    );
    let end = format!("reset session authorization; drop owned by {role} cascade; drop role {role}");
    stage.client.batch_execute(&end).await.unwrap();
}
