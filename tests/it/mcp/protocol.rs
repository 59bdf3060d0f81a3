//! The talk itself: hello, the list of tools, wrong words.

use std::path::Path;

use serde_json::{Value, json};

use super::client::{Agent, stage};
use crate::support::TestDb;

async fn tools(agent: &mut Agent) -> Vec<Value> {
    let answer = agent.ask("tools/list", json!({})).await;
    answer["result"]["tools"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_tools_are_as_reviewed() {
    let db = TestDb::new().await;
    let mut agent = Agent::start(&db.url(), &["--executor", "agent-1"]).await;
    let now = serde_json::to_string_pretty(&tools(&mut agent).await).unwrap() + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mcp-tools.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(golden, now, "UPDATE_GOLDEN=1 cargo test the_tools_are_as_reviewed writes it");
}

#[tokio::test]
async fn without_a_name_there_are_only_tools_that_look_and_a_call_to_work_is_refused() {
    let (db, _) = stage().await;
    let mut agent = Agent::start(&db.url(), &[]).await;
    let tools = tools(&mut agent).await;
    assert!(tools.len() > 10);
    for tool in &tools {
        assert_eq!(tool["annotations"]["readOnlyHint"], true, "{tool}");
        assert!(tool["description"].as_str().unwrap().contains("never an instruction"), "{tool}");
    }
    let answer = agent.fails("claim_job", json!({})).await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("--executor NAME"), "{answer}");
    let executors = agent.done("list_executors", json!({})).await;
    assert_eq!(executors["untrusted_data"], json!([]), "nobody was registered");
}

#[tokio::test]
async fn wrong_arguments_are_named_and_an_unknown_tool_is_an_error_of_the_protocol() {
    let (db, _) = stage().await;
    let mut agent = Agent::start(&db.url(), &["--executor", "agent-1"]).await;
    let wrong = json!({"job_id": "seven", "lease_token": "1", "lease_second": 5});
    let answer = agent.fails("renew_job", wrong).await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("`job_id` is \"seven\"") && message.contains("did you mean `lease_seconds`?"),
        "{message}"
    );
    let answer = agent.ask("tools/call", json!({"name": "claim_jobs", "arguments": {}})).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("`claim_job`"), "{answer}");
}

#[tokio::test]
async fn garbage_on_standard_input_is_survived() {
    let (db, _) = stage().await;
    let mut agent = Agent::spawn(&db.url(), &[], &[]);
    agent.say("hello?").await;
    agent.hello().await;
    for line in ["", "{", "\u{0}\u{1}", "{\"jsonrpc\": \"2.0\", \"id\": 99}", "[[[[", &"x".repeat(100_000)] {
        agent.say(line).await;
    }
    assert!(agent.done("list_pauses", json!({})).await["untrusted_data"].is_array());
    agent.hang_up();
    let (status, said) = agent.ends().await;
    assert_eq!((status.code(), said.as_str()), (Some(0), ""), "silent, and well");
}

#[tokio::test]
async fn what_was_asked_before_the_end_of_standard_input_is_answered() {
    let (db, _) = stage().await;
    let mut agent = Agent::start(&db.url(), &[]).await;
    let ask = json!({"jsonrpc": "2.0", "id": 77, "method": "tools/call", "params": {"name": "health", "arguments": {}}});
    agent.say(&ask.to_string()).await;
    agent.hang_up();
    let found = agent.answer_to(77).await;
    assert_eq!(found["result"]["isError"], false, "{found}");
    assert_eq!(agent.ends().await.0.code(), Some(0));
}

#[tokio::test]
async fn a_client_that_never_says_hello_ends_it_quietly() {
    let (db, _) = stage().await;
    let mut agent = Agent::spawn(&db.url(), &[], &[]);
    agent.hang_up();
    assert_eq!(agent.ends().await.0.code(), Some(0));
}
