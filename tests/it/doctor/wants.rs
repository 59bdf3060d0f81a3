//! Consumers and event types.

use super::Patient;

const ELEVEN: &str =
    "select fn_event_emit('system', 'queue_dispatch_gap', n::text) from generate_series(1, 11) n;
    select fn_consumer_dispatch_batch('system', 100); delete from job_queue";

#[tokio::test]
async fn a_filter_that_nothing_passes_is_named_with_how_many_it_has_seen() {
    let patient = Patient::new().await;
    patient.run(ELEVEN).await;
    patient.run("update consumer_registry set filter = '$.payload.no == 1'").await;
    let mend = patient.sees("consumer_never_matches", "consumer seen");
    let what = patient.findings(&[])[0]["what"].as_str().unwrap().to_owned();
    assert!(what.contains("of the last 11 events"), "{what}");
    let instead = "its filter ($.\"payload\".\"no\" == 1) has let none through; instead: $.\"payload\".\"no\" is not there (11 of them)";
    assert!(what.contains(instead), "{what}");
    patient.mends(&mend[mend.find("reveille consumers disable").unwrap()..]).await;
    patient.is_healthy();
}

#[tokio::test]
async fn a_filter_that_some_events_pass_is_none() {
    let patient = Patient::new().await;
    patient.run(ELEVEN).await;
    patient.run("update consumer_registry set filter = '$.event.event_subject_ref == \"7\"'").await;
    patient.is_healthy();
}

#[tokio::test]
async fn a_consumer_whose_jobs_nobody_runs_is_named() {
    let patient = Patient::new().await;
    patient.run("delete from job_handler").await;
    let mend = patient.sees("unknown_kind", "consumer seen");
    assert!(mend.contains("reveille work --exec CMD --job-kinds test.seen"), "{mend}");
    patient.run("insert into job_handler (job_kind, handler) values ('test.seen', 'nothing(jsonb)')").await;
    patient.is_healthy();
    patient.run("select fn_queue_heartbeat_unregister('hand')").await;
    let mend = patient.sees("consumer_no_executor", "consumer seen");
    patient.mends(&mend[mend.find("reveille consumers disable").unwrap()..]).await;
    patient.is_healthy();
}

#[tokio::test]
async fn a_type_that_is_wanted_or_seen_and_not_registered_is_named() {
    let patient = Patient::alone().await;
    patient.run("delete from event_type_registry where event_type = 'queue_dispatch_gap'").await;
    patient
        .run(
            "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane)
              values ('system', 'out_of_nowhere', 'update', 'delayed')",
        )
        .await;
    patient.pruned().await;
    for subject in ["system.queue_dispatch_gap", "system.out_of_nowhere"] {
        let mend = patient.sees("event_type_unregistered", subject);
        patient.run(&mend).await;
    }
    patient.is_healthy();
}

#[tokio::test]
async fn a_registered_type_that_the_outbox_refuses_is_named() {
    let patient = Patient::new().await;
    patient
        .run("insert into event_type_registry (event_domain, event_type, event_stream, delivery_lane, description)
              values ('customer', 'wrote', 'update', 'delayed', 'test')")
        .await;
    let mend = patient.sees("event_type_refused", "customer.wrote");
    patient.run(mend.split("; or ").nth(1).unwrap()).await;
    patient.is_healthy();
}
