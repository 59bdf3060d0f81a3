//! Off until enabled; gates, pauses and mistakes stop what they should and nothing else.

use super::stage::Stage;

const HOURLY: &str = "p_cron => '0 * * * *', p_time_zone => 'UTC'";

#[tokio::test]
async fn a_schedule_makes_nothing_until_it_is_enabled_and_what_passed_before_is_not_made_up_for() {
    let stage = Stage::new().await;
    stage.put("hourly", &format!("{HOURLY}, p_missed => 'all'"), "2026-06-01T09:30:00Z").await;
    assert_eq!(stage.at("2026-06-01T11:00:00Z").await.jobs, 0);
    let switch = |enabled: bool, at: &str| {
        format!("select fn_schedule_enable('hourly', {enabled}, 'test', 'test', '{at}')")
    };
    stage.client.batch_execute(&switch(true, "2026-06-01T11:30:00Z")).await.unwrap();
    assert_eq!(stage.at("2026-06-01T12:00:00Z").await.jobs, 1);
    stage.client.batch_execute(&switch(false, "2026-06-01T12:30:00Z")).await.unwrap();
    assert_eq!(stage.at("2026-06-01T14:00:00Z").await.jobs, 0);
    stage.client.batch_execute(&switch(true, "2026-06-01T14:30:00Z")).await.unwrap();
    assert_eq!(stage.at("2026-06-01T15:00:00Z").await.jobs, 1);
    assert_eq!(stage.jobs().await, ["06-01 12:00:00", "06-01 15:00:00"]);
    let audit = "select string_agg(new_value, ' ' order by audit_id) from dot_config_audit where key = 'schedule.hourly.enabled'";
    assert_eq!(stage.text(audit).await, "true false true");
}

#[tokio::test]
async fn a_one_shot_fires_once_also_when_it_is_late() {
    let stage = Stage::new().await;
    stage.enabled("campaign", "p_at => '2026-06-01T10:00:00Z'", "2026-06-01T09:30:00Z").await;
    for now in
        ["2026-06-01T09:59:59Z", "2026-06-01T12:00:00Z", "2026-06-01T12:00:01Z", "2027-06-01T10:00:00Z"]
    {
        stage.at(now).await;
    }
    assert_eq!(stage.jobs().await, ["06-01 10:00:00"]);
    assert_eq!(stage.state("campaign").await, "ended");
}

#[tokio::test]
async fn no_tick_comes_at_the_end_of_a_schedule_or_later() {
    let stage = Stage::new().await;
    let times = format!("{HOURLY}, p_ends_at => '2026-06-01T12:00:00Z', p_missed => 'all'");
    stage.enabled("hourly", &times, "2026-06-01T09:30:00Z").await;
    for now in ["2026-06-01T09:31:00Z", "2026-06-01T15:00:00Z", "2026-06-01T16:00:00Z"] {
        stage.at(now).await;
    }
    assert_eq!(stage.jobs().await, ["06-01 10:00:00", "06-01 11:00:00"]);
    assert_eq!(stage.state("hourly").await, "ended");
}

#[tokio::test]
async fn a_cron_text_that_nobody_can_read_is_told_and_harms_no_other() {
    let stage = Stage::new().await;
    let bad = "p_cron => 'every monday, please', p_time_zone => 'UTC'";
    stage.enabled("bad", bad, "2026-06-01T09:00:00Z").await;
    // an error of the database in one of them stops no other either
    stage.enabled("broken", HOURLY, "2026-06-01T09:00:00Z").await;
    let trap = "create function refuse() returns trigger language plpgsql as
          $$ begin raise exception 'the host does not want it' using errcode = '22000'; end $$;
        create trigger refuse before insert on job_queue for each row when (new.actor = 'schedule:broken') execute function refuse()";
    stage.client.batch_execute(trap).await.unwrap();
    stage.enabled("good", HOURLY, "2026-06-01T09:30:00Z").await;
    stage.at("2026-06-01T09:30:00Z").await;
    let made = stage.at("2026-06-01T10:00:00Z").await;
    assert_eq!((made.jobs, made.in_trouble), (1, 2));
    assert_eq!(stage.state("bad").await, "trouble");
    let why =
        stage.texts("select trouble from job_schedule where trouble is not null order by schedule_key").await;
    assert!(why[0].contains("five fields") && why[1].contains("the host does not want it"), "{why:?}");

    stage.put("bad", HOURLY, "2026-06-01T10:10:00Z").await;
    stage.client.batch_execute("drop trigger refuse on job_queue").await.unwrap();
    assert_eq!(stage.at("2026-06-01T11:00:00Z").await.jobs, 3, "mended, all of them come");
    assert_eq!(stage.at("2026-06-01T11:00:00Z").await.in_trouble, 0);
    assert_eq!(stage.text("select count(*)::text from job_schedule where trouble is not null").await, "0");
}

#[tokio::test]
async fn a_closed_gate_keeps_the_position_and_once_it_is_open_missed_ticks_are_what_they_are() {
    let stage = Stage::new().await;
    stage.enabled("all", &format!("{HOURLY}, p_missed => 'all'"), "2026-06-01T09:30:00Z").await;
    stage.enabled("skip", &format!("{HOURLY}, p_missed => 'skip'"), "2026-06-01T09:30:00Z").await;
    let gate =
        |value: &str| format!("select fn_gate_set('queue.job_substrate.enabled', '{value}', 'test', 'test')");
    stage.client.batch_execute(&gate("false")).await.unwrap();
    stage.at("2026-06-01T09:30:00Z").await;
    let closed = stage.at("2026-06-01T11:30:00Z").await;
    assert_eq!((closed.jobs, closed.held), (0, 2));
    assert_eq!(stage.state("all").await, "job_substrate_disabled");
    let refused = stage.text("select fn_schedule_tick('all', '2026-06-01T10:00:00Z', array['2026-06-01T10:00:00Z'::timestamptz],
        '2026-06-01T11:00:00Z', 0, '2026-06-01T10:00:05Z') ->> 'reason'").await;
    assert_eq!(refused, "job_substrate_disabled");
    let positions = "select to_char(next_tick_at at time zone 'UTC', 'HH24:MI') from job_schedule";
    assert_eq!(stage.texts(positions).await, ["10:00", "10:00"]);
    stage.client.batch_execute(&gate("true")).await.unwrap();
    let open = stage.at("2026-06-01T11:30:00Z").await;
    assert_eq!((open.jobs, open.missed, open.held), (2, 2, 0));
}

#[tokio::test]
async fn a_pause_of_all_or_of_the_kind_holds_a_schedule_and_of_another_kind_does_not() {
    let stage = Stage::new().await;
    stage.enabled("hourly", HOURLY, "2026-06-01T09:30:00Z").await;
    stage.at("2026-06-01T09:30:00Z").await;
    for (scope, name, jobs, hour) in
        [("all", "null", 0, 10), ("job_kind", "'test.tick'", 0, 11), ("job_kind", "'other'", 1, 12)]
    {
        let pause = format!("select fn_pause('{scope}', {name}, 'test', 'test')");
        stage.client.batch_execute(&pause).await.unwrap();
        let made = stage.at(&format!("2026-06-01T{hour}:00:00Z")).await;
        assert_eq!((made.jobs, made.held), (jobs, 1 - jobs), "{scope} {name}");
        stage.client.batch_execute(&pause.replace("fn_pause", "fn_resume")).await.unwrap();
    }
    assert_eq!(stage.jobs().await, ["06-01 12:00:00"], "what was missed meanwhile became this one");
}

#[tokio::test]
async fn other_times_count_from_when_they_were_written_and_another_kind_keeps_the_position() {
    let stage = Stage::new().await;
    stage.enabled("hourly", HOURLY, "2026-06-01T09:30:00Z").await;
    stage.at("2026-06-01T09:30:00Z").await;
    let other_kind = format!(
        "select fn_schedule_put('hourly', 'test.other', 'test', {HOURLY}, p_now => '2026-06-01T10:30:00Z')"
    );
    stage.client.batch_execute(&other_kind).await.unwrap();
    assert_eq!(stage.at("2026-06-01T10:30:00Z").await.jobs, 1, "10:00 is still to be made");
    stage
        .put(
            "hourly",
            "p_cron => '*/10 * * * *', p_time_zone => 'UTC', p_missed => 'all'",
            "2026-06-01T10:45:00Z",
        )
        .await;
    stage.at("2026-06-01T11:00:00Z").await;
    assert_eq!(stage.jobs().await, ["06-01 10:00:00", "06-01 10:50:00", "06-01 11:00:00"]);
    assert_eq!(
        stage.texts("select job_kind::text from job_queue order by scheduled_at").await,
        ["test.other", "test.tick", "test.tick"]
    );
}

#[tokio::test]
async fn a_job_gets_what_its_schedule_says_and_a_key_of_its_tick() {
    let stage = Stage::new().await;
    let times =
        "p_every => '1 hour', p_starts_at => '2026-06-01T10:00:00Z', p_executor => 'Agent', p_priority => 7,
        p_max_attempts => 2, p_safe_payload => '{\"depth\": 3}', p_source_ref => 's', p_target_ref => 't',
        p_payload_ref => 'p', p_ordering_key => 'o'";
    stage.enabled("full", times, "2026-06-01T09:30:00Z").await;
    stage.at("2026-06-01T10:00:03Z").await;
    let job = "select concat_ws(' ', job_kind, executor, priority, max_attempts, safe_payload, source_ref, target_ref, payload_ref,
        ordering_key, actor, idempotency_key) from job_queue";
    assert_eq!(
        stage.text(job).await,
        "test.tick Agent 7 2 {\"depth\": 3} s t p o schedule:full full:2026-06-01T10:00:00Z"
    );
    let seen = "select concat_ws(' ', state, last_job_status, ticks, last_job_id = (select job_id from job_queue),
        to_char(last_tick_at at time zone 'UTC', 'HH24:MI'), to_char(next_tick_at at time zone 'UTC', 'HH24:MI')) from v_job_schedule";
    assert_eq!(
        stage.text(seen).await,
        "overdue queued 1 t 10:00 11:00",
        "by the real clock nobody has looked for long"
    );
}

#[tokio::test]
async fn malformed_schedules_and_ticks_are_refused_by_the_database_itself() {
    let stage = Stage::new().await;
    for (arguments, sqlstate) in [
        ("'x', 'test.tick', 'me'", "22023"),
        ("'x', 'test.tick', 'me', p_cron => '* * * * *'", "22023"),
        ("'x', 'test.tick', 'me', p_every => '1 hour', p_at => now()", "22023"),
        ("'x', 'test.tick', '', p_every => '1 hour'", "22023"),
        ("'x', 'test.tick', 'me', p_cron => '* * * * *', p_time_zone => 'Mars/North'", "22023"),
        ("'x', 'test.tick', 'me', p_every => '1 month'", "23514"),
        ("'x', 'test.tick', 'me', p_every => '0.5 seconds'", "23514"),
        ("'x', 'test.tick', 'me', p_at => 'infinity'", "23514"),
        ("'X Y', 'test.tick', 'me', p_every => '1 hour'", "22023"),
        ("'x', 'no kind', 'me', p_every => '1 hour'", "23514"),
        ("'x', 'test.tick', 'me', p_every => '1 hour', p_missed => 'some'", "23514"),
        ("'x', 'test.tick', 'me', p_every => '1 hour', p_safe_payload => '{\"body\": 1}'", "23514"),
        ("'x', 'test.tick', 'me', p_every => '1 hour', p_executor => 'MOT'", "23514"),
    ] {
        let error =
            stage.client.batch_execute(&format!("select fn_schedule_put({arguments})")).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), sqlstate, "{arguments}: {error:?}");
    }
    stage.enabled("hourly", HOURLY, "2026-06-01T09:30:00Z").await;
    stage.at("2026-06-01T09:30:00Z").await;
    for (ticks, next) in [
        ("'2026-06-01T11:00:00Z'", "2026-06-01T12:00:00Z"), // not due
        ("'2026-06-01T09:00:00Z'", "2026-06-01T11:00:00Z"), // before its position
        ("'2026-06-01T10:00:00Z'", "2026-06-01T10:00:00Z"), // for ever
        ("null", "2026-06-01T11:00:00Z"),
    ] {
        let tick = format!(
            "select fn_schedule_tick('hourly', '2026-06-01T10:00:00Z', array[{ticks}]::timestamptz[], '{next}', 0, '2026-06-01T10:30:00Z')"
        );
        let error = stage.client.batch_execute(&tick).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "22023", "{ticks} {next}");
    }
    let unknown = "select fn_schedule_tick('nobody', now(), '{}', now() + interval '1 hour') ->> 'reason'";
    assert_eq!(stage.text(unknown).await, "not_found");
    assert!(stage.jobs().await.is_empty());
}
