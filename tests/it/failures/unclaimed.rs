//! Work that no live executor may claim is told once, and once when that is over.

use tokio_postgres::Client;

use crate::support::{Program, SOON, TestDb, flow, wait_until};

async fn transactions(client: &Client) -> i64 {
    let ended = "select xact_commit from pg_stat_database where datname = current_database()";
    client.query_one(ended, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn backlog_that_nobody_may_claim_is_told_when_it_begins_and_when_it_is_over() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let late = "insert into job_queue (job_kind, actor, executor, idempotency_key, scheduled_at)
        select k, 'test', 'Agent', n::text, clock_timestamp() - interval '90 seconds'
        from unnest(array['mail.send', 'image.resize']) k, generate_series(1, 3) n";
    client.batch_execute(late).await.unwrap();
    let often = ("REVEILLE__MAINTENANCE__INTERVAL", "1s");
    let mut sidecar = Program::run(&db.url(), &[often]);
    let line = sidecar.says(&["WARN", "mail.send jobs for Agent wait, and no executor"]).await;
    assert!(line.contains("jobs.due=3"), "{line}");
    sidecar.has_said("image.resize jobs for Agent wait, and no executor").await;
    let before = transactions(&client).await;
    wait_until("it has looked several times", SOON, async || transactions(&client).await > before + 20).await;
    assert_eq!(sidecar.lines_with("wait, and").len(), 2, "{:?}", sidecar.lines_with("wait, and"));
    let desk = "select fn_subscription_set('desk', 'test', 'image.*'); select fn_queue_heartbeat_register('desk', 'Agent')";
    client.batch_execute(desk).await.unwrap();
    sidecar.says(&["INFO", "image.resize jobs for Agent wait for nobody any more"]).await;
    let tick = Program::start(&db.url(), &["tick"], &[]).ends().await;
    assert!(
        tick.out.contains("\nunclaimed ") && tick.out.contains("mail.send jobs for Agent"),
        "{}",
        tick.out
    );
    client.batch_execute("select fn_subscription_set('desk', 'test', 'mail.*')").await.unwrap();
    sidecar.says(&["INFO", "mail.send jobs for Agent wait for nobody any more"]).await;
    sidecar.stops().await;
}

/// Dispatcher, sweeper, reaper, scheduler and auditor beat as executors of this very kind.
#[tokio::test]
async fn the_parts_of_a_sidecar_are_nobody_who_claims() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let late = "insert into job_queue (job_kind, actor, executor, idempotency_key, scheduled_at)
        values ('mail.send', 'test', 'PG_worker', '1', clock_timestamp() - interval '90 seconds')";
    client.batch_execute(late).await.unwrap();
    let mut sidecar = Program::run(&db.url(), &[("REVEILLE__MAINTENANCE__INTERVAL", "1s")]);
    wait_until("all parts beat", SOON, async || {
        let parts = "select count(distinct metadata ->> 'role') = 5 from queue_heartbeat";
        client.query_one(parts, &[]).await.unwrap().get(0)
    })
    .await;
    sidecar.says(&["WARN", "mail.send jobs for PG_worker wait, and no executor"]).await;
    let health = "select status_hint from v_queue_health where component = 'backlog' and name = 'PG_worker'";
    assert_eq!(client.query_one(health, &[]).await.unwrap().get::<_, String>(0), "stale");
    sidecar.stops().await;
}
