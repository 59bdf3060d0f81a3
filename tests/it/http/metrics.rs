//! What `/metrics` says of the database, and that it always answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::openmetrics::Scrape;
use super::{Served, get};
use crate::support::{Mode, Proxy, SOON, TestDb, own_server, quiet_options, server_at, wait_until};

/// Gauges are read at every scrape.
const ANEW: Duration = Duration::ZERO;

async fn register(client: &Client, executor: &str) {
    let register = "select fn_queue_heartbeat_register($1, 'PG_worker')";
    client.execute(register, &[&executor]).await.unwrap();
}

fn health(scrape: &Scrape, what: &str, component: &str, name: &str) -> Option<f64> {
    let name_of = format!("reveille_queue_health_{what}");
    scrape.value(&name_of, &[("component", component), ("name", name)])
}

#[tokio::test]
async fn a_scrape_tells_the_health_of_every_component() {
    let database = TestDb::new().await;
    let client = database.client().await;
    let odd = "robot \"7\"\\n\n{=}, ☃";
    register(&client, odd).await;
    client.execute("update queue_heartbeat set last_beat_at = null", &[]).await.unwrap();
    let face = Served::start(server_at(&database.url()), None, ANEW).await;
    let scrape = face.scrape().await;
    assert_eq!(scrape.value("reveille_database_up", &[]), Some(1.0));
    let status = |hint| {
        let labels = [("component", "executor"), ("name", odd), ("status_hint", hint)];
        scrape.value("reveille_queue_health_status", &labels)
    };
    assert_eq!(["fresh", "warning", "stale", "never"].map(status), [0.0, 0.0, 0.0, 1.0].map(Some));
    assert!(health(&scrape, "value", "executor", odd).is_some());
    assert_eq!(health(&scrape, "age_seconds", "executor", odd), None, "it never beat: there is no age");
    assert_eq!(health(&scrape, "value", "backlog", "PG_worker"), Some(0.0));
    assert_eq!(scrape.value("reveille_gate_open", &[("gate", "queue.worker.enabled")]), Some(0.0));
    assert_eq!(scrape.value("reveille_notification_queue_usage_ratio", &[]), Some(0.0));
    database.open_gates().await;
    let scrape = face.scrape().await;
    assert_eq!(scrape.value("reveille_gate_open", &[("gate", "queue.worker.enabled")]), Some(1.0));
    face.stop().await;
}

#[tokio::test]
async fn a_drained_backlog_reads_zero_and_a_removed_executor_is_gone() {
    let database = TestDb::new().await;
    database.open_gates().await;
    let client = database.client().await;
    register(&client, "one").await;
    let enqueue = "select fn_job_enqueue(p_job_kind => 'cut', p_actor => 'test', p_executor => 'PG_worker')";
    client.execute(enqueue, &[]).await.unwrap();
    let face = Served::start(server_at(&database.url()), None, ANEW).await;
    let scrape = face.scrape().await;
    assert_eq!(health(&scrape, "value", "backlog", "PG_worker"), Some(1.0));
    assert!(health(&scrape, "age_seconds", "backlog", "PG_worker").unwrap() > 0.0);
    assert!(health(&scrape, "age_seconds", "executor", "one").is_some());

    client.execute("update job_queue set status = 'cancelled', finished_at = now()", &[]).await.unwrap();
    client.execute("delete from queue_heartbeat where executor_name = 'one'", &[]).await.unwrap();
    let scrape = face.scrape().await;
    assert_eq!(health(&scrape, "value", "backlog", "PG_worker"), Some(0.0));
    assert_eq!(health(&scrape, "age_seconds", "backlog", "PG_worker"), Some(0.0));
    assert_eq!(health(&scrape, "value", "executor", "one"), None);
    face.stop().await;
}

#[tokio::test]
async fn many_scrapes_cost_one_reading_and_none_costs_nothing() {
    let database = TestDb::new().await;
    let client = database.client().await;
    let last = async || {
        let last = "select query_start::text from pg_stat_activity
                     where application_name = 'reveille/http' and datname = current_database()";
        client.query_opt(last, &[]).await.unwrap().map(|row| row.get::<_, String>(0))
    };
    let face = Served::start(server_at(&database.url()), None, Duration::from_hours(1)).await;
    get(face.address, "/ready").await;
    assert_eq!(last().await, None, "no connection before the first scrape");
    let scrapes = futures::future::join_all((0..20).map(|_| face.scrape())).await;
    assert!(scrapes.iter().all(|scrape| scrape.value("reveille_database_up", &[]) == Some(1.0)));
    let first = last().await.expect("one connection");
    for _ in 0..5 {
        face.scrape().await;
    }
    assert_eq!(last().await, Some(first));
    face.stop().await;
}

#[tokio::test]
async fn a_scrape_without_a_database_answers_and_says_so() {
    let server = Arc::new(own_server(quiet_options()).await);
    let database = TestDb::on(Arc::clone(&server)).await;
    database.client().await.batch_execute("checkpoint").await.unwrap(); // this server is forgetful
    let face = Served::start(server_at(&database.url()), None, ANEW).await;
    let up = async || face.scrape().await.value("reveille_database_up", &[]);
    assert_eq!(up().await, Some(1.0));

    server.kill9().await.unwrap();
    let begun = Instant::now();
    let scrape = face.scrape().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(scrape.value("reveille_database_up", &[]), Some(0.0));
    let left: Vec<&String> = scrape.0.keys().filter(|name| name.contains("queue_health")).collect();
    assert!(left.is_empty(), "what is not known is not said: {left:?}");
    assert!(scrape.value("reveille_uptime_seconds", &[]).is_some());

    server.start_again().await.unwrap();
    wait_until("the gauges are back", SOON, async || up().await == Some(1.0)).await;
    face.stop().await;
}

#[tokio::test]
async fn a_scrape_waits_no_longer_than_its_deadline_for_a_silent_database() {
    let database = TestDb::new().await;
    let proxy = Proxy::to(database.server().port()).await;
    let face = Served::start(server_at(&database.url_through(proxy.port())), None, ANEW).await;
    assert_eq!(face.scrape().await.value("reveille_database_up", &[]), Some(1.0));
    proxy.set(Mode::BlackHole).await;
    let begun = Instant::now();
    let scrapes = futures::future::join_all((0..3).map(|_| face.scrape())).await;
    assert!(begun.elapsed() < Duration::from_millis(4500), "{:?}", begun.elapsed());
    assert!(scrapes.iter().all(|scrape| scrape.value("reveille_database_up", &[]) == Some(0.0)));
    proxy.set(Mode::Pass).await;
    wait_until("a new connection serves", SOON, async || {
        face.scrape().await.value("reveille_database_up", &[]) == Some(1.0)
    })
    .await;
    face.stop().await;
}

#[tokio::test]
async fn a_schema_without_our_tables_is_no_outage_of_the_process() {
    let database = TestDb::empty().await;
    let face = Served::start(server_at(&database.url()), None, ANEW).await;
    assert_eq!(face.scrape().await.value("reveille_database_up", &[]), Some(0.0));
    face.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_stops_no_reading() {
    let database = TestDb::new().await;
    let face = Served::start(server_at(&database.url()), None, Duration::from_hours(1)).await;
    let address = face.address;
    let gone = tokio::spawn(async move { get(address, "/metrics").await });
    tokio::task::yield_now().await;
    gone.abort();
    assert_eq!(face.scrape().await.value("reveille_database_up", &[]), Some(1.0));
    face.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_process_tells_its_memory_processor_time_files_and_uptime() {
    let face = Served::without_database().await;
    let scrape = face.scrape().await;
    let value = |name| scrape.value(name, &[]).unwrap();
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_cpu_seconds_total") >= 0.0);
    assert!(value("process_open_fds") > 3.0);
    assert!(value("reveille_uptime_seconds") < 3600.0);
    face.stop().await;
}

#[tokio::test]
async fn backlog_that_no_live_executor_may_claim_is_counted_for_its_kind_of_executor() {
    let database = TestDb::new().await;
    database.open_gates().await;
    let client = database.client().await;
    let late = "insert into job_queue (job_kind, actor, executor, idempotency_key, scheduled_at)
        select 'mail.send', 'test', 'Agent', n::text, clock_timestamp() - make_interval(secs => 45 * n)
        from generate_series(1, 3) n";
    client.batch_execute(late).await.unwrap();
    let face = Served::start(server_at(&database.url()), None, ANEW).await;
    let unclaimed =
        async |kind| face.scrape().await.value("reveille_backlog_unclaimed", &[("executor", kind)]);
    assert_eq!((unclaimed("Agent").await, unclaimed("PG_worker").await), (Some(3.0), Some(0.0)));
    client.batch_execute("select fn_queue_heartbeat_register('desk', 'Agent')").await.unwrap();
    assert_eq!(unclaimed("Agent").await, Some(0.0), "somebody may claim them");
    client.batch_execute("select fn_subscription_set('desk', 'test', 'image.*')").await.unwrap();
    assert_eq!(unclaimed("Agent").await, Some(3.0), "nobody is subscribed");
    face.stop().await;
}
