//! Many faults at once.

use super::{Patient, mend};
use crate::cli::{output, reveille};
use crate::support::{Pooler, Pooling};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_faults_at_once_are_all_named_in_one_run() {
    let patient = Patient::new().await;
    for harm in [
        "select fn_event_emit('system', 'queue_dispatch_gap', n::text) from generate_series(1, 12) n",
        "select fn_consumer_dispatch_batch('system', 100)",
        // a consumer whose filter never matches
        "update consumer_registry set filter = '$.payload.no == 1'",
        // a poison job, and a blocked key
        "update job_queue set lease_losses = 3 where job_id in (select job_id from job_queue limit 1)",
        "select fn_job_enqueue('test.seen', 'test', p_ordering_key => 'k', p_scheduled_at => now() - interval '1 hour') from generate_series(1, 2)",
        "select fn_job_order_sweep()",
        "update job_queue set created_at = now() - interval '1 hour' where ordering_key = 'k'",
        // an executor that is silent
        "select fn_queue_heartbeat_register('gone', 'Agent'); update queue_heartbeat set last_beat_at = now() - interval '4 days' where executor_name = 'gone'",
        // an event type that is not registered
        "delete from event_type_registry where event_type = 'queue_dispatch_gap'",
        // a function that somebody has replaced
        "do $$ begin execute replace(pg_get_functiondef('fn_gate_list()'::regprocedure), 'new jobs', 'old jobs'); end $$",
        // a closed gate, a disabled trigger
        "select fn_gate_set('queue.worker.enabled', 'false', 'test', 'x')",
        "alter table event_outbox disable trigger reveille_event_arrival",
    ] {
        patient.run(harm).await;
    }
    let holder = patient.db.client().await;
    holder.batch_execute("begin isolation level repeatable read; select 'held'").await.unwrap();
    let pooler = Pooler::to(patient.db.server().port(), Pooling::Sharing).await;
    let mut asks = reveille(&["doctor", "--json", "--older-than", "0s"]);
    let (code, out, err) = output(asks.env("DATABASE_URL", patient.db.url_through(pooler.port())));
    assert_eq!(code, Some(1), "{err}");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    let found = answer["findings"].as_array().unwrap();
    for (name, subject) in [
        ("gate_closed", "gate queue.worker.enabled"),
        ("trigger_disabled", "on event_outbox"),
        ("consumer_never_matches", "consumer seen"),
        ("executor_silent", "executor gone"),
        ("poison_job", "job "),
        ("key_blocked", "ordering key k"),
        ("snapshot_held", "process "),
        ("event_type_unregistered", "system.queue_dispatch_gap"),
        ("function_drifted", "function fn_gate_list()"),
        ("pooler_in_the_way", "127.0.0.1"),
    ] {
        mend(found, name, subject);
    }
    assert!(found.iter().all(|one| one["finding"] != "could_not_look"), "{found:#?}");
}
