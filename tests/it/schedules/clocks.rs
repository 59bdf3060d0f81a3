//! Daylight saving, and a database's clock that steps.

use std::time::Duration;

use super::stage::Stage;

#[tokio::test]
async fn a_nightly_job_runs_once_a_night_when_the_clocks_go_forward_and_when_they_go_back() {
    let stage = Stage::new().await;
    let nightly = "p_cron => '30 2 * * *', p_time_zone => 'Europe/Berlin'";
    stage.enabled("nightly", nightly, "2026-03-28T12:00:00Z").await;
    for hour in 0..48 {
        let now = jiff::Timestamp::from_second(1_774_699_200 + hour * 3600).unwrap(); // 2026-03-28T12:00:00Z
        stage.at(&now.to_string()).await;
    }
    // 02:30 does not exist on the 29th, so it is 03:00, which is 01:00 in UTC
    assert_eq!(stage.jobs().await, ["03-29 01:00:00", "03-30 00:30:00"]);

    stage.client.batch_execute("delete from job_queue").await.unwrap();
    stage.enabled("autumn", nightly, "2026-10-24T12:00:00Z").await;
    stage.client.batch_execute("select fn_schedule_remove('nightly', 'test', 'test')").await.unwrap();
    for half_hour in 0..96 {
        let now = jiff::Timestamp::from_second(1_792_843_200 + half_hour * 1800).unwrap(); // 2026-10-24T12:00:00Z
        stage.at(&now.to_string()).await;
    }
    // 02:30 comes twice on the 25th; the first is 00:30 in UTC
    assert_eq!(stage.jobs().await, ["10-25 00:30:00", "10-26 01:30:00"]);
}

#[tokio::test]
async fn a_quarterly_job_loses_no_quarter_of_an_hour_to_a_change_of_the_clocks() {
    let stage = Stage::new().await;
    stage
        .enabled(
            "quarterly",
            "p_cron => '*/15 * * * *', p_time_zone => 'America/New_York', p_missed => 'all'",
            "2026-11-01T04:50:00Z",
        )
        .await;
    stage.at("2026-11-01T04:50:01Z").await;
    stage.at("2026-11-01T08:00:30Z").await;
    let jobs = stage.jobs().await;
    assert_eq!(jobs.len(), 13, "five to eight in UTC, both ends: {jobs:?}");
    assert_eq!((jobs[0].as_str(), jobs[12].as_str()), ("11-01 05:00:00", "11-01 08:00:00"));
}

#[tokio::test]
async fn a_clock_that_steps_back_makes_no_tick_twice() {
    let stage = Stage::new().await;
    stage.enabled("hourly", "p_cron => '0 * * * *', p_time_zone => 'UTC'", "2026-06-01T09:30:00Z").await;
    stage.at("2026-06-01T10:00:00Z").await;
    stage.at("2026-06-01T11:00:00Z").await;
    let (back, pause) = stage.round("2026-06-01T09:45:00Z").await;
    assert_eq!(back.jobs, 0);
    assert!(pause >= Duration::from_hours(2), "it is told to come back at 12:00: {pause:?}");
    for again in ["2026-06-01T10:00:00Z", "2026-06-01T11:00:00Z", "2026-06-01T11:59:59Z"] {
        assert_eq!(stage.at(again).await.jobs, 0, "{again}");
    }
    // nor when it is disabled and enabled while the clock is wrong
    for enabled in ["false", "true"] {
        let switch =
            format!("select fn_schedule_enable('hourly', {enabled}, 'test', 'test', '2026-06-01T09:45:00Z')");
        stage.client.batch_execute(&switch).await.unwrap();
    }
    assert_eq!(stage.at("2026-06-01T11:30:00Z").await.jobs, 0);
    assert_eq!(stage.at("2026-06-01T12:00:00Z").await.jobs, 1);
    assert_eq!(stage.jobs().await, ["06-01 10:00:00", "06-01 11:00:00", "06-01 12:00:00"]);
}

#[tokio::test]
async fn a_clock_that_steps_forward_is_an_outage() {
    let stage = Stage::new().await;
    stage
        .enabled(
            "hourly",
            "p_cron => '0 * * * *', p_time_zone => 'UTC', p_missed => 'all'",
            "2026-06-01T09:30:00Z",
        )
        .await;
    stage.at("2026-06-01T10:00:00Z").await;
    stage.at("2026-06-01T13:10:00Z").await;
    let jobs = stage.jobs().await;
    assert_eq!(jobs, ["06-01 10:00:00", "06-01 11:00:00", "06-01 12:00:00", "06-01 13:00:00"]);
    // and when it is set right again, nothing comes until it has caught up
    assert_eq!(stage.at("2026-06-01T11:10:00Z").await.jobs, 0);
    assert_eq!(stage.at("2026-06-01T14:00:00Z").await.jobs, 1);
}

#[tokio::test]
async fn the_scheduler_is_told_to_sleep_exactly_until_the_next_tick() {
    let stage = Stage::new().await;
    stage.enabled("hourly", "p_cron => '0 * * * *', p_time_zone => 'UTC'", "2026-06-01T09:30:00Z").await;
    stage
        .enabled(
            "seldom",
            "p_every => '1 day', p_starts_at => '2026-06-01T09:40:00Z'",
            "2026-06-01T09:30:00Z",
        )
        .await;
    let (_, pause) = stage.round("2026-06-01T09:30:00Z").await;
    assert_eq!(pause.as_secs(), 600);
    let (made, pause) = stage.round("2026-06-01T09:40:00Z").await;
    assert_eq!((made.jobs, pause.as_secs()), (1, 1200));
}
