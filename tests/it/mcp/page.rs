//! docs/mcp.md as a stranger follows it.

use serde_json::{Value, json};

use super::client::Agent;
use crate::readme::run_in_shell;
use crate::support::TestDb;

const PAGE: &str = include_str!("../../../docs/mcp.md");

/// The blocks of the page with their languages.
fn blocks() -> impl Iterator<Item = (&'static str, &'static str)> {
    PAGE.split("\n```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap())
}

#[tokio::test]
async fn a_stranger_follows_the_page_on_agents_to_a_reviewed_page() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let mut arguments: Vec<Vec<String>> = Vec::new();
    let mut roles = Vec::new();
    for (language, text) in blocks() {
        match language {
            "sql" => {
                // roles are the whole cluster's: each test has its own
                let role = format!("mcp_{}", uuid::Uuid::new_v4().simple());
                let (create, clauses) = text.split_once(" login ").unwrap();
                let (_, name) = create.rsplit_once(' ').unwrap();
                let password = crate::support::password(&db.url()).to_owned();
                client
                    .batch_execute(&format!("create role {role} login password '{password}' {clauses}"))
                    .await
                    .unwrap();
                roles.push((name, role));
            }
            "sh" => run_in_shell(&db, text),
            "json" => {
                let config: Value = serde_json::from_str(text).unwrap();
                let server = &config["mcpServers"]["reveille"];
                assert_eq!(server["command"], "reveille");
                let url = server["env"]["DATABASE_URL"].as_str().unwrap();
                assert!(url.contains(&format!("{}@", roles.last().unwrap().0)), "{url}");
                arguments.push(serde_json::from_value(server["args"].clone()).unwrap());
            }
            "text" => {}
            other => panic!("a block of {other}"),
        }
    }
    let [looks, works] = <[Vec<String>; 2]>::try_from(arguments).unwrap();
    let urls = roles.iter().map(|(_, role)| db.url().replacen("://postgres:", &format!("://{role}:"), 1));
    let [reader, worker] = <[String; 2]>::try_from(urls.collect::<Vec<_>>()).unwrap();

    let given: Vec<&str> = looks[1..].iter().map(String::as_str).collect();
    let mut agent = Agent::start(&reader, &given).await;
    for tool in ["health", "queue_reasons", "list_jobs", "backlog", "list_executors", "list_pauses"] {
        agent.done(tool, json!({})).await;
    }
    let given: Vec<&str> = works[1..].iter().map(String::as_str).collect();
    let mut agent = Agent::start(&worker, &given).await;
    let job = agent.claim().await;
    assert_eq!(job["untrusted_data"]["source_ref"], "page:7");
    assert!((595..=600).contains(&job["lease_seconds"].as_i64().unwrap()), "{job}");
    agent.done("succeed_job", super::client::of(&job, &json!({"result_ref": "review:7"}))).await;
    agent.hang_up();
    assert_eq!(agent.ends().await.0.code(), Some(0));
    for (_, role) in roles {
        client.batch_execute(&format!("drop owned by {role}; drop role {role}")).await.ok();
    }
}

#[tokio::test]
async fn the_page_names_every_tool_and_no_other() {
    let db = TestDb::new().await;
    let mut agent = Agent::start(&db.url(), &["--executor", "agent-1"]).await;
    let answer = agent.ask("tools/list", json!({})).await;
    let tools = answer["result"]["tools"].as_array().unwrap();
    let mut tools: Vec<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    let first_cells = PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let mut told: Vec<&str> =
        first_cells.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`')).collect();
    told.sort_unstable();
    tools.sort_unstable();
    assert_eq!(told, tools);
}
