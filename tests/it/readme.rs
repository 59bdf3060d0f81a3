//! The README as a stranger follows it: its commands are run as they stand there.

use std::path::Path;
use std::process::Command;

use crate::support::{Folder, Program, SOON, TestDb, wait_until, with_secret};

const README: &str = include_str!("../../README.md");

/// The blocks of a language in a section, in order.
fn blocks(section: &str, language: &str) -> Vec<String> {
    let begin = README.find(&format!("\n## {section}\n")).expect("the section is there");
    let text = &README[begin + 4..];
    let text = &text[..text.find("\n## ").unwrap_or(text.len())];
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|block| block[..block.find("```").unwrap()].to_owned()).collect()
}

/// The words of a command, without its comment.
fn words(line: &str) -> Vec<&str> {
    line.split(" #")
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|word| word.trim_matches('"'))
        .collect()
}

#[tokio::test]
async fn the_commands_of_the_readme_end_in_a_job_that_has_run() {
    let db = TestDb::empty().await;
    let [install, rest] = blocks("Install", "sh").try_into().unwrap();
    let [sql] = blocks("Install", "sql").try_into().unwrap();
    let consumers = Path::new(env!("CARGO_MANIFEST_DIR")).join("consumers");
    let folder = Folder::open_to_all(); // no config.toml but the defaults
    std::os::unix::fs::symlink(consumers, folder.path().join("consumers")).unwrap();
    let client = db.client().await;
    let mut running = Vec::new();
    for (block, before) in [(install, ""), (rest, sql.as_str())] {
        client.batch_execute(before).await.unwrap();
        for line in block.lines().filter(|line| line.starts_with("reveille ")) {
            let arguments = &words(line)[1..];
            if ["run", "work"].contains(&arguments[0]) {
                let mut program = Program::start(&db.url(), arguments, &[]);
                program.says(&["listening"]).await;
                running.push(program);
                continue;
            }
            let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
            command.args(arguments).env("DATABASE_URL", with_secret(&db.url())).current_dir(folder.path());
            let output = command.output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&said));
        }
    }
    wait_until("the job has run", SOON, async || {
        let done = "select count(*) from job_queue where status = 'succeeded' and result_ref = 'page:42'";
        client.query_one(done, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    assert_eq!(running.len(), 2, "run and work");
    for program in running {
        program.stops().await;
    }
}

pub(crate) fn run_in_shell(db: &TestDb, lines: &str) {
    run_in(db, Path::new(env!("CARGO_TARGET_TMPDIR")), lines);
}

/// Runs lines as a shell does, with `reveille` on the path; each must end well.
fn run_in(db: &TestDb, folder: &Path, lines: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_reveille"));
    let folders = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    // where a page lets a command say that something is wrong, it may say no more than that
    let lines = lines.replace("|| true", "|| test $? -eq 1");
    shell.args(["-euc", &lines]).env("PATH", folders).env("DATABASE_URL", with_secret(&db.url()));
    let output = shell.current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{lines}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_commands_of_the_readme_about_pauses_and_subscriptions_are_accepted() {
    let db = TestDb::new().await;
    let [_, pauses] = blocks("Executors", "sh").try_into().unwrap();
    run_in_shell(&db, &pauses);
    let client = db.client().await;
    let left =
        "select (select count(*) from queue_pause where resumed_at is null), count(*) from job_subscription";
    let left = client.query_one(left, &[]).await.unwrap();
    assert_eq!((left.get::<_, i64>(0), left.get::<_, i64>(1)), (0, 1));
}

/// Does what the blocks of a page say, in order: commands and SQL; blocks of plain text are only shown.
pub(crate) async fn follow(db: &TestDb, page: &str) {
    let client = db.client().await;
    for block in page.split("\n```").skip(1).step_by(2) {
        match block.split_once('\n').unwrap() {
            ("sh", lines) => run_in_shell(db, lines),
            ("sql", statements) => client.batch_execute(statements).await.unwrap(),
            ("text", _) => {}
            (other, _) => panic!("a block of {other}"),
        }
    }
}

#[tokio::test]
async fn the_commands_of_the_readme_about_schedules_are_accepted() {
    let db = TestDb::new().await;
    let [schedules] = blocks("Schedules", "sh").try_into().unwrap();
    run_in_shell(&db, &schedules);
    let left = "select count(*) from job_schedule where enabled";
    assert_eq!(db.client().await.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn every_command_of_the_runbook_about_pauses_and_limits_is_accepted() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let page = include_str!("../../docs/runbooks/pause-and-limits.md");
    assert!(page.lines().count() <= 60, "a runbook is short");
    follow(&db, page).await;
    let limits = "select count(*) from dot_config where key like 'job.%limit'";
    assert_eq!(client.query_one(limits, &[]).await.unwrap().get::<_, i64>(0), 3, "four, and one taken away");
}

#[tokio::test]
async fn a_stranger_follows_the_page_on_traces_to_two_facts_of_one_trace() {
    let db = TestDb::new().await;
    follow(&db, include_str!("../../docs/tracing.md")).await;
    let facts = "select count(*) from event_outbox where safe_payload ->> 'traceparent' like '00-4bf92f%'";
    assert_eq!(db.client().await.query_one(facts, &[]).await.unwrap().get::<_, i64>(0), 2);
}

#[tokio::test]
async fn every_command_of_the_page_about_routes_leads_to_one_event() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let page = include_str!("../../docs/trigger-in.md");
    for block in page.split("\n```").skip(1).step_by(2) {
        match block.split_once('\n').unwrap() {
            ("sh", lines) => run_in_shell(&db, lines),
            ("sql", statements) => client.batch_execute(statements).await.unwrap(),
            (other, _) => panic!("a block of {other}"),
        }
    }
    let events = client.query("select event_subject_ref from event_outbox", &[]).await.unwrap();
    let subjects: Vec<String> = events.iter().map(|row| row.get(0)).collect();
    assert_eq!(subjects, ["entity_species:bos"], "what came in the dry run was only counted");
    std::fs::remove_file(Path::new(env!("CARGO_TARGET_TMPDIR")).join("species.born.toml")).unwrap();
}

#[tokio::test]
async fn the_consumer_file_of_the_readme_is_one() {
    let db = TestDb::new().await;
    let [file] = blocks("Consumers", "toml").try_into().unwrap();
    let folder = Folder::open_to_all();
    let path = folder.path().join("large_documents.toml");
    std::fs::write(&path, file).unwrap();
    let preview = ["consumers", "preview", path.to_str().unwrap()];
    let ended = Program::start(&db.url(), &preview, &[]).ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
}

#[test]
fn files_that_the_readme_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let linked = README.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let tests = README.split('`').filter(|word| word.starts_with("tests/"));
    for name in linked.filter(|name| !name.starts_with("http")).chain(tests) {
        assert!(root.join(name).exists(), "{name}");
    }
}

/// The page with what its reader puts in place of `ID` and `HASH`: the newest workflow, and the hash of what waits there.
async fn with_ids(client: &tokio_postgres::Client, line: &str) -> String {
    let newest = "select workflow_id::text, (
          select fn_job_effect_hash(g.job_id) from job_gate g join job_queue j on j.job_id = g.job_id
          where g.workflow_id = w.workflow_id and j.status = 'queued')
        from job_workflow w order by workflow_id desc limit 1";
    let row = client.query_one(newest, &[]).await.expect("there is a workflow by now");
    let text = line.replace(" ID", &format!(" {}", row.get::<_, &str>(0)));
    text.replace("HASH", row.get::<_, Option<&str>>(1).unwrap_or("HASH"))
}

#[tokio::test]
async fn a_stranger_follows_the_page_on_workflows_from_an_empty_database_to_a_finished_workflow() {
    let page = include_str!("../../docs/workflows.md");
    let db = TestDb::empty().await;
    let client = db.client().await;
    let folder = Folder::open_to_all();
    for block in page.split("\n```").skip(1).step_by(2) {
        match block.split_once('\n').unwrap() {
            ("toml", template) => std::fs::write(folder.path().join("report.toml"), template).unwrap(),
            ("sql", statements) => client.batch_execute(statements).await.unwrap(),
            ("sh", lines) if lines.contains(" ID") => {
                for line in lines.lines() {
                    assert!(line.starts_with("reveille "), "one command a line: {line}");
                    let line =
                        if line.contains(" ID") { with_ids(&client, line).await } else { line.to_owned() };
                    run_in(&db, folder.path(), &line);
                }
            }
            ("sh", lines) => run_in(&db, folder.path(), lines),
            (other, _) => panic!("a block of {other}"),
        }
    }
    let found = "select jsonb_object_agg(correlation_id, jsonb_build_array(status, jobs))
        from (select case when consumer_key is null then correlation_id else consumer_key end as correlation_id, status, jobs
          from job_workflow) w";
    let found: serde_json::Value = client.query_one(found, &[]).await.unwrap().get(0);
    let expected = serde_json::json!({"report:7": ["succeeded", 5], "report:8": ["cancelled", 4], "report.ready": ["active", 4]});
    assert_eq!(found, expected);
    let sent = std::fs::read_to_string(folder.path().join("sent.json")).unwrap();
    assert!(sent.contains("report.send"), "the program got its job: {sent}");
}
