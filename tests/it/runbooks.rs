//! Runbooks are followed to the letter, on a database in the state that they are for.

use tokio_postgres::Client;

use crate::readme::follow;
use crate::support::TestDb;

async fn stage(sql: &str) -> (TestDb, Client) {
    let db = TestDb::new().await;
    db.open_gates().await;
    let client = db.client().await;
    client.batch_execute("select fn_queue_heartbeat_register('desk', 'PG_worker')").await.unwrap();
    client.batch_execute(sql).await.unwrap();
    (db, client)
}

async fn text(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn after_the_runbook_about_dead_letters_the_job_waits_again() {
    let (db, client) = stage(
        "select fn_job_enqueue('page.index', 'test', p_max_attempts => 1);
         select fn_job_fail_transient(job_id, lease_token, 'no room') from fn_job_claim('desk')",
    )
    .await;
    follow(&db, include_str!("../../docs/runbooks/dead-letters.md")).await;
    assert_eq!(text(&client, "select status || ' ' || attempts from job_queue").await, "queued 0");
    assert_eq!(
        text(&client, "select value from dot_config where key = 'queue.dlq.replay_enabled'").await,
        "false"
    );
}

#[tokio::test]
async fn the_runbook_about_silence_names_who_is_silent_and_brings_a_program_under_watch() {
    let (db, client) = stage(
        "insert into queue_heartbeat (executor_name, executor_kind, last_beat_at, last_beat_status)
         values ('old-exporter', 'Agent', clock_timestamp() - interval '4 days', 'ok')",
    )
    .await;
    let page = include_str!("../../docs/runbooks/silent-worker.md");
    // somebody is silent: that is what `health` exits with 1 for
    let page = page.replacen("reveille health ", "! reveille health ", 1);
    follow(&db, &page).await;
    let names = "select string_agg(executor_name || ' ' || last_beat_status, ', ' order by executor_name) from queue_heartbeat";
    assert_eq!(text(&client, names).await, "desk ok, nightly-export warn");
}

#[tokio::test]
async fn after_the_runbook_about_leases_nothing_is_held_by_who_is_gone() {
    let (db, client) = stage(
        "select fn_job_enqueue('page.index', 'test'), fn_job_enqueue('page.index', 'test');
         select fn_job_claim('desk', 1);
         update job_queue set lease_until = clock_timestamp() - interval '1 minute' where status = 'leased';
         select fn_job_claim('desk', 1)",
    )
    .await;
    let page = include_str!("../../docs/runbooks/stale-leases.md");
    let page = page.replacen("reveille health ", "reveille health || true ", 1);
    follow(&db, &page).await;
    let left = "select string_agg(status || ' ' || lease_losses, ', ' order by lease_losses) from job_queue";
    assert_eq!(text(&client, left).await, "queued 0, queued 1");
}

#[tokio::test]
async fn the_runbook_about_failover_and_upgrade_ends_with_nothing_to_do() {
    let (db, client) = stage(
        "insert into event_type_registry (event_domain, event_type, event_stream, delivery_lane, description)
         values ('system', 'queue_worker_recovered', 'health', 'immediate', 'test') on conflict do nothing",
    )
    .await;
    follow(&db, include_str!("../../docs/runbooks/failover-and-upgrade.md")).await;
    assert_eq!(text(&client, "select sum(events)::text from dispatch_pass").await, "1");
}

#[tokio::test]
async fn the_runbook_about_cadence_gives_the_clock_an_owner_and_takes_it_back() {
    let (db, client) = stage("select 1").await;
    let page = include_str!("../../docs/runbooks/cadence.md");
    let (before, _) = page.split_once("## Who looks at health").unwrap();
    follow(&db, before).await;
    let beats = "select string_agg(executor_name || ' ' || last_beat_status, ', ' order by executor_name) from queue_heartbeat";
    assert_eq!(text(&client, beats).await, "cron-tick ok, desk ok");
    follow(&db, page).await;
    assert_eq!(text(&client, beats).await, "desk ok");
}
