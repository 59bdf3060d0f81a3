//! Ends and outages: what is leased comes back, and the server outlives its database.

use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::client::{Agent, enqueue, job, of, stage, waits_for_a_lock};
use crate::support::{Mode, Proxy, SOON, TestDb, wait_until};

const AGENT: [&str; 2] = ["--executor", "agent-1"];
/// A statement that waits for a lock waits longer than any test.
const PATIENT: (&str, &str) = ("REVEILLE__DATABASE__STATEMENT_TIMEOUT", "10min");

fn terminate(agent: &Agent) {
    let pid = Pid::from_raw(i32::try_from(agent.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

fn call(id: u32, tool: &str, arguments: &Value) -> String {
    let params = json!({"name": tool, "arguments": arguments});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).to_string()
}

#[tokio::test]
async fn at_the_end_of_standard_input_what_is_leased_is_given_back_at_once() {
    let (db, client) = stage().await;
    let first = enqueue(&client, "page.write").await;
    let second = enqueue(&client, "page.write").await;
    let mut agent = Agent::start(&db.url(), &AGENT).await;
    agent.done("claim_job", json!({"limit": 2})).await;
    agent.hang_up();
    let (status, said) = agent.ends().await;
    assert_eq!(status.code(), Some(0), "{said}");
    for id in [first, second] {
        let stored = job(&client, id).await;
        assert_eq!((&stored["status"], &stored["attempts"]), (&json!("queued"), &json!(0)));
    }
    let mut next = Agent::start(&db.url(), &AGENT).await; // the name is free, too
    next.claim().await;
}

#[tokio::test]
async fn at_sigterm_what_is_leased_is_given_back_at_once() {
    let (db, client) = stage().await;
    let id = enqueue(&client, "page.write").await;
    let mut agent = Agent::start(&db.url(), &AGENT).await;
    agent.claim().await;
    terminate(&agent);
    let (status, said) = agent.ends().await;
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(job(&client, id).await["status"], "queued");
}

#[tokio::test]
async fn the_job_of_a_killed_server_comes_back_by_the_reaper() {
    let (db, client) = stage().await;
    let id = enqueue(&client, "page.write").await;
    let mut agent = Agent::start(&db.url(), &["--executor", "agent-1", "--lease", "1s"]).await;
    agent.claim().await;
    agent.kill().await;
    let open = "select fn_gate_set('queue.lease_reaper.enabled', 'true', 'test', 'test'),
        fn_gate_set('queue.lease_reaper.dry_run_only', 'false', 'test', 'test')";
    client.query(open, &[]).await.unwrap();
    wait_until("the reaper has it", SOON, async || {
        client.query("select fn_job_lease_reaper(p_dry_run => false)", &[]).await.unwrap();
        job(&client, id).await["status"] != "in_progress"
    })
    .await;
    let due = "update job_queue set scheduled_at = now() where job_id = $1";
    client.execute(due, &[&id]).await.unwrap();
    let mut next = Agent::start(&db.url(), &["--executor", "agent-2"]).await;
    assert_eq!(next.claim().await["job_id"], json!(id));
}

#[tokio::test]
async fn without_its_database_it_answers_so_and_works_again_when_that_is_back() {
    let (db, client) = stage().await;
    let id = enqueue(&client, "page.write").await;
    let proxy = Proxy::to(db.server().port()).await;
    let mut agent = Agent::start(&db.url_through(proxy.port()), &AGENT).await;
    let claimed = agent.claim().await;
    proxy.set(Mode::Refuse).await;
    for (tool, arguments) in [("health", json!({})), ("renew_job", of(&claimed, &json!({})))] {
        let answer = agent.fails(tool, arguments).await;
        assert_eq!(answer["error"]["try_again"], true, "{answer}");
        assert_eq!(answer["error"]["kind"], "unreachable", "{answer}");
    }
    proxy.set(Mode::Pass).await;
    agent.done("succeed_job", of(&claimed, &json!({}))).await;
    assert_eq!(job(&client, id).await["status"], "succeeded");
    agent.done("health", json!({})).await;
}

#[tokio::test]
async fn a_silent_database_costs_a_deadline_and_a_claim_whose_answer_is_lost_comes_back() {
    let (db, client) = stage().await;
    let id = enqueue(&client, "page.write").await;
    let proxy = Proxy::to(db.server().port()).await;
    let short =
        [("REVEILLE__DATABASE__CONNECT_TIMEOUT", "1s"), ("REVEILLE__DATABASE__STATEMENT_TIMEOUT", "1s")];
    let mut agent = Agent::start_with(&db.url_through(proxy.port()), &AGENT, &short).await;
    assert_eq!(agent.done("claim_job", json!({"job_kinds": ["none"]})).await["jobs"], json!([]));
    proxy.set(Mode::Mute).await;
    let answer = agent.fails("claim_job", json!({})).await;
    assert_eq!(answer["error"]["try_again"], true, "{answer}");
    proxy.set(Mode::Pass).await;
    wait_until("it is claimed again", SOON, async || {
        let answer = agent.call("claim_job", json!({})).await;
        answer["structuredContent"]["jobs"][0]["job_id"] == json!(id)
    })
    .await;
}

#[tokio::test]
async fn it_is_there_before_its_database_and_registers_when_that_comes() {
    let server = Arc::new(crate::support::own_server(crate::support::quiet_options()).await);
    let db = TestDb::on(Arc::clone(&server)).await;
    db.open_gates().await;
    enqueue(&db.client().await, "page.write").await;
    let proxy = Proxy::to(server.port()).await;
    proxy.set(Mode::Refuse).await;
    let mut agent = Agent::start(&db.url_through(proxy.port()), &AGENT).await;
    assert_eq!(agent.fails("claim_job", json!({})).await["error"]["kind"], "unreachable");
    proxy.set(Mode::Pass).await;
    agent.claim().await;
}

#[tokio::test]
async fn a_claim_that_is_cancelled_while_it_runs_leaves_nothing_leased() {
    let (db, client) = stage().await;
    let id = enqueue(&client, "page.write").await;
    let mut agent = Agent::start(&db.url(), &AGENT).await;
    client.batch_execute("begin; lock table job_queue").await.unwrap();
    for id in [801, 802] {
        agent.say(&call(id, "claim_job", &json!({}))).await; // the second one waits for its turn
    }
    waits_for_a_lock(&client).await;
    for id in [801, 802] {
        let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id, "reason": "too slow"}});
        agent.say(&cancel.to_string()).await;
    }
    agent.ask("tools/list", json!({})).await; // behind the cancellations
    client.batch_execute("commit").await.unwrap();
    let given_back = "select count(*) = 1 from job_attempt where job_id = $1 and outcome = 'released'";
    wait_until("it is given back", SOON, async || client.query_one(given_back, &[&id]).await.unwrap().get(0))
        .await;
    assert_eq!(job(&client, id).await["status"], "queued");
    assert_eq!(agent.claim().await["job_id"], json!(id));
}

#[tokio::test]
async fn what_a_cancelled_claim_could_not_give_back_goes_back_at_the_next_one() {
    let (db, client) = stage().await;
    let id = enqueue(&client, "page.write").await;
    let mut agent = Agent::start(&db.url(), &AGENT).await;
    let keep = "begin;
        create function keep() returns trigger language plpgsql as
          'begin raise exception ''nothing goes back today''; end';
        create trigger keep before update on job_queue for each row when (new.status = 'queued') execute function keep();
        lock table job_queue";
    client.batch_execute(keep).await.unwrap();
    agent.say(&call(801, "claim_job", &json!({}))).await;
    waits_for_a_lock(&client).await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 801}});
    agent.say(&cancel.to_string()).await;
    agent.ask("tools/list", json!({})).await; // behind the cancellation
    client.batch_execute("commit").await.unwrap();
    wait_until("it is leased", SOON, async || job(&client, id).await["status"] == "in_progress").await;
    // the next claim has its turn after the first one has failed to give the job back
    let answer = agent.fails("claim_job", json!({})).await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("nothing goes back today"), "{answer}");
    client.batch_execute("drop trigger keep on job_queue").await.unwrap();
    assert_eq!(agent.claim().await["job_id"], json!(id));
}

#[tokio::test]
async fn a_report_that_hangs_keeps_no_other_job_from_being_given_back() {
    let (db, client) = stage().await;
    enqueue(&client, "page.write").await;
    enqueue(&client, "page.write").await;
    let mut agent = Agent::start_with(&db.url(), &AGENT, &[PATIENT]).await;
    let claimed = agent.done("claim_job", json!({"limit": 2})).await;
    let [locked, other] = [&claimed["jobs"][0], &claimed["jobs"][1]];
    let lock = format!("begin; select from job_queue where job_id = {} for update", locked["job_id"]);
    client.batch_execute(&lock.replace('"', "'")).await.unwrap();
    agent.say(&call(801, "succeed_job", &of(locked, &json!({})))).await;
    waits_for_a_lock(&client).await;
    terminate(&agent);
    let (status, said) = agent.ends().await;
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("gave 1 jobs back") && said.contains("1 jobs stay leased"), "{said}");
    let other = other["job_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(job(&client, other).await["status"], "queued");
}

#[tokio::test]
async fn a_beat_that_hangs_keeps_nothing_from_being_given_back() {
    let (db, client) = stage().await;
    let id = enqueue(&client, "page.write").await;
    let often = [PATIENT, ("REVEILLE__MAINTENANCE__HEARTBEAT_INTERVAL", "1s")];
    let mut agent = Agent::start_with(&db.url(), &AGENT, &often).await;
    agent.claim().await;
    client.batch_execute("begin; select from queue_heartbeat for update").await.unwrap();
    waits_for_a_lock(&client).await;
    agent.hang_up();
    let (status, said) = agent.ends().await;
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("gave 1 jobs back"), "{said}");
    assert_eq!(job(&client, id).await["status"], "queued");
}

#[tokio::test]
async fn a_client_that_hangs_up_and_reads_nothing_any_more_does_not_keep_it() {
    let (db, client) = stage().await;
    let id = enqueue(&client, "page.write").await;
    let mut agent = Agent::start(&db.url(), &AGENT).await;
    agent.claim().await;
    for id in 801..901 {
        let ask = json!({"jsonrpc": "2.0", "id": id, "method": "tools/list", "params": {}});
        agent.say(&ask.to_string()).await; // far more than a pipe holds
    }
    agent.hang_up();
    assert_eq!(agent.ends_unread().await.code(), Some(0));
    assert_eq!(job(&client, id).await["status"], "queued");
}

#[tokio::test]
async fn one_that_cannot_start_takes_no_name() {
    let (db, client) = stage().await;
    let wrong = [("REVEILLE__DATABASE__LISTEN_URL", "postgres://localhost:none/none")];
    let (status, said) = Agent::spawn(&db.url(), &AGENT, &wrong).ends().await;
    assert_eq!(status.code(), Some(2), "{said}");
    let names = "select count(*) from queue_heartbeat";
    assert_eq!(client.query_one(names, &[]).await.unwrap().get::<_, i64>(0), 0);
}
