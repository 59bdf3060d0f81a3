//! README's first steps, taken from the page itself.

use crate::support::TestDb;

/// The first block of `language` in README.
fn block(language: &str) -> String {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[tokio::test]
async fn the_first_steps_of_the_readme_end_in_a_job_that_succeeded() {
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    client.batch_execute(&block("sql")).await.unwrap();
    let reveille = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_reveille"));
        command.args(arguments).env("DATABASE_URL", db.url()).current_dir(env!("CARGO_TARGET_TMPDIR"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    reveille(&["events", "emit", "iu.page_saved", "page:42"]);
    reveille(&["tick"]);
    reveille(&["work", "--once"]);
    let job = client.query_one("select status, result_ref from job_queue", &[]).await.unwrap();
    assert_eq!((job.get::<_, &str>(0), job.get::<_, &str>(1)), ("succeeded", "page:42"));
    reveille(&["health"]);
}

#[test]
fn every_file_that_the_readme_names_exists() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("README.md")).unwrap();
    let named = page.split(['`', '(', ')']).filter(|word| {
        let is_path =
            word.starts_with("tests/") || word.starts_with("docs/") || word.starts_with("migrations/");
        is_path && !word.contains(' ')
    });
    let missing: Vec<&str> = named.filter(|path| !root.join(path).exists()).collect();
    assert_eq!(missing, Vec::<&str>::new());
}
