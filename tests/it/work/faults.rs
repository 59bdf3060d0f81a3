//! Gates closed, connections killed, servers unreachable in the middle of a run.

use reveille::error::Kind;
use reveille::work::Handlers;

use super::shop::{Held, Shop};
use crate::support::{Mode, Proxy, SOON, login, wait_until};

#[tokio::test]
async fn a_gate_closed_in_the_middle_of_a_run_strands_nothing() {
    let shop = Shop::open().await;
    let held = Held::new(0);
    let worker = shop.start(&shop.settings(), Handlers::new().on("held", held.clone())).await;
    let running = shop.enqueue("held").await;
    held.begun().await;
    let waiting = shop.enqueue("held").await;
    held.begun().await;
    for gate in ["queue.worker.enabled", "queue.job_substrate.enabled"] {
        shop.set(gate, "false").await;
    }
    held.let_go();
    held.let_go();
    shop.wait_for_status(running, "succeeded").await;
    shop.wait_for_status(waiting, "succeeded").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_job_whose_connection_is_killed_leaves_no_effect_and_is_tried_again() {
    let shop = Shop::open().await;
    let body = "insert into effect values ((p_job ->> 'job_id')::uuid, 'x'); perform pg_advisory_xact_lock(7); return '{}';";
    shop.handler("hold", body).await;
    shop.set("job.hold.backoff_seconds", "0").await;
    shop.client.batch_execute("select pg_advisory_lock(7)").await.unwrap();
    let mut settings = shop.settings();
    settings.worker.poll_interval = std::time::Duration::from_millis(100);
    let worker = shop.start(&settings, Handlers::new().with_sql()).await;
    let id = shop.enqueue("hold").await;
    shop.wait_for_status(id, "in_progress").await;
    // everything the worker has: its job, its claims, its reports, its listener
    let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and application_name like 'reveille/%'";
    assert!(shop.client.query_one(kill, &[]).await.unwrap().get::<_, i64>(0) >= 2);
    wait_until("the failure is counted", SOON, async || shop.job(id).await["attempts"] == 1).await;
    assert_eq!(shop.effects().await, 0);
    shop.client.batch_execute("select pg_advisory_unlock(7)").await.unwrap();
    shop.wait_for_status(id, "succeeded").await;
    assert_eq!(shop.effects().await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_success_during_an_outage_is_reported_after_it_and_the_job_runs_once() {
    let shop = Shop::open().await;
    let proxy = Proxy::to(shop.db.server().port()).await;
    let mut settings = shop.settings();
    settings.database.url = shop.db.url_through(proxy.port());
    let held = Held::new(0);
    let worker = shop.start(&settings, Handlers::new().on("held", held.clone())).await;
    let id = shop.enqueue("held").await;
    held.begun().await;
    proxy.set(Mode::Refuse).await;
    held.let_go();
    wait_until("the outage is noticed", SOON, async || worker.stats.counts().outages == 1).await;
    proxy.set(Mode::Pass).await;
    shop.wait_for_status(id, "succeeded").await;
    let after = shop.enqueue("held").await;
    held.let_go();
    shop.wait_for_status(after, "succeeded").await;
    let counts = worker.stop().await;
    assert_eq!((counts.succeeded, counts.lease_lost, counts.outages), (2, 0, 1));
    assert_eq!(shop.job(id).await["attempts"], 0);
    assert_eq!(held.begun_unseen(), 1, "each ran once");
}

#[tokio::test]
async fn a_name_that_another_role_owns_ends_the_worker_with_a_clear_error() {
    let shop = Shop::open().await;
    let role = format!("other_{}", uuid::Uuid::new_v4().simple());
    let mut settings = shop.settings();
    let user = format!("worker_of_{role}");
    settings.database.url = login(&shop.client, &shop.db.url(), &user, "").await;
    let begin = format!(
        "create role {role};
         insert into queue_heartbeat (executor_name, executor_kind, owner_role) values ('worker-1', 'PG_worker', '{role}');
         grant execute on all functions in schema public to {user}"
    );
    shop.client.batch_execute(&begin).await.unwrap();
    let worker = Shop::launch(&settings, Handlers::new().on("held", Held::new(0)));
    let error = worker.end().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("not_owner"), "{error}");
    let end = format!("drop owned by {user}; drop role {user}; drop role {role}");
    shop.client.batch_execute(&end).await.unwrap();
}

#[tokio::test]
async fn a_worker_whose_name_was_forgotten_or_fell_silent_claims_again_by_itself() {
    let shop = Shop::open().await;
    let mut settings = shop.settings();
    settings.worker.poll_interval = std::time::Duration::from_millis(100);
    let worker = shop.start(&settings, Handlers::new().on("held", Held::new(100))).await;
    for mishap in [
        "delete from queue_heartbeat",
        "update queue_heartbeat set last_beat_at = clock_timestamp() - interval '1 day'",
    ] {
        shop.client.batch_execute(mishap).await.unwrap();
        let id = shop.enqueue("held").await;
        shop.wait_for_status(id, "succeeded").await;
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_started_before_its_database_can_be_reached_waits_for_it() {
    let shop = Shop::open().await;
    let proxy = Proxy::to(shop.db.server().port()).await;
    proxy.set(Mode::Refuse).await;
    let mut settings = shop.settings();
    settings.database.url = shop.db.url_through(proxy.port());
    let id = shop.enqueue("held").await;
    let worker = Shop::launch(&settings, Handlers::new().on("held", Held::new(1)));
    wait_until("the outage is noticed", SOON, async || worker.stats.counts().outages == 1).await;
    proxy.set(Mode::Pass).await;
    shop.wait_for_status(id, "succeeded").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_claim_whose_answer_never_came_is_given_back_and_run() {
    let shop = Shop::open().await;
    let proxy = Proxy::to(shop.db.server().port()).await;
    let mut settings = shop.settings();
    settings.database.url = shop.db.url_through(proxy.port());
    settings.worker.poll_interval = std::time::Duration::from_millis(100);
    let worker = shop.start(&settings, Handlers::new().on("held", Held::new(1))).await;
    // the claim waits before it commits; when it goes on, its answer is lost
    let hold = "create function hold() returns trigger language plpgsql as
          'begin perform pg_advisory_xact_lock_shared(7); return new; end';
        create trigger hold before update on job_queue for each row execute function hold();
        select pg_advisory_lock(7)";
    shop.client.batch_execute(hold).await.unwrap();
    let id = shop.enqueue("held").await;
    let waits = "select exists (select from pg_stat_activity
        where datname = current_database() and wait_event = 'advisory' and query like '%fn_job_claim%')";
    wait_until("a claim waits", SOON, async || shop.client.query_one(waits, &[]).await.unwrap().get(0)).await;
    proxy.set(Mode::Mute).await;
    shop.client.batch_execute("select pg_advisory_unlock(7)").await.unwrap();
    let token = shop.wait_for_status(id, "leased").await["lease_token"].as_i64();
    proxy.set(Mode::Refuse).await;
    proxy.set(Mode::Pass).await;
    let done = shop.wait_for_status(id, "succeeded").await;
    assert!(done["lease_token"].as_i64() > token, "leased a second time");
    assert_eq!(done["attempts"], 0);
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_that_was_superseded_in_an_outage_takes_nothing_back_from_its_successor() {
    let shop = Shop::open().await;
    let proxy = Proxy::to(shop.db.server().port()).await;
    let mut settings = shop.settings();
    settings.database.url = shop.db.url_through(proxy.port());
    settings.worker.poll_interval = std::time::Duration::from_millis(100);
    let worker = shop.start(&settings, Handlers::new().on("held", Held::new(1))).await;
    // as above: what it claims it does not hear of
    let hold = "create function hold() returns trigger language plpgsql as
          'begin perform pg_advisory_xact_lock_shared(7); return new; end';
        create trigger hold before update on job_queue for each row execute function hold();
        select pg_advisory_lock(7)";
    shop.client.batch_execute(hold).await.unwrap();
    let first = shop.enqueue("held").await;
    let waits = "select exists (select from pg_stat_activity
        where datname = current_database() and wait_event = 'advisory' and query like '%fn_job_claim%')";
    wait_until("a claim waits", SOON, async || shop.client.query_one(waits, &[]).await.unwrap().get(0)).await;
    proxy.set(Mode::Mute).await;
    shop.client.batch_execute("select pg_advisory_unlock(7)").await.unwrap();
    shop.wait_for_status(first, "leased").await;
    proxy.set(Mode::Refuse).await;
    let takeover = "select fn_queue_heartbeat_register('worker-1', 'PG_worker', p_instance => 'successor', p_takeover => true)";
    shop.value(takeover, &[]).await;
    let second = shop.enqueue("held").await;
    let claim = "select job_id, lease_token from fn_job_claim('worker-1', p_instance => 'successor')";
    let claimed = shop.client.query_one(claim, &[]).await.unwrap();
    assert_eq!(claimed.get::<_, uuid::Uuid>(0), second);
    proxy.set(Mode::Pass).await;
    assert_eq!(worker.end().await.unwrap_err().kind(), Kind::Refused, "another process has its name");
    let kept = shop.job(second).await;
    assert_eq!(
        (kept["status"].as_str(), kept["lease_token"].as_i64()),
        (Some("leased"), Some(claimed.get(1)))
    );
}

#[tokio::test]
async fn a_job_that_cannot_be_read_goes_to_the_dead_letters_and_its_neighbours_run() {
    let shop = Shop::open().await;
    let deep = format!("{{\"a\": {}1{}}}", "[".repeat(200), "]".repeat(200));
    let enqueue = "insert into job_queue (job_kind, actor, idempotency_key, safe_payload)
        values ('held', 'test', 'huge', '{\"n\": 1e400}'), ('held', 'test', 'deep', ($1::text)::jsonb), ('held', 'test', 'sound', '{}')";
    shop.client.execute(enqueue, &[&deep]).await.unwrap();
    let worker = shop.start(&shop.settings(), Handlers::new().on("held", Held::new(9))).await;
    wait_until("all are settled", SOON, async || {
        shop.count("succeeded").await == 1 && shop.count("dead_letter").await == 2
    })
    .await;
    let errors = "select to_jsonb(array_agg(last_error order by idempotency_key)) from job_queue where status = 'dead_letter'";
    let errors = shop.value(errors, &[]).await;
    for (n, cause) in ["recursion limit", "number out of range"].iter().enumerate() {
        let error = errors[n].as_str().unwrap();
        assert!(error.contains("safe_payload of a claimed job") && error.contains(cause), "{error}");
    }
    assert_eq!(worker.stop().await.outages, 0);
}

#[tokio::test]
async fn a_locked_row_keeps_no_other_lease_from_being_renewed() {
    let shop = Shop::open().await;
    let mut settings = shop.settings();
    settings.worker.lease = std::time::Duration::from_secs(2);
    settings.worker.concurrency = 2;
    let held = Held::new(0);
    let worker = shop.start(&settings, Handlers::new().on("held", held.clone())).await;
    let (locked, other) = (shop.enqueue("held").await, shop.enqueue("held").await);
    held.begun().await;
    held.begun().await;
    let lock = format!("begin; select from job_queue where job_id = '{locked}' for update");
    shop.client.batch_execute(&lock).await.unwrap();
    let looker = shop.db.client().await;
    let renewed = "select lease_until > picked_at + interval '5 seconds' from job_queue where job_id = $1";
    wait_until("the other lease was renewed twice", SOON, async || {
        looker.query_one(renewed, &[&other]).await.unwrap().get(0)
    })
    .await;
    shop.client.batch_execute("rollback").await.unwrap();
    held.let_go();
    held.let_go();
    shop.wait_for_status(other, "succeeded").await;
    worker.stop().await;
}

#[tokio::test]
async fn a_locked_row_keeps_no_other_job_from_being_reported() {
    let shop = Shop::open().await;
    let mut settings = shop.settings();
    settings.database.statement_timeout = std::time::Duration::from_millis(500);
    settings.worker.concurrency = 2;
    let held = Held::new(0);
    let worker = shop.start(&settings, Handlers::new().on("held", held.clone())).await;
    let (locked, other) = (shop.enqueue("held").await, shop.enqueue("held").await);
    held.begun().await;
    held.begun().await;
    let lock = format!("begin; select from job_queue where job_id = '{locked}' for update");
    shop.client.batch_execute(&lock).await.unwrap();
    held.let_go();
    held.let_go();
    let looker = shop.db.client().await;
    let status = async |id| -> String {
        looker.query_one("select status from job_queue where job_id = $1", &[&id]).await.unwrap().get(0)
    };
    wait_until("the other is reported", SOON, async || status(other).await == "succeeded").await;
    assert_ne!(status(locked).await, "succeeded");
    shop.client.batch_execute("rollback").await.unwrap();
    shop.wait_for_status(locked, "succeeded").await;
    worker.stop().await;
}
