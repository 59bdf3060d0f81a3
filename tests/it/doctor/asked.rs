//! Whether anything is lost, and what somebody has asked for: the audit, backfills, and how often routes are looked at.

use super::Patient;
use crate::commands::words;
use crate::support::{SOON, TestDb, wait_until};

impl Patient {
    /// What there is, is closed, and audited.
    async fn audited(&self) {
        for part in [
            "select fn_event_sweep(p_margin => interval '0')",
            "select fn_consumer_dispatch_batch('system', 100)",
            "select fn_dispatch_audit_pass()",
            // its alarm is an event of this domain, too
            "select fn_consumer_dispatch_batch('system', 100)",
        ] {
            self.run(part).await;
        }
    }
}

#[tokio::test]
async fn a_decision_that_is_missing_is_named_until_it_is_repaired() {
    let patient = Patient::alone().await; // no other test has a transaction open that holds the audit back
    patient.audited().await;
    patient.run("select fn_event_emit('system', 'queue_dispatch_gap', '1')").await;
    patient.run("select fn_consumer_dispatch_batch('system', 100)").await;
    patient.run("delete from job_queue").await;
    patient.is_healthy(); // nobody has looked
    patient.audited().await;
    let mend = patient.sees("decisions_missing", "audit system");
    let mend: Vec<&str> = mend.strip_prefix("reveille ").unwrap().split_whitespace().collect();
    let (code, out, err) = words(&patient.db, &mend);
    assert_eq!(code, Some(1), "it had found a gap: {out}{err}");
    patient.is_healthy();
}

#[tokio::test]
async fn an_audit_that_does_not_come_on_is_named() {
    let patient = Patient::alone().await;
    patient.audited().await;
    patient.run("update audit_domain set place_at = now() - interval '1 hour'").await;
    assert!(patient.sees("audit_behind", "audit system").contains("docs/audit.md"));
    patient.audited().await;
    patient.is_healthy();
}

#[tokio::test]
async fn a_backfill_that_does_not_come_on_is_named_until_it_is_cancelled() {
    let patient = Patient::new().await;
    patient
        .run("select fn_event_emit('system', 'queue_dispatch_gap', n::text) from generate_series(1, 12) n;
              update event_outbox set created_at = now() - interval '1 hour'; select fn_event_sweep(p_margin => interval '0')")
        .await;
    patient.run("select fn_consumer_dispatch_batch('system', 100); delete from job_queue").await;
    patient
        .run("select fn_consumer_backfill('seen', p_since => now() - interval '2 hours', p_until => now() - interval '30 minutes',
                p_dry_run => false, p_reason => 'x', p_batch => 5)")
        .await;
    patient.is_healthy();
    let move_to = |status| {
        format!(
            "select fn_consumer_backfill_move(backfill_id, '{status}', 'test', 'x') from consumer_backfill"
        )
    };
    let long_ago = "update consumer_backfill set updated_at = now() - interval '2 days', next_at = now() - interval '2 days'";
    for (status, name) in
        [("running", "backfill_stalled"), ("paused", "backfill_paused"), ("failed", "backfill_failed")]
    {
        if status != "running" {
            patient.run(&move_to("running")).await;
            patient.run(&move_to(status)).await;
        }
        patient.run(long_ago).await;
        patient.sees(name, "backfill seen");
    }
    let mend = patient.sees("backfill_failed", "backfill seen");
    patient.mends(mend.split(", or ").nth(1).unwrap()).await;
    patient.is_healthy();
}

#[tokio::test]
async fn routes_are_looked_at_once() {
    let db = TestDb::new().await;
    let name = db.name().to_owned();
    let patient = Patient::of(db).await;
    patient.run(&format!("alter database {name} set track_functions = 'all'")).await;
    patient.is_healthy(); // asks twice
    let calls = async |function: &str| {
        let sql = "select coalesce(max(calls), 0) from pg_stat_user_functions where funcname = $1";
        patient.client.query_one(sql, &[&function]).await.unwrap().get::<_, i64>(0)
    };
    wait_until("what comes after the routes is counted", SOON, async || {
        calls("fn_schedule_check").await == 2
    })
    .await;
    assert_eq!(calls("fn_route_check").await, 2);
}
