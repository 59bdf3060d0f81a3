//! What becomes of ticks that nobody saw.

use super::stage::Stage;

/// The jobs of a schedule with a tick each quarter of an hour after nobody looked from 10:05 to 12:10.
async fn after_two_hours(more: &str) -> (Vec<String>, u64) {
    let stage = Stage::new().await;
    let times = format!("p_cron => '*/15 * * * *', p_time_zone => 'UTC', {more}");
    stage.enabled("quarterly", &times, "2026-06-01T09:50:00Z").await;
    stage.at("2026-06-01T10:00:00Z").await;
    stage.client.batch_execute("delete from job_queue").await.unwrap();
    let made = stage.at("2026-06-01T12:10:00Z").await;
    let noted = stage.text("select ticks_missed::text from job_schedule").await;
    assert_eq!(noted, made.missed.to_string());
    assert_eq!(stage.at("2026-06-01T12:15:02Z").await.jobs, 1, "it goes on: {more}");
    let mut jobs = stage.jobs().await;
    assert_eq!(jobs.pop().unwrap(), "06-01 12:15:00");
    (jobs, made.missed)
}

#[tokio::test]
async fn after_two_hours_without_a_sidecar_skip_makes_nothing_once_one_job_and_all_each() {
    assert_eq!(after_two_hours("p_missed => 'skip'").await, (vec![], 8));
    assert_eq!(after_two_hours("p_missed => 'once'").await, (vec!["06-01 12:00:00".to_owned()], 7));
    let (all, dropped) = after_two_hours("p_missed => 'all'").await;
    assert_eq!((all.len(), dropped), (8, 0));
    assert_eq!((all[0].as_str(), all[7].as_str()), ("06-01 10:15:00", "06-01 12:00:00"));
}

#[tokio::test]
async fn a_window_drops_what_is_later_than_it() {
    let (all, dropped) = after_two_hours("p_missed => 'all', p_missed_window => '1 hour'").await;
    assert_eq!(
        (all, dropped),
        (["11:15:00", "11:30:00", "11:45:00", "12:00:00"].map(|at| format!("06-01 {at}")).to_vec(), 4)
    );
    let (once, dropped) = after_two_hours("p_missed => 'once', p_missed_window => '15 minutes'").await;
    assert_eq!((once.len(), dropped), (1, 7));
    let (once, dropped) = after_two_hours("p_missed => 'once', p_missed_window => '5 minutes'").await;
    assert_eq!((once.len(), dropped), (0, 8));
}

#[tokio::test]
async fn thousands_of_missed_ticks_are_made_in_batches_by_one_round() {
    let stage = Stage::new().await;
    stage
        .enabled(
            "often",
            "p_every => '2 seconds', p_missed => 'all', p_starts_at => '2026-06-01T10:00:00Z'",
            "2026-06-01T09:59:59Z",
        )
        .await;
    stage.at("2026-06-01T09:59:59Z").await;
    let made = stage.at("2026-06-01T11:15:01Z").await;
    assert_eq!((made.jobs, made.missed), (2251, 0));
    let distinct = "select count(distinct (scheduled_at, idempotency_key))::text from job_queue";
    assert_eq!(stage.text(distinct).await, "2251");
}

#[tokio::test]
async fn a_tick_that_passed_before_anybody_had_placed_the_schedule_is_missed_too() {
    let stage = Stage::new().await;
    stage.enabled("hourly", "p_cron => '0 * * * *', p_time_zone => 'UTC'", "2026-06-01T09:30:00Z").await;
    assert_eq!(stage.at("2026-06-01T12:30:00Z").await.jobs, 1, "no sidecar ran until then");
    assert_eq!(stage.jobs().await, ["06-01 12:00:00"]);
}
