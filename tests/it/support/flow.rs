//! Events in, jobs out: a consumer that makes one job of each event of a test.

use tokio_postgres::Client;

use super::database::TestDb;
use super::wait::{SOON, wait_until};

/// Domain of the events.
pub(crate) const DOMAIN: &str = "system";
const EVENT_TYPE: &str = "queue_worker_silent";

/// Opens the gates and enables the consumer.
pub(crate) async fn flow(db: &TestDb) -> Client {
    db.open_gates().await;
    let client = db.client().await;
    let consumer =
        "insert into consumer_registry (consumer_key, event_domain, event_type, job_kind, actor, enabled)
        values ('one_job_each', $1, $2, 'test.seen', 'test', true)";
    client.execute(consumer, &[&DOMAIN, &EVENT_TYPE]).await.unwrap();
    client
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
        let open = "select exists (select from event_outbox) and not exists (
            select from event_outbox e where e.event_type = $1
               and (select count(*) from job_queue j where j.causation_event_id = e.id) <> 1)";
        client.query_one(open, &[&EVENT_TYPE]).await.unwrap().get(0)
    })
    .await;
}
