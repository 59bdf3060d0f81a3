//! docs/executors.md as a stranger follows it: its programs run as they stand there, and its tables are true.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;
use tokio_postgres::Config;
use uuid::Uuid;

use super::shop::Shop;
use super::tools::Tools;
use crate::support::{SOON, password, skipped, wait_for, wait_until};

const PAGE: &str = include_str!("../../../docs/executors.md");

/// The one program of the page in a language, under its heading.
fn program(heading: &str, language: &str) -> &'static str {
    let (_, section) = PAGE.split_once(&format!("\n### {heading}\n")).expect("the section is there");
    let (_, program) = section.split_once(&format!("```{language}\n")).expect("the program is there");
    program.split_once("\n```").unwrap().0
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// A file with its interpreter, and the database as psql finds it.
fn command(shop: &Shop, interpreter: &str, file: &Path) -> Command {
    let url = shop.db.url();
    let address: Config = url.parse().unwrap();
    let mut command = Command::new(interpreter);
    command.arg(file);
    command.envs([("PGHOST", "127.0.0.1"), ("PGUSER", "postgres"), ("PGDATABASE", shop.db.name())]);
    command.env("PGPORT", address.get_ports()[0].to_string()).env("PGPASSWORD", password(&url));
    command
}

/// A program in a group of its own; whatever it leaves running goes with this.
struct Group(Pid);

impl Group {
    fn of(id: u32) -> Self {
        Self(Pid::from_raw(i32::try_from(id).unwrap()).unwrap())
    }

    fn start(command: &mut Command) -> (Self, Child) {
        let child = command.process_group(0).stdin(Stdio::null()).spawn().unwrap();
        (Self::of(child.id()), child)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        kill_process_group(self.0, Signal::KILL).ok(); // all may have ended
    }
}

/// Runs it until nothing is left to do.
async fn run_once(shop: &Shop, interpreter: &str, file: &Path) -> Output {
    let mut command = tokio::process::Command::from(command(shop, interpreter, file));
    command.arg("once").process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let _group = Group::of(child.id().unwrap());
    let output = tokio::time::timeout(SOON * 3, child.wait_with_output()).await;
    output.expect("the program ends, and nothing that it leaves behind holds its pipes").unwrap()
}

/// The processes with this file among their arguments.
fn running(file: &Path) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let arguments = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        arguments
            .split(|byte| *byte == 0)
            .any(|word| word == file.as_os_str().as_encoded_bytes())
            .then_some(())
    });
    processes.count()
}

async fn external(shop: &Shop, kind: &str, source_ref: Option<&str>, payload: serde_json::Value) -> Uuid {
    let enqueue = "select fn_job_enqueue($1, 'test', $2, $3, p_executor => 'external_worker')";
    let answer = shop.value(enqueue, &[&kind, &payload, &source_ref]).await;
    answer["job_id"].as_str().unwrap().parse().unwrap()
}

async fn names(shop: &Shop) -> i64 {
    shop.client.query_one("select count(*) from queue_heartbeat", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn the_shell_program_of_the_page_runs_jobs() {
    if !is_there("psql") {
        return skipped("there is no psql");
    }
    let (shop, tools) = (Shop::open().await, Tools::new());
    let file = tools.path("resizer.sh");
    std::fs::write(&file, program("Shell and psql", "sh")).unwrap();
    let good = external(&shop, "image.resize", Some("im'age:|7"), json!({"note": "a\nb"})).await;
    let bad = external(&shop, "image.resize", None, json!({})).await;
    let other = external(&shop, "image.rotate", None, json!({})).await;
    let output = run_once(&shop, "sh", &file).await;
    assert!(output.status.success(), "{output:?}");
    let done = shop.job(good).await;
    assert_eq!((&done["status"], &done["result_ref"]), (&"succeeded".into(), &"thumbnail:im'age:|7".into()));
    let dead = shop.job(bad).await;
    assert_eq!((&dead["status"], &dead["last_error"]), (&"dead_letter".into(), &"no image is named".into()));
    assert_eq!(shop.job(other).await["status"], "queued");
    assert_eq!(names(&shop).await, 0, "its name is forgotten");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[tokio::test]
async fn what_keeps_a_lease_in_the_shell_program_ends_with_its_job() {
    if !is_there("psql") {
        return skipped("there is no psql");
    }
    let (shop, tools) = (Shop::open().await, Tools::new());
    let file = tools.path("resizer.sh");
    std::fs::write(&file, with_work("echo thumbnail:7")).unwrap();
    for _ in 0..10 {
        external(&shop, "image.resize", Some("image:7"), json!({})).await;
    }
    // batch: a new process waits for its turn, and what is sent to it comes before its first step
    let mut batch = command(&shop, "chrt", Path::new("--batch"));
    batch.args(["0", "sh"]).arg(&file).arg("once").stdout(Stdio::null());
    let (_group, mut child) = Group::start(&mut batch);
    let status = wait_for("its end", SOON * 3, async || child.try_wait().unwrap()).await;
    assert!(status.success());
    let left = shop.client.query_one("select count(*) from job_queue where status <> 'succeeded'", &[]).await;
    assert_eq!(left.unwrap().get::<_, i64>(0), 0);
    wait_until("no keeper is left", Duration::from_secs(2), async || running(&file) == 0).await;
}

/// The page's shell program with other work.
fn with_work(work: &str) -> String {
    let page = program("Shell and psql", "sh");
    page.replace(page.lines().find(|line| line.contains("thumbnail")).unwrap(), work)
}

/// The page's program, kept busy by a job that takes ten minutes, with some words of it replaced; and the job.
async fn busy(shop: &Shop, tools: &Tools, replace: (&str, &str)) -> (Group, Child, Uuid) {
    let file = tools.path("resizer.sh");
    let slow = format!("exec sh -c \"echo \\$\\$ > '{}'; exec sleep 600\"", tools.path("works").display());
    std::fs::write(&file, with_work(&slow).replace(replace.0, replace.1)).unwrap();
    let id = external(shop, "image.resize", None, json!({})).await;
    let mut command = command(shop, "sh", &file);
    let (group, child) = Group::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    shop.wait_for_status(id, "in_progress").await;
    tools.line("works").await;
    (group, child, id)
}

#[tokio::test]
async fn the_shell_program_of_the_page_gives_back_what_a_stop_cuts_short() {
    if !is_there("psql") {
        return skipped("there is no psql");
    }
    let (shop, tools) = (Shop::open().await, Tools::new());
    let (group, mut child, id) = busy(&shop, &tools, ("", "")).await;
    kill_process(group.0, Signal::TERM).unwrap();
    wait_for("its end", SOON, async || child.try_wait().unwrap()).await;
    let job = shop.job(id).await;
    assert_eq!((&job["status"], &job["attempts"]), (&"queued".into(), &0.into()));
    assert_eq!(names(&shop).await, 0, "its name is forgotten");
}

#[tokio::test]
async fn nothing_beats_for_a_shell_program_that_was_killed() {
    if !is_there("psql") {
        return skipped("there is no psql");
    }
    let (shop, tools) = (Shop::open().await, Tools::new());
    let (_group, mut child, ..) = busy(&shop, &tools, ("sleep 20", "sleep 1")).await;
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("its keeper has ended", SOON, async || running(&tools.path("resizer.sh")) == 0).await;
    let work = Path::new("/proc").join(tools.line("works").await).join("cmdline");
    wait_until("its work has ended", SOON, async || {
        std::fs::read(&work).is_ok_and(|line| line.is_empty()) || !work.exists()
    })
    .await;
}

#[tokio::test]
async fn the_python_program_of_the_page_runs_jobs() {
    if !is_there("psql") {
        return skipped("there is no psql");
    }
    if !is_there("python3") {
        return skipped("there is no python3");
    }
    let (shop, tools) = (Shop::open().await, Tools::new());
    let file = tools.path("counter.py");
    std::fs::write(&file, program("Python and psql", "python")).unwrap();
    let good = external(&shop, "text.count", None, json!({"text": "zwölf\u{2028}Boxkämpfer"})).await;
    let bad = external(&shop, "text.count", None, json!({})).await;
    let broken = external(&shop, "text.count", None, json!({"text": null})).await;
    let output = run_once(&shop, "python3", &file).await;
    assert!(output.status.success(), "{output:?}");
    let done = shop.job(good).await;
    assert_eq!((&done["status"], &done["result_ref"]), (&"succeeded".into(), &"count:16".into()));
    let dead = shop.job(bad).await;
    assert_eq!(
        (&dead["status"], &dead["last_error"]),
        (&"dead_letter".into(), &"there is no text to count".into())
    );
    assert_eq!(shop.job(broken).await["status"], "retry_waiting");
    assert_eq!(names(&shop).await, 0, "its name is forgotten");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[tokio::test]
async fn a_closed_gate_is_a_refusal_that_the_programs_of_the_page_name() {
    if !is_there("psql") || !is_there("python3") {
        return skipped("there is no psql or no python3");
    }
    let (shop, tools) = (Shop::open().await, Tools::new());
    shop.set("queue.worker.enabled", "false").await;
    for (heading, language, interpreter) in
        [("Shell and psql", "sh", "sh"), ("Python and psql", "python", "python3")]
    {
        let file = tools.path(language);
        std::fs::write(&file, program(heading, language)).unwrap();
        let output = run_once(&shop, interpreter, &file).await;
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && err.contains("worker_disabled"), "{err}");
    }
}

#[tokio::test]
async fn the_calls_the_refusals_and_the_columns_of_the_page_are_those_of_the_database() {
    let shop = Shop::open().await;
    let facts = "select (proargnames)[1:pronargs] as given, (proargnames)[pronargs + 1:] as columns,
        prosrc || (select string_agg(pg_get_functiondef(h.oid), '') from pg_proc h where h.proname = 'fn_job_lease_lost'
          or p.proname = 'fn_job_claim' and h.proname in ('fn_executor_admission', 'fn_job_choose')) as source
        from pg_proc p where proname = $1";
    let mut known = 0;
    for row in PAGE.lines().filter(|line| line.starts_with("| `fn_")) {
        let cells: Vec<Vec<&str>> =
            row.split(" | ").map(|cell| cell.split('`').skip(1).step_by(2).collect()).collect();
        let (name, parameters) = cells[0][0].split_once('(').unwrap();
        let parameters: Vec<&str> = parameters.trim_end_matches(')').split(", ").collect();
        let facts = shop.client.query_one(facts, &[&name]).await.unwrap();
        assert_eq!(facts.get::<_, Vec<&str>>("given"), parameters, "{name}");
        for reason in &cells[1] {
            assert!(facts.get::<_, &str>("source").contains(&format!("'{reason}'")), "{name}: {reason}");
        }
        if name == "fn_job_claim" {
            let (_, listed) = PAGE.split_once("```text\n").unwrap();
            let listed: String = listed.split("```").next().unwrap().split_whitespace().collect();
            let columns: Vec<&str> = facts.get("columns");
            assert_eq!(listed.split(',').collect::<Vec<_>>(), columns);
        }
        known += 1;
    }
    assert_eq!(known, 23);
}
