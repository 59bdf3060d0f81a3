//! What was silent, on a system that prunes arrivals and archives jobs.

use reveille::store::doctor::past;

use super::Patient;
use crate::support::{SOON, wait_until};

impl Patient {
    /// Other events are dispatched, swept and pruned until no arrival of those that are there now is left.
    pub(super) async fn pruned(&self) {
        self.run("create temporary table earlier as select id from event_outbox").await;
        wait_until("their arrivals are pruned", SOON, async || {
            self.run("select fn_event_emit('system', 'queue_worker_recovered', 'other')").await;
            self.run("select fn_consumer_dispatch_batch('system', 1000)").await;
            self.run("select fn_event_sweep(p_margin => interval '0')").await;
            self.run("select fn_dispatch_prune(interval '0')").await;
            let left = "select count(*) from event_arrival where event_id in (select id from earlier)";
            self.client.query_one(left, &[]).await.unwrap().get::<_, i64>(0) == 0
        })
        .await;
    }

    /// An executor that lives, and has run a job so many hours ago, each.
    async fn ran(&self, executor: &str, hours_ago: &[i32]) {
        self.run(&format!(
            "select fn_queue_heartbeat_register('{executor}', 'PG_worker'), fn_queue_heartbeat_tick('{executor}')"
        ))
        .await;
        for hours in hours_ago {
            self.run(&format!(
                "select fn_job_enqueue('test.seen', 'test');
                 do $$ declare c record; begin
                   select * into c from fn_job_claim('{executor}');
                   perform fn_job_succeed(c.job_id, c.lease_token);
                   update job_queue set created_at = created_at - make_interval(hours => {hours}),
                     picked_at = picked_at - make_interval(hours => {hours}), started_at = started_at - make_interval(hours => {hours}),
                     finished_at = finished_at - make_interval(hours => {hours})
                   where job_id = c.job_id;
                 end $$"
            ))
            .await;
        }
    }

    /// What has ended an hour ago is in the archive.
    async fn archived(&self) {
        self.run("select fn_gate_set('queue.archive.enabled', 'true', 'test', 'x')").await;
        self.run("select fn_job_archive(1000, false, p_now => clock_timestamp() + interval '2 hours')").await;
        let stay = "select count(*) from job_queue where finished_at < clock_timestamp() - interval '10 minutes' and status <> 'dead_letter'";
        assert_eq!(self.client.query_one(stay, &[]).await.unwrap().get::<_, i64>(0), 0);
    }
}

#[tokio::test]
async fn past_silences_are_told_long_after_their_arrivals_are_pruned() {
    let patient = Patient::alone().await;
    patient.run("select fn_event_emit('system', 'queue_worker_silent', 'hermes'), fn_event_emit('system', 'queue_worker_silent', 'hermes')").await;
    patient.run("update event_outbox set created_at = now() - interval '29 days'").await;
    patient.run("select fn_event_emit('system', 'queue_worker_silent', 'old')").await;
    patient
        .run(
            "update event_outbox set created_at = now() - interval '31 days' where event_subject_ref = 'old'",
        )
        .await;
    patient.pruned().await;
    let told = || {
        patient.sees("was_silent", "executor hermes");
        let found = patient.findings(&[]);
        assert!(found.iter().all(|one| one["subject"] != "executor old"), "{found:#?}");
        let one = found.iter().find(|one| one["finding"] == "was_silent").unwrap();
        assert!(one["what"].as_str().unwrap().starts_with("it fell silent 2 times within 30 days"), "{one}");
        found.len()
    };
    assert_eq!(told(), 1, "and it is no bad news");
    patient.run("drop index event_outbox_created_at_idx").await; // as a host's outbox may have none
    told();
}

#[tokio::test]
async fn days_without_work_are_told_from_the_archive() {
    let patient = Patient::new().await;
    patient.ran("hermes", &[12 * 24, 8 * 24]).await;
    patient.ran("hand", &[10 * 24]).await;
    patient.ran("left", &[9 * 24, 3 * 24]).await;
    patient.run("select fn_queue_heartbeat_unregister('left')").await;
    patient.archived().await;
    patient.ran("hermes", &[0]).await;
    let found = patient.findings(&[]);
    patient.sees("work_gap", "executor hermes");
    assert_eq!(found.len(), 2, "{found:#?}");
    let what = |place: usize| found[place]["what"].as_str().unwrap();
    assert!(what(0).ends_with("; 3 jobs were made meanwhile"), "{found:#?}");
    assert!(what(1).ends_with("; 2 jobs were made meanwhile"), "{found:#?}");

    let client = patient.db.pool(1).get().await.unwrap();
    let told = async |most| past::gaps(&client, most).await.unwrap().len();
    assert_eq!(told(1000).await, 2);
    assert_eq!(told(1).await, 0, "what it has not read may have been work");
}

#[tokio::test]
async fn a_dead_letter_of_long_ago_makes_no_hole_in_the_work_that_is_archived() {
    let patient = Patient::new().await;
    patient
        .run(
            "select fn_job_enqueue('test.seen', 'test');
             do $$ declare c record; begin
               select * into c from fn_job_claim('hand');
               update job_queue set picked_at = picked_at - interval '200 hours';
               perform fn_job_fail_permanent(c.job_id, c.lease_token, 'no');
               update job_queue set finished_at = finished_at - interval '200 hours';
             end $$",
        )
        .await;
    patient.ran("hand", &[180, 160, 140, 120, 100, 80, 60, 40, 20]).await;
    patient.archived().await;
    patient.ran("hand", &[0]).await;
    let found = patient.findings(&[]);
    assert!(found.iter().all(|one| one["finding"] != "work_gap"), "{found:#?}");
}
