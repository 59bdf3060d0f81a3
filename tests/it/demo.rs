//! `reveille demo`: the main job end to end, as a stranger types it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reveille::demo::{Document, play};
use reveille::error::Kind;
use reveille::shutdown::Shutdown;
use serde_json::Value;

use crate::support::{Folder, Program, TestDb, script, wait_until};

/// What "at once" may take on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Runs the demo on a document of these bytes; the exit code, standard output and standard error.
fn demo(bytes: &[u8], json: bool) -> (Option<i32>, String, String) {
    demo_with(bytes, if json { &["--json"] } else { &[] })
}

fn demo_with(bytes: &[u8], flags: &[&str]) -> (Option<i32>, String, String) {
    let folder = Folder::open_to_all();
    let document = folder.path().join("document.txt");
    std::fs::write(&document, bytes).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
    command.arg("demo").arg(&document).current_dir(folder.path());
    command.env_remove("DATABASE_URL").env_remove("REVEILLE_LOG").env_remove("RUST_LOG");
    command.args(flags);
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn report(bytes: &[u8]) -> Value {
    let (code, out, err) = demo(bytes, true);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn a_document_is_cut_verified_and_cleaned_without_a_hand_on_cut() {
    let letter = "# A letter\n\nDear reader,\n\nnothing is lost.\n\n## And nothing is silent\n\nYours.\n";
    let (code, out, err) = demo(letter.as_bytes(), false);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let steps = [
        "marked",
        "approved",
        "staging.record_approved",
        "cut.cut by demo-worker",
        "staging.record_consumed",
        "cut.verify_cut by demo-worker",
        "staging.record_cleaned",
        "seen by mark_cut.cleaned, no job wanted",
    ];
    let mut rest = out.as_str();
    for step in steps {
        let at = rest.find(step).unwrap_or_else(|| panic!("no `{step}` after what came before:\n{out}"));
        rest = &rest[at..];
    }
    assert!(rest.contains("verified byte for byte, cleaned"), "{out}");
    assert!(out.contains("after its event") && out.contains("after it was made"), "{out}");
}

#[test]
fn the_same_document_as_a_workflow_ends_with_the_same_pieces_and_no_step_is_of_mot() {
    let letter = b"# A letter\n\nDear reader,\n\n## And more\n\nYours.\n";
    let (code, out, err) = demo_with(letter, &["--workflow", "--json"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let pipeline = &report["workflow"];
    assert_eq!(
        (&pipeline["workflow"]["status"], &pipeline["identical"]),
        (&"succeeded".into(), &true.into())
    );
    let steps = pipeline["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(names, ["copy_to_staging", "mark", "verify_mark", "approval", "cut", "verify_cut", "cleanup"]);
    for step in steps.iter().filter(|step| step["gate"].is_null()) {
        assert_eq!((&step["executor"], &step["lease_owner"]), (&"PG_worker".into(), &"demo-worker".into()));
    }
    let (_, out, _) = demo_with(letter, &["--workflow"]);
    assert!(out.contains("the workflow cut_pipeline@1 succeeded, with the same pieces"), "{out}");
    assert!(out.contains("✓ verify_cut"), "{out}");
}

#[test]
fn every_event_and_job_is_accounted_for() {
    let report = report(b"one\n\ntwo\n");
    let became = |name: &str| {
        let events = report["events"].as_array().unwrap();
        events.iter().filter(|event| event["name"] == name).cloned().collect::<Vec<_>>()
    };
    for (name, consumer) in
        [("staging.record_approved", "mark_cut.cut"), ("staging.record_consumed", "mark_cut.verify_cut")]
    {
        let became = became(name);
        assert_eq!(became.len(), 1, "{name}: {became:?}");
        assert_eq!(became[0]["consumer_key"], consumer);
        assert!(became[0]["job_id"].is_string(), "{name} made no job");
    }
    assert_eq!(became("staging.record_cleaned")[0]["terminal"], true);
    let jobs: Vec<&str> =
        report["jobs"].as_array().unwrap().iter().map(|job| job["job_kind"].as_str().unwrap()).collect();
    assert_eq!(jobs, ["cut.cut", "cut.verify_cut", "cut.cleanup"]);
    for job in report["jobs"].as_array().unwrap() {
        assert_eq!((&job["status"], &job["attempts"]), (&"succeeded".into(), &0.into()), "{job}");
    }
    assert_eq!(report["record"]["staged_bytes"], 0, "the staged body is gone after clean-up");
}

#[test]
fn any_text_of_any_size_goes_through() {
    let long = "Zeile mit Ümläuten und 🦀.\n\n".repeat(160_000);
    assert!(long.len() > 4_900_000);
    let texts: [(&str, Vec<u8>); 6] = [
        ("empty", Vec::new()),
        ("five megabytes", long.into_bytes()),
        ("one line", vec![b'x'; 1_000_000]),
        ("CRLF", b"Title\r\n=====\r\n\r\none\r\n\r\ntwo\r\n".to_vec()),
        ("ISO-8859-1", b"\xdcberraschung\n\nzwei\n".to_vec()),
        ("quotes and variables", b"it's \"quoted\" \\ $1 {event_id} %s; drop table job_queue; --\n".to_vec()),
    ];
    for (name, text) in texts {
        let report = report(&text);
        assert_eq!(report["record"]["verdict"], "verified", "{name}");
        assert_eq!(report["record"]["lifecycle_status"], "cleaned", "{name}");
    }
}

#[test]
fn what_is_no_text_is_refused_before_anything_starts() {
    let (code, out, err) = demo(b"abc\0def", false);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.contains("NUL character at byte 3"), "{err}");
    let missing =
        Command::new(env!("CARGO_BIN_EXE_reveille")).args(["demo", "/no/such/file"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such/file"));
}

/// Starts the demo of a document of some megabytes, with its throw-away server below `parent`.
fn begin(parent: &Path, document: &Path, more: &[(&str, &str)]) -> Program {
    fs::write(document, "Nothing is lost.\n\n".repeat(400_000)).unwrap();
    let settings = [&[("TMPDIR", parent.to_str().unwrap())], more].concat();
    Program::start("", &["demo", document.to_str().unwrap()], &settings)
}

#[tokio::test]
async fn a_stop_while_the_server_is_being_made_ends_the_demo_at_once_and_leaves_nothing() {
    let (parent, folder) = (Folder::open_to_all(), Folder::open_to_all());
    let (programs, began) = (folder.path().join("bin"), folder.path().join("began"));
    script(&programs.join("postgres"), "echo 'postgres (PostgreSQL) 15.18'");
    // a child of its own, as the real one has
    script(&programs.join("initdb"), &format!("sleep 600 & echo $! > '{}'; wait", began.display()));
    let more = [("REVEILLE_PG_BIN", programs.to_str().unwrap())];
    let demo = begin(parent.path(), &folder.path().join("document"), &more);
    let child = || fs::read_to_string(&began).unwrap_or_default().trim().to_owned();
    wait_until("it is being made", AT_ONCE, async || !child().is_empty()).await;
    demo.signal("INT");
    let ended = demo.ends_within(AT_ONCE).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("stopped before the end"), "{}", ended.err);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0, "nothing is left");
    let lives = Path::new("/proc").join(child());
    wait_until("its child has ended", AT_ONCE, async || !lives.join("exe").exists()).await;
}

#[tokio::test]
async fn a_stop_while_the_document_is_being_marked_ends_the_demo_at_once_and_leaves_nothing() {
    let (parent, folder) = (Folder::open_to_all(), Folder::open_to_all());
    let demo = begin(parent.path(), &folder.path().join("document"), &[]);
    let is_ready = || {
        let made = fs::read_dir(parent.path()).unwrap().next()?.ok()?.path();
        let text = fs::read_to_string(made.join("data/postmaster.pid")).ok()?;
        Some(text.lines().nth(7)?.trim() == "ready")
    };
    wait_until("the server is ready", AT_ONCE, async || is_ready() == Some(true)).await;
    demo.signal("TERM");
    let ended = demo.ends_within(AT_ONCE).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("stopped before the end"), "{}", ended.err);
    assert!(!ended.out.contains("approved"), "it went on:\n{}", ended.out);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0, "nothing is left");
}

#[tokio::test]
async fn a_sidecar_that_dies_before_the_first_event_is_the_error_of_the_demo() {
    let database = TestDb::empty().await;
    let mut settings = database.settings();
    settings.http.enabled = false;
    settings.dispatch.domains = vec!["nowhere".to_owned()]; // which ends a sidecar at its start
    let document = Document::read(Path::new("LICENSE")).await.unwrap();
    let error = play(&settings, &document, false, &Shutdown::new(), &mut |_| Ok(())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage, "{error}");
    assert!(error.to_string().contains("`nowhere`, which is not dispatched here"), "{error}");
}
