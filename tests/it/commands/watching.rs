//! `--watch` and the manual.

use std::sync::Arc;

use crate::cli::{output, reveille};
use crate::support::{Program, SOON, TestDb, own_server, quiet_options, wait_until};

/// The looks so far, each a line.
fn looks(program: &Program) -> Vec<serde_json::Value> {
    program.lines_out().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_watch_shows_what_changes_and_ends_with_ctrl_c() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    let program = Program::start(&db.url(), &["jobs", "list", "--watch", "100ms", "--json"], &[]);
    wait_until("it has looked", SOON, async || !looks(&program).is_empty()).await;
    client.batch_execute("select fn_job_enqueue('any', 'test')").await.unwrap();
    wait_until("it shows the job", SOON, async || {
        looks(&program).last().unwrap().as_array().unwrap().len() == 1
    })
    .await;
    assert_eq!(looks(&program)[0], serde_json::json!([]));
    let ended = program.stops().await;
    assert!(!ended.out.contains('\u{1b}'), "no codes of a terminal where there is none");
}

#[tokio::test]
async fn health_and_workflows_are_watched_as_well() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    let put = r#"
        create function nothing(p_job jsonb) returns jsonb language sql as $$ select null::jsonb $$;
        insert into job_handler (job_kind, handler) values ('any', 'nothing(jsonb)');
        select fn_mot_template_put('{"template_key": "watched", "nodes": [{"key": "one", "job_kind": "any"}]}', 'test')"#;
    client.batch_execute(put).await.unwrap();
    let emit = "select (fn_mot_graph_emit(p_template_id => 'watched', p_correlation_id => '1', p_actor => 'test') ->> 'workflow_id')";
    let workflow: String = client.query_one(emit, &[]).await.unwrap().get(0);
    for command in [vec!["health"], vec!["workflows", "list"], vec!["workflows", "show", &workflow]] {
        let arguments = [command.as_slice(), &["--watch", "100ms", "--json"]].concat();
        let program = Program::start(&db.url(), &arguments, &[]);
        let what = format!("{command:?} has looked again and again");
        wait_until(&what, SOON, async || looks(&program).len() >= 3).await;
        program.stops().await;
    }
}

#[tokio::test]
async fn a_watch_goes_on_when_the_database_is_back() {
    let db = TestDb::on(Arc::new(own_server(quiet_options()).await)).await;
    let program = Program::start(&db.url(), &["jobs", "list", "--watch", "100ms", "--json"], &[]);
    wait_until("it has looked", SOON, async || !looks(&program).is_empty()).await;
    db.server().stop().await.unwrap();
    program.has_said("\"kind\":\"unreachable\"").await;
    let seen = looks(&program).len();
    db.server().start_again().await.unwrap();
    wait_until("it looks again", SOON, async || looks(&program).len() > seen).await;
    program.stops().await;
}

#[test]
fn a_watch_that_is_too_eager_is_refused() {
    let (code, _, err) = output(&mut reveille(&["health", "--watch", "1ms"]));
    assert_eq!(code, Some(2));
    assert!(err.contains("at least 100ms"), "{err}");
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("man-pages");
    let (code, out, err) = output(reveille(&["man", "--json"]).arg(&folder));
    assert_eq!(code, Some(0), "{err}");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    let pages = answer["pages"].as_array().unwrap();
    assert_eq!(pages.len(), crate::cli::commands().len());
    for page in pages {
        let text = std::fs::read_to_string(folder.join(page.as_str().unwrap())).unwrap();
        assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    let jobs = std::fs::read_to_string(folder.join("reveille-jobs-list.1")).unwrap();
    assert!(jobs.contains("dead_letter") && jobs.contains("Examples"), "{jobs}");
    std::fs::remove_dir_all(&folder).unwrap();
}
