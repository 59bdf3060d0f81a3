//! Facts stay as they are, work moves as the contract says, and never twice.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{TestDb, open_gates};

const STATUSES: [&str; 9] = [
    "queued",
    "leased",
    "in_progress",
    "succeeded",
    "failed",
    "retry_waiting",
    "dead_letter",
    "cancelled",
    "cleaned",
];

/// The contract's moves.
const MOVES: [(&str, &[&str]); 9] = [
    ("queued", &["leased", "cancelled"]),
    ("leased", &["in_progress", "queued", "succeeded", "failed", "cancelled"]),
    ("in_progress", &["succeeded", "failed", "queued", "cancelled"]),
    ("failed", &["retry_waiting", "dead_letter", "cleaned"]),
    ("retry_waiting", &["leased", "cancelled"]),
    ("dead_letter", &["queued", "cleaned"]),
    ("succeeded", &["cleaned"]),
    ("cancelled", &["cleaned"]),
    ("cleaned", &[]),
];

/// A legal way from `queued` to each status.
fn way(to: &str) -> Vec<&str> {
    match to {
        "queued" => vec![],
        "leased" | "cancelled" => vec![to],
        "retry_waiting" | "dead_letter" => vec!["leased", "failed", to],
        "cleaned" => vec!["cancelled", "cleaned"],
        _ => vec!["leased", to],
    }
}

async fn answer(client: &Client, call: &str) -> Value {
    client.query_one(&format!("select to_jsonb({call})"), &[]).await.unwrap().get(0)
}

/// Moves a job as the table's owner would, by hand, with what belongs to the new status.
async fn move_to(client: &Client, job: Uuid, status: &str) -> Result<(), String> {
    let update = "update job_queue set status = $2::text,
        lease_until = case when $2 in ('leased', 'in_progress') then now() + interval '1 hour' end,
        finished_at = case when $2 in ('succeeded', 'failed', 'dead_letter', 'cancelled', 'cleaned') then now() end
        where job_id = $1";
    let moved = client.execute(update, &[&job, &status]).await;
    moved.map(drop).map_err(|error| error.as_db_error().unwrap().message().to_owned())
}

async fn job_in(client: &Client, status: &str) -> Uuid {
    let insert = "insert into job_queue (job_kind, actor, idempotency_key)
                  values ('test', 'test', gen_random_uuid()::text) returning job_id";
    let job = client.query_one(insert, &[]).await.unwrap().get(0);
    for step in way(status) {
        move_to(client, job, step).await.unwrap();
    }
    job
}

#[tokio::test]
async fn work_state_machine_required() {
    let database = TestDb::new().await;
    let client = database.client().await;
    let mut legal: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for from in STATUSES {
        for to in STATUSES {
            let job = job_in(&client, from).await;
            match move_to(&client, job, to).await {
                Ok(()) if from == to => {} // no move
                Ok(()) => drop(legal.entry(from).or_default().insert(to)),
                Err(message) => assert!(message.starts_with("illegal_transition: "), "{message}"),
            }
        }
    }
    for (from, wanted) in MOVES {
        assert_eq!(legal.remove(from).unwrap_or_default(), wanted.iter().copied().collect(), "from {from}");
    }
    for status in STATUSES.iter().skip(1) {
        let begin = format!(
            "insert into job_queue (job_kind, actor, idempotency_key, status) values ('test', 'test', 'x', '{status}')"
        );
        assert!(client.execute(&begin, &[]).await.is_err(), "a job begins as queued, not as {status}");
    }
    let job = job_in(&client, "queued").await;
    assert!(move_to(&client, job, "waiting").await.is_err(), "nine statuses and no other");
}

/// Every event with all that Postgres knows of its row: an update would leave another place and another writer.
async fn facts(client: &Client) -> Vec<String> {
    let rows = "select format('%s %s %s', e.ctid, e.xmin, e) from event_outbox e order by e.id";
    client.query(rows, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn event_vs_job_distinction() {
    let database = TestDb::new().await;
    let client = database.client().await;
    open_gates(&client).await;
    let begin = "insert into consumer_registry (consumer_key, event_domain, job_kind, enabled, starts_at, idempotency_key)
        values ('all', 'iu', 'test', true, '-infinity', '{event_id}'), ('bad', 'iu', 'bad', true, '-infinity', '{payload.none}');
        insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, event_subject_ref)
        select 'iu', 'changed', 'update', 'immediate', n::text from generate_series(1, 20) n";
    client.batch_execute(begin).await.unwrap();
    let before = facts(&client).await;
    for step in [
        "select fn_consumer_dispatch_batch('iu', 7) from generate_series(1, 4)",
        "select fn_consumer_dispatch(id) from event_outbox",
        "select fn_queue_heartbeat_register('worker', 'PG_worker')",
        "select fn_job_succeed(job_id, lease_token) from fn_job_claim('worker', 5)",
        "select fn_job_fail_transient(job_id, lease_token, 'x') from fn_job_claim('worker', 5)",
        "select fn_job_fail_permanent(job_id, lease_token, 'x') from fn_job_claim('worker', 5)",
        "select fn_event_sweep(interval '0'), fn_dispatch_prune(interval '0', 1000), fn_dispatch_attach()",
    ] {
        client.batch_execute(step).await.unwrap();
    }
    assert_eq!(facts(&client).await, before);
    let happened =
        "select (select count(distinct status) from job_queue), (select count(*) from dispatch_error)";
    let happened = client.query_one(happened, &[]).await.unwrap();
    assert_eq!((happened.get::<_, i64>(0), happened.get::<_, i64>(1)), (4, 20));
    let writes = "
        select coalesce(array_agg(p.oid::regprocedure::text), '{}') from pg_proc p
        where p.pronamespace = current_schema()::regnamespace and p.prokind <> 'a'
          and pg_get_functiondef(p.oid) ~* '(update|delete from|truncate|merge into)\\s+event_outbox'";
    assert_eq!(client.query_one(writes, &[]).await.unwrap().get::<_, Vec<String>>(0), Vec::<String>::new());
}

#[tokio::test]
async fn idempotency_required() {
    let database = TestDb::new().await;
    let client = database.client().await;
    open_gates(&client).await;
    let enqueue = async |client: &Client, key: Option<&str>| {
        let enqueue = "select fn_job_enqueue('test', 'test', p_idempotency_key => $1)";
        let answer: Value = client.query_one(enqueue, &[&key]).await.unwrap().get(0);
        (answer["job_id"].as_str().unwrap().to_owned(), answer["created"].as_bool().unwrap())
    };
    let (first, created) = enqueue(&client, Some("one")).await;
    assert!(created);
    assert_eq!(enqueue(&client, Some("one")).await, (first.clone(), false));
    let (fresh, other) = (enqueue(&client, None).await, enqueue(&client, None).await);
    assert!(fresh.1 && other.1 && fresh.0 != other.0, "a call without a key gets a fresh one");

    let clients = join_all((0..8).map(|_| database.client())).await;
    let answers = join_all(clients.iter().map(|client| enqueue(client, Some("two")))).await;
    assert_eq!(answers.iter().filter(|(_, created)| *created).count(), 1);
    assert_eq!(answers.iter().map(|(job, _)| job).collect::<BTreeSet<_>>().len(), 1);

    let job = first.parse::<Uuid>().unwrap();
    for status in ["leased", "succeeded", "cleaned"] {
        move_to(&client, job, status).await.unwrap();
        assert_eq!(enqueue(&client, Some("one")).await, (first.clone(), false), "{status}");
    }
    let without = "insert into job_queue (job_kind, actor, idempotency_key) values ('test', 'test', null)";
    assert!(client.execute(without, &[]).await.is_err(), "every job has a key");
}

#[tokio::test]
async fn retry_dead_letter_required() {
    let database = TestDb::new().await;
    let client = database.client().await;
    open_gates(&client).await;
    let set = async |key: &str, value: &str| {
        let set = "select fn_gate_set($1, $2, 'test', 'a test')";
        client.execute(set, &[&key, &value]).await.unwrap();
    };
    set("job.test.backoff_strategy", "linear").await;
    set("job.test.backoff_seconds", "100").await;
    set("queue.retry.max_attempts.test", "3").await;
    answer(&client, "fn_queue_heartbeat_register('worker', 'PG_worker')").await;
    answer(&client, "fn_job_enqueue('test', 'test')").await;
    for (attempt, status) in [(1, "retry_waiting"), (2, "retry_waiting"), (3, "dead_letter")] {
        let fail = "(select fn_job_fail_transient(c.job_id, c.lease_token, 'try ' || c.attempts + 1)
                     from fn_job_claim('worker') c)";
        let told = answer(&client, fail).await;
        assert_eq!((&told["status"], &told["attempts"]), (&json!(status), &json!(attempt)), "{told}");
        let row = "select attempts, error_count, max_attempts, last_error, status,
                     extract(epoch from scheduled_at - clock_timestamp())::float8 from job_queue";
        let row = client.query_one(row, &[]).await.unwrap();
        assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1), row.get::<_, i32>(2)), (attempt, attempt, 3));
        assert_eq!(
            (row.get::<_, String>(3), row.get::<_, String>(4)),
            (format!("try {attempt}"), status.into())
        );
        let delay = row.get::<_, f64>(5);
        let linear = 100.0 * f64::from(attempt);
        if status == "retry_waiting" {
            assert!(delay > linear * 0.5 - 20.0 && delay <= linear, "{delay} s after failure {attempt}");
        }
        client.batch_execute("update job_queue set scheduled_at = now()").await.unwrap();
    }
    let health = "select status_hint, value::bigint from v_queue_health where (component, name) = ('dead_letter', 'job_queue')";
    let health = client.query_one(health, &[]).await.unwrap();
    assert_eq!(
        (health.get::<_, String>(0), health.get::<_, i64>(1)),
        ("stale".into(), 1),
        "nobody overlooks it"
    );
}
