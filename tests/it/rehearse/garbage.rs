//! Events that no job can be made of: counted, told, and in nobody's way.

use serde_json::json;

use super::stage::{Stage, counts};

#[tokio::test]
async fn events_that_raise_are_counted_and_every_other_is_served() {
    let stage = Stage::new(200, json!({})).await;
    stage.run(
        "create function bad_refs() returns trigger language plpgsql as $$
         begin if new.source_ref in ('happened-3', 'happened-77', 'happened-78', 'happened-200') then raise 'no such page'; end if; return new; end $$;
         create trigger bad_refs before insert on job_queue for each row execute function bad_refs()",
    )
    .await;
    for mode in ["backfill", "replay"] {
        let run = stage.real(mode, ", p_batch => 100").await;
        assert_eq!((&run["status"], &run["events"]), (&json!("finished"), &json!(200)), "{run}");
        assert_eq!(
            stage.count("select count(*) from dispatch_error where message = 'no such page'").await,
            4
        );
        if mode == "backfill" {
            assert_eq!((&run["made"], &run["errors"]), (&json!(196), &json!(4)), "{run}");
        } else {
            assert_eq!((&run["made"], &run["without_job"]), (&json!(196), &json!(4)), "{run}");
        }
    }
    stage.run("drop trigger bad_refs on job_queue").await;
    let mended = stage.real("backfill", "").await;
    assert_eq!((&mended["made"], &mended["errors"]), (&json!(4), &json!(0)));
}

#[tokio::test]
async fn a_payload_that_is_no_signal_is_an_error_in_both_runs() {
    let stage = Stage::new(3, json!({})).await;
    stage.run("alter table event_outbox drop constraint event_outbox_safe_payload_check").await;
    stage.past("iu", "happened", 2, r#"{"deep": [{"password": "x"}]}"#).await;
    stage.closed().await;
    let dry = stage.dry("backfill", "").await;
    let real = stage.real("backfill", "").await;
    assert_eq!(dry, counts(&real));
    assert_eq!((&real["made"], &real["errors"]), (&json!(3), &json!(2)));
    assert_eq!(stage.count("select count(*) from dispatch_error where sqlstate = '23514'").await, 2);
}

#[tokio::test]
async fn an_event_that_is_gone_meanwhile_is_passed_over() {
    let stage = Stage::new(10, json!({})).await;
    let first = stage.begin("backfill", ", p_batch => 4").await;
    stage.run("delete from event_outbox where event_subject_ref in ('happened-5', 'happened-9')").await;
    let run = stage.finish(first).await;
    assert_eq!((&run["status"], &run["made"]), (&json!("finished"), &json!(8)), "{run}");
}
