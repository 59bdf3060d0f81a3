//! The log: one readable line a change of state, and as JSON one object a line to the end.

use serde_json::Value;

use super::HANDLER;
use crate::support::{Program, TestDb, all_became_jobs, emit_each, flow};

#[tokio::test]
async fn a_quiet_life_is_a_handful_of_lines_however_many_events() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let mut sidecar = Program::run(&db.url(), &[]);
    sidecar.says(&["is running"]).await;
    sidecar.says(&["listening"]).await;
    emit_each(&client, 100).await;
    all_became_jobs(&client).await;
    let ended = sidecar.stops().await;
    let lines: Vec<&str> = ended.err.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    let words = ["reveille 0.1.0 is running", "listening", "stopping: ", "stopped"];
    for (line, words) in lines.iter().zip(words) {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(
            time.parse::<jiff::Timestamp>().is_ok() && rest.starts_with(&format!("INFO  {words}")),
            "{line}"
        );
    }
}

#[tokio::test]
async fn json_is_one_object_a_line_to_the_last() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    client.batch_execute(HANDLER).await.unwrap();
    let json = [("REVEILLE__LOG__FORMAT", "json"), ("REVEILLE__LOG__LEVEL", "debug")];
    let mut sidecar = Program::run(&db.url(), &json);
    let mut worker = Program::start(&db.url(), &["work"], &json);
    sidecar.says(&["listening"]).await;
    worker.says(&["listening"]).await;
    emit_each(&client, 3).await;
    all_became_jobs(&client).await;
    worker.says(&["succeeded"]).await;
    client.batch_execute("drop function fn_dispatch_poll").await.unwrap();
    let ended = sidecar.ends().await;
    assert_eq!(ended.code, Some(1));
    let stopped = worker.stops().await;
    for line in ended.err.lines().chain(stopped.err.lines()) {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(object["message"].is_string() && object["level"].is_string(), "{line}");
        assert!(object["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{line}");
    }
    let last: Value = serde_json::from_str(ended.err.lines().last().unwrap()).unwrap();
    assert_eq!((&last["level"], &last["error.sqlstate"]), (&"ERROR".into(), &"42883".into()), "{last}");
    assert!(last["hint"].as_str().unwrap().contains("reveille migrate up"), "{last}");
}
