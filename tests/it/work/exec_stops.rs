//! Programs that must end: they are told, then killed, and nothing of them survives.

use std::time::Duration;

use serde_json::json;

use super::shop::Shop;
use super::tools::Tools;
use crate::support::{SOON, wait_until};

/// Two processes that do not want to end, and say who they are.
const STUBBORN: &str = "trap '' TERM
    sh -c 'echo $$ > \"$0/grandchild\"; while :; do sleep 600; done' \"$DIR\" &
    echo $$ > \"$DIR/child\"
    while :; do wait; done";

/// A process that says that it was told to stop, and ends as if all were well.
const POLITE: &str = "trap 'echo told > \"$DIR/told\"; exit 0' TERM
    echo $$ > \"$DIR/child\"
    sleep 600 & wait";

/// Whether a process runs; one that has ended and only waits to be collected does not.
pub(super) fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

pub(super) async fn all_are_gone(pids: &[String]) {
    wait_until("no process of the program is left", SOON, async || !pids.iter().any(|pid| runs(pid))).await;
}

async fn stubborn_pids(tools: &Tools) -> [String; 2] {
    let pids = [tools.line("child").await, tools.line("grandchild").await];
    assert!(pids.iter().all(|pid| runs(pid)), "{pids:?}");
    pids
}

#[tokio::test]
async fn the_time_limit_ends_a_program_and_its_children_however_stubborn() {
    let (shop, tools) = (Shop::open().await, Tools::new());
    let mut settings = shop.settings();
    settings.worker.time_limit = Duration::from_secs(2);
    let worker = shop.start(&settings, tools.handlers("stubborn", STUBBORN)).await;
    let id = shop.enqueue("stubborn").await;
    let pids = stubborn_pids(&tools).await;
    let job = shop.wait_for_status(id, "retry_waiting").await;
    assert_eq!(job["last_error"], "time limit of 2s is over");
    all_are_gone(&pids).await;
    assert_eq!(worker.stop().await.time_limits, 1);
}

#[tokio::test]
async fn a_cancelled_program_is_told_and_may_tidy_up() {
    let (shop, tools) = (Shop::open().await, Tools::new());
    let worker = shop.start(&shop.settings(), tools.handlers("polite", POLITE)).await;
    let id = shop.enqueue("polite").await;
    let child = tools.line("child").await;
    shop.wait_for_status(id, "in_progress").await;
    shop.value("select fn_job_cancel($1, 'test', 'not wanted')", &[&id]).await;
    shop.wait_for_status(id, "cancelled").await;
    assert_eq!(tools.line("told").await, "told");
    all_are_gone(&[child]).await;
    assert_eq!(worker.stop().await.cancelled, 1);
}

#[tokio::test]
async fn a_program_that_lost_its_lease_is_ended_and_its_word_does_not_count() {
    let (shop, tools) = (Shop::open().await, Tools::new());
    let mut settings = shop.settings();
    settings.worker.lease = Duration::from_secs(3);
    let worker = shop.start(&settings, tools.handlers("stubborn", STUBBORN)).await;
    let id = shop.enqueue("stubborn").await;
    let pids = stubborn_pids(&tools).await;
    shop.wait_for_status(id, "in_progress").await;
    let steal = "update job_queue set lease_token = lease_token + 1 where job_id = $1";
    shop.client.execute(steal, &[&id]).await.unwrap();
    all_are_gone(&pids).await;
    wait_until("it is counted", SOON, async || worker.stats.counts().lease_lost == 1).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_stop_gives_back_what_programs_did_not_end_also_when_they_end_with_0() {
    for (lines, name) in [(POLITE, "polite"), (STUBBORN, "stubborn")] {
        let (shop, tools) = (Shop::open().await, Tools::new());
        let mut settings = shop.settings();
        settings.shutdown.deadline = Duration::from_millis(100);
        let worker = shop.start(&settings, tools.handlers(name, lines)).await;
        let id = shop.enqueue(name).await;
        let child = tools.line("child").await;
        shop.wait_for_status(id, "in_progress").await;
        assert_eq!(worker.stop().await.released, 1, "{name}");
        let job = shop.job(id).await;
        assert_eq!((&job["status"], &job["attempts"]), (&json!("queued"), &json!(0)), "{name}");
        all_are_gone(&[child]).await;
    }
}

#[tokio::test]
async fn a_hard_stop_leaves_no_process_behind() {
    let (shop, tools) = (Shop::open().await, Tools::new());
    let worker = shop.start(&shop.settings(), tools.handlers("stubborn", STUBBORN)).await;
    let id = shop.enqueue("stubborn").await;
    let pids = stubborn_pids(&tools).await;
    worker.shutdown.cut();
    worker.end().await.unwrap();
    all_are_gone(&pids).await;
    assert_eq!(shop.job(id).await["status"], "queued");
}

#[tokio::test]
async fn what_a_program_leaves_running_goes_with_it() {
    let (shop, tools) = (Shop::open().await, Tools::new());
    let lines = "sleep 600 & echo $! > \"$DIR/left\"; echo '{\"result_ref\": \"r\"}'";
    let worker = shop.start(&shop.settings(), tools.handlers("leaving", lines)).await;
    let id = shop.enqueue("leaving").await;
    assert_eq!(shop.wait_for_status(id, "succeeded").await["result_ref"], "r");
    all_are_gone(&[tools.line("left").await]).await;
    worker.stop().await;
}

#[tokio::test]
async fn who_left_the_group_and_holds_the_output_does_not_hold_the_job() {
    let (shop, tools) = (Shop::open().await, Tools::new());
    let lines = "setsid sh -c 'echo $$ > \"$0/daemon\"; exec sleep 600' \"$DIR\" &
        until [ -s \"$DIR/daemon\" ]; do sleep 0.01; done
        echo '{\"result_ref\": \"r\"}'";
    let worker = shop.start(&shop.settings(), tools.handlers("daemonized", lines)).await;
    let id = shop.enqueue("daemonized").await;
    assert_eq!(shop.wait_for_status(id, "succeeded").await["result_ref"], "r");
    let daemon = tools.line("daemon").await;
    assert!(runs(&daemon));
    assert!(std::process::Command::new("kill").arg(&daemon).status().unwrap().success());
    worker.stop().await;
}
