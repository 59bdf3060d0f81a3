//! Gates, and what must be alive.

use super::Patient;
use crate::commands::words;

#[tokio::test]
async fn a_gate_is_a_finding_only_while_something_waits_behind_it() {
    let patient = Patient::new().await;
    for (gate, harm) in [
        ("queue.job_substrate.enabled", ""),
        ("queue.worker.enabled", "select fn_job_enqueue('test.seen', 'test')"),
    ] {
        patient.run(harm).await;
        patient.run(&format!("select fn_gate_set('{gate}', 'false', 'test', 'x')")).await;
        patient.mends(&patient.sees("gate_closed", gate)).await;
        patient.is_healthy();
    }
    patient.run("update consumer_registry set enabled = false; delete from job_queue").await;
    patient.run("select fn_gate_set(k, 'false', 'test', 'x') from unnest(array['queue.worker.enabled', 'queue.job_substrate.enabled', 'queue.notify.bridge_enabled']) k").await;
    patient.is_healthy();
}

#[tokio::test]
async fn an_executor_that_is_silent_or_never_came_is_named_until_it_is_forgotten() {
    let patient = Patient::new().await;
    patient.run("select fn_queue_heartbeat_register('gone', 'Agent'), fn_queue_heartbeat_register('born', 'Agent')").await;
    patient
        .run("update queue_heartbeat set last_beat_at = now() - interval '1 hour' where executor_name = 'gone';
              update queue_heartbeat set last_beat_at = null where executor_name = 'born'")
        .await;
    for (name, subject) in [("executor_silent", "executor gone"), ("executor_never_beat", "executor born")] {
        let mend = patient.sees(name, subject);
        patient.mends(&mend[mend.find("reveille").unwrap()..]).await;
    }
    patient.is_healthy();
}

#[tokio::test]
async fn events_that_nobody_dispatches_and_a_sweep_that_stands_still_are_named_and_a_tick_mends_them() {
    let patient = Patient::new().await;
    patient.run("select fn_event_emit('system', 'queue_dispatch_gap', '1')").await;
    patient.run("update event_outbox set created_at = now() - interval '1 hour'").await;
    patient
        .run("insert into dispatch_sweep (swept_at, swept_from, watermark, snapshot, missing)
              values (now() - interval '2 hours', now() - interval '3 hours', now() - interval '2 hours', pg_current_snapshot(), 0)")
        .await;
    patient.sees("dispatch_behind", "cursor system");
    assert!(patient.sees("sweep_behind", "cursor sweep").contains("reveille tick"));
    assert_eq!(words(&patient.db, &["tick"]).0, Some(0));
    let found = patient.findings(&[]);
    assert!(
        !found
            .iter()
            .any(|one| ["dispatch_behind", "sweep_behind"].contains(&one["finding"].as_str().unwrap())),
        "{found:#?}"
    );
}

#[tokio::test]
async fn jobs_of_a_kind_of_which_nobody_lives_and_leases_that_nobody_frees_are_named() {
    let patient = Patient::new().await;
    patient.run("select fn_job_enqueue('x.y', 'test', p_executor => 'Codex', p_scheduled_at => now() - interval '1 hour')").await;
    patient.sees("nobody_alive", "backlog Codex");
    patient
        .run("select fn_queue_heartbeat_register('codex', 'Codex'), fn_queue_heartbeat_tick('codex')")
        .await;
    assert!(patient.findings(&[]).is_empty(), "somebody lives");
    patient
        .run("select fn_job_claim('codex'); update job_queue set lease_until = now() - interval '1 hour'")
        .await;
    let mend = patient.sees("leases_ended", "lease ended");
    patient.mends(&mend).await;
    let found = patient.findings(&[]);
    assert!(found.iter().all(|one| one["finding"] != "leases_ended"), "{found:#?}");
}
