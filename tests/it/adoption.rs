//! A database that had an outbox before Reveille came: it is used as it is, and left as it was.

use reveille::error::Kind;
use reveille::postgres::migrator::{Migrator, PHASES};
use tokio_postgres::Client;

use crate::support::{TestDb, server_at};

/// The host's tables as they stand there: sixteen columns, checks, a validating trigger, a partial unique index.
pub(crate) const HOST: &str = include_str!("adoption/host.sql");

/// One line for each thing the catalog knows about the host's schema, and one for each row of its tables.
const SNAPSHOT: &str = include_str!("adoption/snapshot.sql");

async fn snapshot(client: &Client) -> Vec<String> {
    let mut lines: Vec<String> =
        client.query(SNAPSHOT, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let tables = "select c.oid::regclass::text from pg_class c where relnamespace = 'public'::regnamespace and relkind = 'r'";
    for table in client.query(tables, &[]).await.unwrap() {
        let table: String = table.get(0);
        let rows = format!("select 'row of {table}: ' || t::text from {table} t");
        lines.extend(client.query(&rows, &[]).await.unwrap().iter().map(|row| row.get::<_, String>(0)));
    }
    lines.sort();
    lines
}

/// The lines that belong to the host's own tables.
fn of_the_host(lines: &[String]) -> Vec<&String> {
    let host = ["event_outbox", "event_type_registry", "dot_config", "event_subscription"];
    let about = |line: &str| {
        line.split_once(": ")
            .is_some_and(|(about, _)| host.iter().any(|table| about.split(' ').any(|word| word == *table)))
    };
    lines.iter().filter(|line| about(line)).collect()
}

fn difference<'a>(more: &[&'a String], less: &[&String]) -> Vec<&'a str> {
    more.iter().filter(|line| !less.contains(line)).map(|line| line.as_str()).collect()
}

#[tokio::test]
async fn an_adopted_host_is_the_same_after_up_and_down() {
    let database = TestDb::empty().await;
    let client = database.client().await;
    client.batch_execute(HOST).await.unwrap();
    let before = snapshot(&client).await;
    assert!(
        before.iter().filter(|line| line.starts_with("column event_outbox")).count() == 16,
        "{before:#?}"
    );

    let migrator = Migrator::new(server_at(&database.url()));
    migrator.up(None, false).await.unwrap();
    let up = snapshot(&client).await;
    let (host_before, host_up) = (of_the_host(&before), of_the_host(&up));
    assert_eq!(difference(&host_before, &host_up), Vec::<&str>::new(), "the host lost something");
    let added = difference(&host_up, &host_before);
    assert_eq!(added.len(), 1, "{added:#?}");
    assert!(
        added.iter().all(|line| line.starts_with("trigger reveille_") && line.contains(" on event_outbox: ")),
        "{added:#?}"
    );

    migrator.down(Some(0), false).await.unwrap();
    assert_eq!(snapshot(&client).await, before);
}

#[tokio::test]
async fn an_adopted_outbox_can_be_left_with_its_rows() {
    let database = TestDb::empty().await;
    let client = database.client().await;
    client.batch_execute(HOST).await.unwrap();
    let migrator = Migrator::new(server_at(&database.url()));
    for to in 1..=u32::try_from(PHASES.len()).unwrap() {
        migrator.up(Some(to), false).await.unwrap();
    }
    let count = "select count(*) from event_outbox";
    let events: i64 = client.query_one(count, &[]).await.unwrap().get(0);
    while !migrator.down(None, false).await.unwrap().steps.is_empty() {}
    assert_eq!(client.query_one(count, &[]).await.unwrap().get::<_, i64>(0), events);
}

#[tokio::test]
async fn an_outbox_of_our_own_is_not_dropped_with_its_events() {
    let database = TestDb::empty().await;
    let migrator = Migrator::new(server_at(&database.url()));
    migrator.up(Some(1), false).await.unwrap();
    let client = database.client().await;
    let emit = "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane)
                values ('system', 'queue_dispatch_gap', 'alert', 'delayed')";
    client.batch_execute(emit).await.unwrap();
    let error = migrator.down(Some(0), false).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("Export")), "{error}");
    client.batch_execute("delete from event_outbox").await.unwrap();
    migrator.down(Some(0), false).await.unwrap();
}

#[tokio::test]
async fn every_phase_goes_up_and_down_alone_and_leaves_what_was_there() {
    let database = TestDb::empty().await;
    let client = database.client().await;
    let migrator = Migrator::new(server_at(&database.url()));
    let mut steps = vec![snapshot(&client).await];
    for phase in PHASES {
        migrator.up(Some(phase.number), false).await.unwrap();
        steps.push(without_times(snapshot(&client).await));
    }
    for phase in PHASES.iter().rev() {
        migrator.down(Some(phase.number - 1), false).await.unwrap();
        steps.pop();
        assert_eq!(
            without_times(snapshot(&client).await),
            without_times(steps.last().unwrap().clone()),
            "phase {}",
            phase.number
        );
    }
}

/// Rows that carry the moment at which they were written are the same whenever that was.
fn without_times(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().filter(|line| !line.starts_with("row of ")).collect()
}
