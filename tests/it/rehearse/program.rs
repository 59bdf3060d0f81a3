//! The commands: dry by default, killed and resumed, stopped by a signal.

use serde_json::{Value, json};

use super::stage::Stage;
use crate::commands::{json as command, words};
use crate::support::{Program, SOON, wait_for, wait_until};

const RUN: [&str; 8] = ["consumers", "backfill", "k", "--since", "2h", "--until", "30m", "--apply"];

/// The id of the only run, once it has made jobs.
async fn begun(stage: &Stage) -> String {
    wait_for("the run has begun", SOON, async || {
        let row = "select backfill_id::text from consumer_backfill where made > 0";
        stage.outbox.client.query_opt(row, &[]).await.unwrap().map(|row| row.get(0))
    })
    .await
}

async fn status(stage: &Stage) -> String {
    let row = "select status from consumer_backfill";
    stage.outbox.client.query_one(row, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn without_apply_the_command_only_counts_and_its_numbers_are_those_of_the_run() {
    let stage = Stage::new(30, json!({})).await;
    let db = stage.db();
    let (code, dry, _) = command(db, &RUN[..7]);
    assert_eq!((code, &dry["dry_run"], &dry["made"]), (Some(0), &json!(true), &json!(30)), "{dry}");
    assert_eq!(stage.jobs().await, 0);
    let (_, text, _) = words(db, &RUN[..7]);
    assert!(
        text.contains("would make 30 jobs") && text.contains("nothing was changed; --apply does it"),
        "{text}"
    );
    let (code, real, _) = command(db, &RUN);
    assert_eq!(code, Some(0), "{real}");
    for name in super::stage::COUNTS {
        assert_eq!(dry[name], real[name], "{name}");
    }
    assert_eq!((&real["status"], stage.jobs().await), (&json!("finished"), 30));
    let (_, listed, _) = command(db, &["consumers", "backfill", "--list", "--all"]);
    assert_eq!((&listed[0]["actor"], &listed[0]["status"]), (&json!("user:operator"), &json!("finished")));
    assert_eq!(command(db, &["consumers", "backfill", "--list"]).1, json!([]));
    let (code, replayed, _) = command(
        db,
        &[
            "consumers",
            "replay",
            "k",
            "--since",
            "2h",
            "--until",
            "30m",
            "--limit",
            "3",
            "--reason",
            "t",
            "--apply",
        ],
    );
    assert_eq!(
        (code, &replayed["made"], &replayed["generation"]),
        (Some(0), &json!(3), &json!(2)),
        "{replayed}"
    );
}

#[tokio::test]
async fn mistakes_are_refused_with_what_to_do() {
    let stage = Stage::new(1, json!({})).await;
    let db = stage.db();
    for (arguments, code) in [
        (&["consumers", "backfill", "k"][..], 2),
        (&["consumers", "backfill"], 2),
        (&["consumers", "backfill", "--since", "1h"], 2),
        (&["consumers", "backfill", "k", "--list"], 2),
        (&["consumers", "backfill", "k", "--since", "1h", "--rate", "fast"], 2),
        (&["consumers", "backfill", "k", "--since", "1h", "--limit", "0"], 2),
        (&["consumers", "replay", "k", "--since", "1h", "--apply"], 2),
        (&["consumers", "replay", "k"], 2),
        (&["consumers", "backfill", "--pause", "01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10"], 3),
        (&["consumers", "backfill", "--resume", "01981c5e-7a0e-7d3c-9f3e-2f4f4b9d8a10"], 3),
    ] {
        assert_eq!(words(db, arguments).0, Some(code), "{arguments:?}");
    }
    stage.outbox.consumer("mark_cut", "iu", json!({"enabled": false})).await;
    let (code, _, error) = words(db, &["consumers", "backfill", "mark_cat", "--since", "1h"]);
    assert!(code == Some(1) && error.contains("did you mean `mark_cut`?"), "{code:?} {error}");
    let (code, _, error) = words(db, &["consumers", "backfill", "mark_cut", "--since", "2h", "--apply"]);
    assert!(code == Some(3) && error.contains("consumers enable"), "{code:?} {error}");
}

#[tokio::test]
async fn a_run_whose_command_was_killed_is_resumed_from_its_place_and_makes_each_job_once() {
    let stage = Stage::new(600, json!({})).await;
    let program = Program::start(&stage.db().url(), &[&RUN[..], &["--rate", "200/s"]].concat(), &[]);
    let id = begun(&stage).await;
    program.signal("KILL");
    drop(program);
    assert_eq!(status(&stage).await, "running");
    let made = stage.jobs().await;
    assert!((1..600).contains(&made), "killed in the middle: {made}");
    let (code, run, error) = command(stage.db(), &["consumers", "backfill", "--resume", &id]);
    assert_eq!((code, &run["status"], &run["made"]), (Some(0), &json!("finished"), &json!(600)), "{error}");
    assert_eq!((&run["present"], stage.jobs().await), (&json!(0), 600), "nothing was looked at twice");
}

#[tokio::test]
async fn ctrl_c_pauses_the_run_says_how_to_go_on_and_pause_and_cancel_work_from_elsewhere() {
    let stage = Stage::new(600, json!({})).await;
    let program = Program::start(&stage.db().url(), &[&RUN[..], &["--rate", "20/s"]].concat(), &[]);
    let id = begun(&stage).await;
    program.signal("INT");
    let ended = program.ends().await;
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    assert!(ended.out.contains(&format!("reveille consumers backfill --resume {id}")), "{}", ended.out);
    assert_eq!(status(&stage).await, "paused");

    let program = Program::start(&stage.db().url(), &["consumers", "backfill", "--resume", &id], &[]);
    wait_until("it runs again", SOON, async || status(&stage).await == "running").await;
    let (code, paused, _) =
        command(stage.db(), &["consumers", "backfill", "--pause", &id, "--reason", "too loud"]);
    assert_eq!((code, &paused["status"]), (Some(0), &json!("paused")));
    let ended = program.ends().await;
    assert!(ended.code == Some(1) && ended.out.contains("too loud"), "{} {}", ended.out, ended.err);
    let (_, table, _) = words(stage.db(), &["consumers", "backfill", "--list"]);
    assert!(table.contains(&id) && table.contains("paused (too loud)"), "{table}");
    let (code, cancelled, _) = command(stage.db(), &["consumers", "backfill", "--cancel", &id]);
    assert_eq!((code, &cancelled["status"]), (Some(0), &json!("cancelled")));
    let (code, refused, _): (_, Value, _) = command(stage.db(), &["consumers", "backfill", "--resume", &id]);
    assert_eq!((code, &refused["reason"]), (Some(3), &json!("illegal_transition")));
}
