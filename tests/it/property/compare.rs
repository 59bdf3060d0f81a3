//! What is in the database against what the model wants there.

use serde_json::Value;
use tokio_postgres::Client;
use uuid::Uuid;

use super::facts::{Consumer, DOMAINS, Job};
use super::model::{Model, Pass};

/// Compares what a pass did with what it had to do; answers that.
pub(super) async fn compare(
    model: &Model,
    client: &Client,
    domain: &'static str,
    held: &[Pass],
    answer: &Value,
) -> Pass {
    let read = read_by(model, client, domain, held).await;
    let ids: Vec<Uuid> = read.iter().map(|n| model.events[*n].id).collect();
    let unread = model.unread(domain, held);
    for n in &read {
        assert!(unread.contains(n), "read again, or without being committed: {:?}", model.events[*n]);
    }
    if answer["more"] == false {
        let left: Vec<_> = unread.iter().filter(|n| !read.contains(n)).map(|n| &model.events[*n]).collect();
        assert!(left.is_empty(), "says that nothing is left, but left {left:?}");
    }
    let mut pass = model.expect(domain, read, held);
    if !pass.read.is_empty() {
        let newest = "select max(pass_id) from dispatch_pass where event_domain = $1";
        pass.id = client.query_one(newest, &[&domain]).await.unwrap().get(0);
    }
    pass.jobs.sort();
    pass.errors.sort();
    assert_eq!(jobs_of(client, Some(&ids)).await, pass.jobs);
    assert_eq!(errors_of(client, Some(&ids)).await, pass.errors);
    let counted =
        ["events", "jobs", "duplicates", "dry", "errors"].map(|key| answer[key].as_i64().unwrap_or(0));
    let lengths = [pass.read.len(), pass.jobs.len(), pass.errors.len()].map(|n| i64::try_from(n).unwrap());
    assert_eq!(counted, [lengths[0], lengths[1], pass.duplicates, pass.dry, lengths[2]], "{answer}");
    pass
}

/// The events that the witness has met since the passes that the model knows, in reading order.
async fn read_by(model: &Model, client: &Client, domain: &str, held: &[Pass]) -> Vec<usize> {
    let known = model.passes.iter().chain(held).filter(|pass| pass.domain == domain);
    let known: Vec<Uuid> = known.flat_map(|pass| pass.read.iter().map(|n| model.events[*n].id)).collect();
    let witnessed = "
        select a.event_id
        from (
          select j.causation_event_id as event_id from job_queue j where j.consumer_key = $1
          union all
          select d.event_id from dispatch_error d where d.consumer_key = $1
        ) w
        left join event_arrival a using (event_id)
        where w.event_id <> all ($2)
        order by a.tx_id, a.arrival_seq";
    let witness = Consumer::witness(DOMAINS.into_iter().find(|known| *known == domain).unwrap()).name();
    let rows = client.query(witnessed, &[&witness, &known]).await.unwrap();
    rows.iter().map(|row| model.find(row.get(0)).expect("an event of ours")).collect()
}

/// Jobs of these events, or all of them.
pub(super) async fn jobs_of(client: &Client, events: Option<&[Uuid]>) -> Vec<Job> {
    let query = "
        select job_kind, idempotency_key, causation_event_id, consumer_key, event_domain, executor, priority,
               source_ref, target_ref, ordering_key, safe_payload, status
        from job_queue where $1::uuid[] is null or causation_event_id = any ($1)";
    let rows = client.query(query, &[&events]).await.unwrap();
    let job = |row: &tokio_postgres::Row| {
        assert_eq!(row.get::<_, String>(11), "queued");
        Job {
            kind: row.get(0),
            key: row.get(1),
            event: row.get(2),
            consumer: row.get(3),
            domain: row.get(4),
            executor: row.get(5),
            priority: row.get(6),
            source: row.get(7),
            target: row.get(8),
            ordering: row.get(9),
            payload: row.get::<_, Value>(10).to_string(),
        }
    };
    let mut jobs: Vec<Job> = rows.iter().map(job).collect();
    jobs.sort();
    jobs
}

pub(super) async fn errors_of(client: &Client, events: Option<&[Uuid]>) -> Vec<(Uuid, String)> {
    let query = "select event_id, consumer_key from dispatch_error
                 where $1::uuid[] is null or event_id = any ($1) order by 1, 2";
    let rows = client.query(query, &[&events]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
