//! Events in, jobs out: a consumer that makes one job of each event of a test.

use tokio_postgres::Client;

use super::database::{TestDb, open_gates};
use super::wait::{SOON, wait_until};

/// Domain of the events.
pub(crate) const DOMAIN: &str = "system";
const EVENT_TYPE: &str = "queue_worker_silent";

/// Opens the gates and enables the consumer.
pub(crate) async fn flow(db: &TestDb) -> Client {
    let client = db.client().await;
    open_flow(&client).await;
    client
}

/// The same, in the database of this connection.
pub(crate) async fn open_flow(client: &Client) {
    open_gates(client).await;
    let consumer =
        "insert into consumer_registry (consumer_key, event_domain, event_type, job_kind, actor, enabled)
        values ('one_job_each', $1, $2, 'test.seen', 'test', true)";
    client.execute(consumer, &[&DOMAIN, &EVENT_TYPE]).await.unwrap();
}

/// Commits `count` events in one transaction.
pub(crate) async fn emit_at_once(client: &Client, count: i32) -> Result<(), tokio_postgres::Error> {
    let emit = "select count(fn_event_emit($1, $2, n::text)) from generate_series(1, $3) n";
    client.execute(emit, &[&DOMAIN, &EVENT_TYPE, &count]).await.map(drop)
}

/// Commits `count` events, each in a transaction of its own.
pub(crate) async fn emit_each(client: &Client, count: usize) {
    for number in 0..count {
        let emit = "select fn_event_emit($1, $2, $3)";
        client.execute(emit, &[&DOMAIN, &EVENT_TYPE, &number.to_string()]).await.unwrap();
    }
}

/// Waits until every event in the outbox has its one job.
pub(crate) async fn all_became_jobs(client: &Client) {
    wait_until("each event has its job", SOON, async || {
        let open = "
            select count(*) > 0 and bool_and(coalesce(j.jobs, 0) = 1)
            from event_outbox e
            left join (select causation_event_id, count(*) as jobs from job_queue group by 1) j
              on j.causation_event_id = e.id
            where e.event_type = $1";
        client.query_one(open, &[&EVENT_TYPE]).await.unwrap().get(0)
    })
    .await;
}
