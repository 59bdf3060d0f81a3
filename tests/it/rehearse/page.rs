//! The page and the runbook, followed to the letter.

use serde_json::json;

use super::stage::Stage;
use crate::readme::run_in_shell;

async fn follow(stage: &Stage, page: &str) {
    for block in page.split("\n```").skip(1).step_by(2) {
        match block.split_once('\n').unwrap() {
            ("sh", lines) => {
                for line in lines.lines() {
                    let id = "select coalesce((select backfill_id::text from consumer_backfill order by started_at desc limit 1), 'ID')";
                    let id: String = stage.outbox.client.query_one(id, &[]).await.unwrap().get(0);
                    let event: String = stage
                        .outbox
                        .client
                        .query_one("select min(id::text) from event_outbox", &[])
                        .await
                        .unwrap()
                        .get(0);
                    let line = line.replace(" ID", &format!(" {id}")).replace(" EVENT", &format!(" {event}"));
                    run_in_shell(stage.db(), &line);
                }
            }
            ("sql", statements) => stage.run(statements).await,
            ("text", _) => {}
            (other, _) => panic!("a block of {other}"),
        }
    }
}

#[tokio::test]
async fn a_stranger_follows_the_page_on_rehearsals_to_jobs_and_their_replays() {
    let stage = Stage::new(8, json!({})).await;
    stage.run("update consumer_registry set consumer_key = 'page.index', enabled = false").await;
    follow(&stage, include_str!("../../../docs/rehearse.md")).await;
    let done = "select count(*) from consumer_backfill where status = 'finished'";
    assert!(stage.count(done).await >= 2);
    assert_eq!(stage.count("select count(*) from job_queue where idempotency_key not like '%#g%'").await, 8);
    assert_eq!(stage.count("select count(*) from job_queue where idempotency_key like '%#g2'").await, 8);
    assert_eq!(stage.count("select count(*) from job_queue where idempotency_key like '%#g3'").await, 1);
}

#[tokio::test]
async fn after_the_runbook_about_backfills_history_has_its_jobs() {
    let stage = Stage::new(8, json!({})).await;
    stage.run("update consumer_registry set consumer_key = 'page.index'").await;
    let page = include_str!("../../../docs/runbooks/backfill.md");
    assert!(page.lines().count() <= 60, "a runbook is short");
    follow(&stage, page).await;
    assert_eq!(stage.count("select count(*) from job_queue where priority = 200").await, 8);
    assert_eq!(stage.count("select count(*) from consumer_backfill where ended_at is null").await, 0);
}
