//! `reveille schedules` and its page of the documentation.

use std::path::Path;
use std::process::Command;

use super::stage::Stage;
use crate::commands::{json, words};
use crate::support::{Program, TestDb, with_secret};

#[tokio::test]
async fn a_schedule_is_previewed_written_enabled_shown_disabled_and_removed_in_words() {
    let db = TestDb::new().await;
    assert_eq!(words(&db, &["schedules", "list"]).1, "no schedules; `reveille schedules put` writes one\n");
    let preview = [
        "schedules",
        "preview",
        "night",
        "--cron",
        "30 2 * * *",
        "--time-zone",
        "Asia/Ho_Chi_Minh",
        "--kind",
        "report.make",
    ];
    let (code, shown, err) = json(&db, &preview);
    assert_eq!((code, shown["times"].as_array().map(Vec::len)), (Some(0), Some(5)), "{err}");
    let first = &shown["times"][0];
    assert!(first["at"].as_str().unwrap().ends_with("T19:30:00Z"), "{first}");
    assert!(first["local"].as_str().unwrap().ends_with("02:30:00 +07:00"), "{first}");
    assert_eq!(shown["job"]["job_kind"], "report.make");
    assert_eq!(
        words(&db, &["schedules", "list"]).1,
        "no schedules; `reveille schedules put` writes one\n",
        "it wrote nothing"
    );

    let put = [
        "schedules",
        "put",
        "night",
        "--cron",
        "30 2 * * *",
        "--time-zone",
        "Asia/Ho_Chi_Minh",
        "--kind",
        "report.make",
    ];
    let (code, said, err) = words(&db, &put);
    assert!(
        code == Some(0) && said.starts_with("night: added, and disabled; enabled now it would come 20"),
        "{said}{err}"
    );
    assert!(words(&db, &put).1.starts_with("night: changed, and disabled"));
    let (_, said, _) = words(&db, &["schedules", "enable", "night", "--reason", "begins"]);
    assert!(said.starts_with("night: enabled (was disabled); next 20"), "{said}");
    let (_, all, _) = json(&db, &["schedules", "list"]);
    assert_eq!((&all[0]["schedule_key"], &all[0]["state"]), (&"night".into(), &"new".into()));
    let (_, table, _) = words(&db, &["schedules", "list"]);
    assert!(table.contains("cron 30 2 * * * Asia/Ho_Chi_Minh"), "{table}");
    let (_, text, _) = words(&db, &["schedules", "show", "night"]);
    assert!(
        text.contains("report.make") && text.contains("in Asia/Ho_Chi_Minh") && text.contains("night:20"),
        "{text}"
    );
    assert_eq!(words(&db, &["schedules", "disable", "night"]).1, "night: disabled (was enabled)\n");
    assert_eq!(words(&db, &["schedules", "remove", "night"]).1, "night: removed; its jobs stay\n");
    let (code, _, error) = json(&db, &["schedules", "show", "night"]);
    assert_eq!((code, &error["error"]["message"]), (Some(1), &"there is no schedule `night`".into()));
}

#[tokio::test]
async fn an_interval_that_is_written_again_keeps_its_phase_unless_its_start_is_said_anew() {
    let stage = Stage::new().await;
    let put = ["schedules", "put", "e", "--every", "1day", "--kind", "test.tick"];
    let starts = [&put[..], &["--starts-at", "2026-01-01T04:05:06.5Z"]].concat();
    assert_eq!(words(&stage.db, &starts).0, Some(0));
    let (code, answer, _) = json(&stage.db, &[&put[..], &["--priority", "3"]].concat());
    assert_eq!(code, Some(0));
    assert!(answer["first_tick_at"].as_str().unwrap().ends_with("T04:05:06.5Z"), "{answer}");
    let kept = "select concat_ws(' ', priority, starts_at = '2026-01-01T04:05:06.5Z') from job_schedule";
    assert_eq!(stage.text(kept).await, "3 t");
}

#[tokio::test]
async fn what_cannot_be_a_schedule_is_wrong_usage_and_nothing_is_written() {
    let db = TestDb::new().await;
    for (arguments, said) in [
        (&["--cron", "61 * * * *", "--time-zone", "UTC"][..], "five fields"),
        (&["--cron", "0 0 30 2 *", "--time-zone", "UTC"], "never come"),
        (&["--cron", "0 0 * * *", "--time-zone", "Europe/Berln"], "not known here"),
        (&["--cron", "0 0 * * *"], "--time-zone"),
        (&["--every", "1h", "--at", "2030-01-01T00:00:00Z"], "cannot be used with"),
        (&["--every", "1500ms"], "whole seconds"),
        (&["--at", "2020-01-01T00:00:00Z"], "never come"),
        (&[], "--every"),
    ] {
        let put = [&["schedules", "put", "x", "--kind", "test.tick"][..], arguments].concat();
        let (code, _, err) = words(&db, &put);
        assert!(code == Some(2) && err.contains(said), "{arguments:?}: {err}");
    }
    assert_eq!(json(&db, &["schedules", "list"]).1, serde_json::json!([]));
}

#[tokio::test]
async fn the_preview_names_the_days_on_which_the_clocks_change() {
    let stage = Stage::new().await;
    let weekly = [
        "schedules",
        "preview",
        "x",
        "--cron",
        "30 2 29 3 *",
        "--time-zone",
        "Europe/Berlin",
        "--starts-at",
        "2031-01-01T00:00:00Z",
    ];
    let (code, text, err) = words(&stage.db, &weekly);
    assert_eq!(code, Some(0), "{err}");
    // the last Sunday of March is the 30th in 2031, and the 29th in 2037
    assert!(!text.contains("2031-03-29 02:00"), "{text}");
    let on_it = [
        "schedules",
        "preview",
        "x",
        "--cron",
        "30 2 30 3 *",
        "--time-zone",
        "Europe/Berlin",
        "--starts-at",
        "2031-01-01T00:00:00Z",
    ];
    let (_, text, _) = words(&stage.db, &on_it);
    let odd =
        "2031-03-30 02:00 to 03:00 does not exist in Europe/Berlin: what was due then comes at 03:00, once";
    assert!(text.contains("Sun 2031-03-30 03:00:00 +02:00") && text.contains(odd), "{text}");
}

#[tokio::test]
async fn health_names_schedules_in_trouble_and_overdue_ones_and_fails() {
    let stage = Stage::new().await;
    assert_eq!(words(&stage.db, &["health"]).0, Some(0));
    stage.enabled("bad", "p_cron => 'hello', p_time_zone => 'UTC'", "2026-06-01T09:00:00Z").await;
    stage
        .enabled("late", "p_every => '1 hour', p_starts_at => '2026-06-01T10:00:00Z'", "2026-06-01T09:00:00Z")
        .await;
    stage.at("2026-06-01T09:00:00Z").await;
    let (code, text, _) = words(&stage.db, &["health"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("schedule bad: it makes no jobs: cron `hello`"), "{text}");
    assert!(
        text.contains("schedule late: it was due at 2026-06-01 10:00:00Z, and no scheduler lives, for "),
        "{text}"
    );
}

#[tokio::test]
async fn tick_makes_the_jobs_of_schedules_and_says_so() {
    let stage = Stage::new().await;
    let put = "select fn_schedule_put('often', 'test.tick', 'test', p_every => '1 second', p_starts_at => now() - interval '1 hour');
        select fn_schedule_enable('often', true, 'test', 'test', clock_timestamp() - interval '5 seconds')";
    stage.client.batch_execute(put).await.unwrap();
    let (code, told, err) = json(&stage.db, &["tick"]);
    assert_eq!(code, Some(0), "{err}");
    let jobs = told["scheduled"]["jobs"].as_u64().unwrap();
    assert!(jobs >= 5 && usize::try_from(jobs).unwrap() == stage.jobs().await.len(), "{told}");
}

#[tokio::test]
async fn every_command_of_the_page_about_schedules_is_accepted_and_its_job_runs() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    let page = include_str!("../../../docs/schedules.md");
    let program = Path::new(env!("CARGO_BIN_EXE_reveille"));
    let folders = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    for block in page.split("\n```").skip(1).step_by(2) {
        match block.split_once('\n').unwrap() {
            ("sh", lines) => {
                let mut shell = Command::new("sh");
                shell.args(["-euc", lines]).env("PATH", &folders).env("DATABASE_URL", with_secret(&db.url()));
                let output = shell.current_dir(env!("CARGO_TARGET_TMPDIR")).output().unwrap();
                assert!(output.status.success(), "{lines}: {}", String::from_utf8_lossy(&output.stderr));
            }
            ("sql", statements) => client.batch_execute(statements).await.unwrap(),
            (other, _) => panic!("a block of {other}"),
        }
    }
    let left = "select string_agg(schedule_key, ' ' order by schedule_key) from v_job_schedule where enabled";
    assert_eq!(
        client.query_one(left, &[]).await.unwrap().get::<_, String>(0),
        "maintenance.reap report.nightly"
    );
    let due = "update job_schedule set next_tick_at = now() - interval '1 second' where schedule_key = 'report.nightly'";
    let placed = Program::start(&db.url(), &["tick"], &[]).ends().await;
    assert_eq!(placed.code, Some(0), "{}", placed.err);
    client.batch_execute(due).await.unwrap();
    for command in [&["tick"][..], &["work", "--once"]] {
        let ended = Program::start(&db.url(), command, &[]).ends().await;
        assert_eq!(ended.code, Some(0), "{command:?}: {}", ended.err);
    }
    let done = "select last_job_status from v_job_schedule where schedule_key = 'report.nightly'";
    assert_eq!(client.query_one(done, &[]).await.unwrap().get::<_, String>(0), "succeeded");
}

#[tokio::test]
async fn what_is_wrong_with_a_schedule_is_said_in_words_and_no_row_is_printed() {
    let db = TestDb::new().await;
    let put = |key: &'static str, more: &[&'static str]| {
        let start = ["schedules", "put", key, "--kind", "report.make", "--every", "1h"];
        words(&db, &[&start[..], more].concat())
    };
    let later = ["--starts-at", "2099-01-02T00:00:00Z", "--ends-at", "2099-01-01T00:00:00Z"];
    let cases: [(&str, &[&str], &str); 2] = [
        ("A B", &[], "the key of a schedule is made of small letters, digits"),
        ("night", &["--missed-window", "10s"], "from a minute to ten years"),
    ];
    for (key, more, wrong) in cases {
        let (code, _, err) = put(key, more);
        assert!(code == Some(2) && err.contains(wrong), "{err}");
        assert!(!err.contains("Failing row") && !err.contains("check constraint"), "{err}");
    }
    let (code, _, err) = put("night", &later);
    assert!(code == Some(2) && err.contains("night"), "{err}");
}

#[tokio::test]
async fn the_list_tells_when_a_schedule_comes_that_no_sidecar_has_looked_at_yet() {
    let db = TestDb::new().await;
    let put = ["schedules", "put", "new_year", "--kind", "report.make", "--at", "2099-01-01T00:00:00Z"];
    assert_eq!(words(&db, &put).0, Some(0));
    let (_, list, _) = words(&db, &["schedules", "list"]);
    assert!(list.contains("2099-01-01 00:00:00Z") && list.contains("if enabled"), "{list}");
    words(&db, &["schedules", "enable", "new_year", "--reason", "x"]);
    let (_, list, _) = words(&db, &["schedules", "list"]);
    let row = list.lines().find(|line| line.starts_with("new_year")).unwrap();
    assert!(
        row.contains(" new ") && row.contains("2099-01-01 00:00:00Z") && !row.contains("if enabled"),
        "{row}"
    );
    let (_, all, _) = json(&db, &["schedules", "list"]);
    assert_eq!(all[0]["first_tick_at"], "2099-01-01T00:00:00Z");
}
