//! What becomes of orders when browsers go away, time passes, and the database is slow or gone.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_postgres::Client;

use super::clerk::Clerk;
use super::desk::count;
use super::stage::{Stage, TOKEN};
use crate::http::Served;
use crate::http::client::{hang_up, send};
use crate::support::{SOON, connect, server_at, wait_until};

const GATE: &str = "queue.archive.enabled";
const CHANGES: &str = "select count(*) from dot_config_audit where actor like 'dashboard:%'";

/// Somebody else at the database, in the middle of a transaction.
async fn holding(stage: &Stage, sql: &str) -> Client {
    let other = connect(&stage.db.url()).await;
    other.batch_execute(&format!("begin; {sql}")).await.unwrap();
    other
}

/// Waits until the desk stands before a lock.
async fn stuck(stage: &Stage) {
    let stuck = "select count(*) from pg_stat_activity where datname = current_database()
        and application_name = 'reveille/desk' and wait_event_type = 'Lock'";
    wait_until("the desk waits", SOON, async || count(stage, stuck).await == 1).await;
}

async fn program(stage: &Stage, what: &str, body: Value) -> (u16, Value) {
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    let answer = send(stage.address(), "POST", &format!("/act/{what}"), &headers, &body.to_string()).await;
    assert_eq!(answer.headers["content-type"], "application/json", "{}", answer.body);
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

#[tokio::test]
async fn an_order_whose_browser_went_away_is_done_once_and_its_page_tells_it() {
    let stage = Stage::with_token("words").await;
    let clerk = Clerk::at(stage.address()).await;
    let (place, _) = clerk.ask("gate", &[("key", GATE), ("to", "closed"), ("reason", "why")]).await;
    let row = "select from dot_config where key = 'queue.archive.enabled' for update";
    let other = holding(&stage, row).await;
    clerk.confirm_and_go(&place, async || stuck(&stage).await).await;
    // the second half of a double click
    let answer = clerk.post(&place, &[]).await;
    assert_eq!((answer.status, answer.headers["location"].as_str()), (303, place.as_str()));
    let page = clerk.get(&place).await;
    assert!(page.body.contains("It is being carried out"), "{}", page.body);
    assert_eq!(page.headers["refresh"], "1", "it looks again by itself");
    other.batch_execute("commit").await.unwrap();
    wait_until("the page tells it", SOON, async || {
        clerk.get(&place).await.body.contains("<h1><bdi>Done</bdi></h1>")
    })
    .await;
    assert_eq!(count(&stage, CHANGES).await, 1);
    // a program's, too
    let other = holding(&stage, row).await;
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    let body = json!({"key": GATE, "to": "open", "reason": "why", "by": "cron", "apply": true}).to_string();
    hang_up(stage.address(), "/act/gate", &headers, &body, async || stuck(&stage).await).await;
    other.batch_execute("commit").await.unwrap();
    wait_until("it is done", SOON, async || count(&stage, CHANGES).await == 2).await;
}

#[tokio::test]
async fn numbers_that_cannot_be_counted_hold_up_no_act() {
    let stage = Stage::with_token("words").await;
    let clerk = Clerk::at(stage.address()).await;
    let _other = holding(&stage, "lock table job_queue").await;
    let (place, dry) = clerk.ask("gate", &[("key", GATE), ("to", "closed"), ("reason", "why")]).await;
    assert!(dry.contains("is closed") || dry.contains("would be closed"), "{dry}");
    assert!(dry.contains("Do it") && !dry.contains("Jobs wait because"), "{dry}");
    let done = clerk.confirm(&place).await;
    assert!(done.contains("<h1><bdi>Done</bdi></h1>") && !done.contains("Jobs wait because"), "{done}");
    assert_eq!(count(&stage, CHANGES).await, 1);
    let body = json!({"key": GATE, "to": "open", "reason": "why", "by": "cron", "apply": true});
    let (status, told) = program(&stage, "gate", body).await;
    assert_eq!((status, &told["end"], &told["waiting"]), (200, &json!("done"), &json!([])), "{told}");
}

#[tokio::test]
async fn a_program_is_told_in_json_that_the_database_is_slow() {
    let stage = Stage::with_token("words").await;
    // two statements of the order, each below the limit of a statement
    let slow = "create or replace function fn_pause_names(p_scope text) returns text[] language sql as
        $$ select array['one_job_each'] from pg_sleep(2.6) $$";
    stage.client.batch_execute(slow).await.unwrap();
    let body =
        json!({"scope": "consumer", "name": "one_job_each", "reason": "why", "by": "cron", "apply": true});
    let (status, told) = program(&stage, "pause", body).await;
    assert_eq!((status, &told["end"]), (503, &json!("failed")), "{told}");
    assert!(told["words"].as_str().unwrap().starts_with("Nothing was changed: "), "{told}");
    assert_eq!(count(&stage, "select count(*) from queue_pause where scope = 'consumer'").await, 0);
}

#[tokio::test]
async fn an_old_dry_run_is_shown_anew_before_it_is_carried_out() {
    let stage = Stage::with_token("words").await;
    let keep = Duration::from_millis(1500);
    let face = Served::with_old_dry_runs(server_at(&stage.db.url()), TOKEN, keep).await;
    let clerk = Clerk::at(face.address()).await;
    let begun = Instant::now();
    let fields = [("id", stage.dead_letter.as_str()), ("status", "manual_replay"), ("reason", "why")];
    let (place, dry) = clerk.ask("triage", &fields).await;
    assert!(dry.contains("investigating → manual_replay"), "{dry}");
    // meanwhile a colleague decides
    let decide = "select fn_job_dead_letter_triage((select dead_letter_id from job_dead_letter), 'discarded', 'bob', 'no')";
    stage.client.batch_execute(decide).await.unwrap();
    let old = begun + keep + Duration::from_millis(500);
    wait_until("it is old", SOON, async || Instant::now() > old).await;
    let page = clerk.confirm(&place).await;
    assert!(page.contains("This has changed since you were shown it."), "{page}");
    assert!(page.contains("discarded → manual_replay") && page.contains("Do it"), "{page}");
    let status = "select count(*) from job_dead_letter where triage_status = 'discarded'";
    assert_eq!(count(&stage, status).await, 1, "nothing was done");
    wait_until("it is confirmed while it is young", SOON, async || {
        let page = clerk.confirm(&place).await;
        assert!(page.contains("Done") || page.contains("It says the same still"), "{page}");
        page.contains("<h1><bdi>Done</bdi></h1>")
    })
    .await;
    assert_eq!(count(&stage, status).await, 0);
    face.stop().await;
}

#[tokio::test]
async fn what_was_typed_stays_also_when_the_database_is_gone() {
    let stage = Stage::with_token("words").await;
    let clerk = Clerk::at(stage.address()).await;
    let name = stage.db.name();
    let other = connect(&stage.db.server().url("postgres")).await;
    other.batch_execute(&format!("alter database {name} with allow_connections false")).await.unwrap();
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1";
    other.query(cut, &[&name]).await.unwrap();
    let fields = [("key", GATE), ("to", "closed"), ("reason", "a long story, typed by hand")];
    let answer = clerk.post("/act/gate", &fields).await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    for words in ["a long story, typed by hand", GATE, "Show what would happen", "Nothing was changed"] {
        assert!(answer.body.contains(words), "{words}: {}", answer.body);
    }
    let live = answer.body.contains("data-live=\"\"") && !answer.headers.contains_key("refresh");
    assert!(live, "it does not try again by itself, which would lose it: {:?}", answer.headers);
    other.batch_execute(&format!("alter database {name} with allow_connections true")).await.unwrap();
    assert_eq!(clerk.post("/act/gate", &fields).await.status, 303);
}

#[tokio::test]
async fn a_stop_does_not_wait_long_for_an_order_and_what_is_given_up_is_not_done() {
    let stage = Stage::with_token("words").await;
    let face = Served::with_token(server_at(&stage.db.url()), TOKEN, false).await;
    let clerk = Clerk::at(face.address()).await;
    let (place, _) = clerk.ask("gate", &[("key", GATE), ("to", "closed"), ("reason", "why")]).await;
    let other =
        holding(&stage, "select from dot_config where key = 'queue.archive.enabled' for update").await;
    clerk.confirm_and_go(&place, async || stuck(&stage).await).await;
    let took = face.stop().await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    other.batch_execute("commit").await.unwrap();
    let gone = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'reveille/desk'";
    wait_until("its connection is closed", SOON, async || count(&stage, gone).await == 0).await;
    assert_eq!(count(&stage, CHANGES).await, 0, "what was given up is not done");
}
