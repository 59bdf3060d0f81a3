//! The keys of archived jobs stay taken, whoever asks and whenever.

use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::archive::{ARCHIVE, archive, archived, open, show, succeed};
use super::stage::Stage;
use crate::support::{SOON, emit, wait_until};

const ENQUEUE: &str = "select fn_job_enqueue('any', 'test', p_idempotency_key => 'first')";
pub(super) const ENQUEUE_MANY: &str = r#"select fn_job_enqueue_many(
    '[{"job_kind": "any", "actor": "test", "idempotency_key": "first"}, {"job_kind": "any", "actor": "test"}]')"#;

/// A job that has run well under the key `first`, and an archiver that has moved it but not committed.
pub(super) async fn leaving(stage: &Stage) -> (Uuid, Client) {
    let id = stage.value(ENQUEUE, &[]).await["job_id"].as_str().unwrap().parse().unwrap();
    succeed(stage, id).await;
    let archiver = stage.db.client().await;
    archiver.batch_execute("begin").await.unwrap();
    archiver.execute(ARCHIVE, &[]).await.unwrap();
    (id, archiver)
}

/// Runs a call that must wait for the archiver, which then commits.
async fn meanwhile(
    stage: &Stage,
    archiver: &Client,
    begin: &str,
    call: &str,
) -> Result<Value, tokio_postgres::Error> {
    let producer = stage.db.client().await;
    producer.batch_execute(begin).await.unwrap();
    let query = format!("select to_jsonb(({call}))");
    let (answer, ()) = tokio::join!(producer.query_one(&query, &[]), async {
        let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        wait_until("the producer waits", SOON, async || stage.value(waits, &[]).await == 1).await;
        archiver.batch_execute("commit").await.unwrap();
    });
    producer.batch_execute("commit").await.unwrap();
    answer.map(|row| row.get(0))
}

async fn jobs(stage: &Stage) -> Value {
    stage.value("select count(*) from job_queue where idempotency_key = 'first'", &[]).await
}

#[tokio::test]
async fn an_archived_jobs_key_answers_the_first_job() {
    let stage = open().await;
    let id = archived(&stage, "first").await;
    for isolation in ["read committed", "repeatable read", "serializable"] {
        stage.client.batch_execute(&format!("begin isolation level {isolation}")).await.unwrap();
        let answer = stage.value(ENQUEUE, &[]).await;
        assert_eq!((&answer["created"], &answer["job_id"]), (&json!(false), &json!(id)), "{isolation}");
        let many = stage.value(ENQUEUE_MANY, &[]).await;
        assert_eq!(
            (&many["created"], &many["duplicates"], &many["job_ids"][0]),
            (&json!(1), &json!(1), &json!(id))
        );
        let made = stage
            .value("select jsonb_agg(job_id) from job_queue where job_id::text = idempotency_key", &[])
            .await;
        assert_eq!(made, json!([many["job_ids"][1]]), "the other one is made");
        stage.client.batch_execute("rollback").await.unwrap();
    }
    assert_eq!(stage.value("select count(*) from job_archive_key", &[]).await, 1);
}

#[tokio::test]
async fn an_enqueue_that_began_before_the_job_left_makes_no_second_one() {
    for call in [ENQUEUE, ENQUEUE_MANY] {
        let stage = open().await;
        let (id, archiver) = leaving(&stage).await;
        let call = call.trim_start_matches("select ");
        let answer = meanwhile(&stage, &archiver, "begin", call).await.unwrap();
        assert_eq!(answer.get("job_id").unwrap_or(&answer["job_ids"][0]), &json!(id), "{answer}");
        assert_eq!(jobs(&stage).await, 0);
    }
}

#[tokio::test]
async fn an_enqueue_that_cannot_see_that_the_job_left_is_told_to_try_again() {
    let stage = open().await;
    let (_, archiver) = leaving(&stage).await;
    let snapshot = "begin isolation level repeatable read; select 1";
    let error =
        meanwhile(&stage, &archiver, snapshot, ENQUEUE.trim_start_matches("select ")).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
    assert_eq!(jobs(&stage).await, 0);
}

/// A consumer of every event of `iu`, plain or not, and so many events that were dispatched by hand.
async fn dispatched(stage: &Stage, columns: &str, events: i32) {
    let put = format!(
        r#"select fn_consumer_put('{{"consumer_key": "c", "event_domain": "iu", "job_kind": "any", "enabled": true}}'
           || '{columns}'::jsonb, 'test')"#
    );
    stage.value(&put, &[]).await;
    emit(&stage.client, "iu", events).await;
    stage.client.batch_execute("select fn_consumer_dispatch(id) from event_outbox").await.unwrap();
    let work = "select fn_job_succeed(c.job_id, c.lease_token) from fn_job_claim('one', 1000) c";
    stage.client.batch_execute(work).await.unwrap();
}

const PLAIN: &str = "{}";
const CAREFUL: &str = r#"{"idempotency_key": "page:{event_id}"}"#;
const PASS: &str = "select fn_consumer_dispatch_batch('iu')";

#[tokio::test]
async fn an_event_whose_job_is_archived_gets_no_second_one() {
    for (columns, events) in [(PLAIN, 1), (PLAIN, 30), (CAREFUL, 1), (CAREFUL, 30)] {
        let stage = open().await;
        dispatched(&stage, columns, events).await;
        assert_eq!(archive(&stage).await, i64::from(events));
        let pass = stage.value(PASS, &[]).await;
        let counts = (&pass["events"], &pass["jobs"], &pass["duplicates"]);
        assert_eq!(counts, (&json!(events), &json!(0), &json!(events)), "{columns}: {pass}");
        let again =
            "select fn_consumer_dispatch(causation_event_id) || to_jsonb(a) from job_archive a limit 1";
        let again = stage.value(again, &[]).await;
        assert_eq!((&again["jobs"], &again["duplicates"]), (&json!(0), &json!(1)), "{again}");
        let decision = &again["decisions"][0];
        assert_eq!((&decision["job_id"], &decision["status"]), (&again["job_id"], &json!("succeeded")));
        let event = stage.value("select min(id::text) from event_outbox", &[]).await;
        let shown = show(&stage, &["events", "show", event.as_str().unwrap(), "--json"]).await;
        assert_eq!(shown["jobs"][0]["status"], "succeeded", "what became of it is still told: {shown}");
        assert_eq!(stage.value("select count(*) from job_queue", &[]).await, 0);
        emit(&stage.client, "iu", events).await;
        assert_eq!(stage.value(PASS, &[]).await["jobs"], events, "new events have their jobs");
    }
}

#[tokio::test]
async fn a_pass_that_began_before_the_job_left_makes_no_second_one() {
    for (columns, events) in [(PLAIN, 1), (PLAIN, 30), (CAREFUL, 30)] {
        let stage = open().await;
        dispatched(&stage, columns, events).await;
        let archiver = stage.db.client().await;
        archiver.batch_execute("begin").await.unwrap();
        archiver.execute(ARCHIVE, &[]).await.unwrap();
        let pass = meanwhile(&stage, &archiver, "begin", "fn_consumer_dispatch_batch('iu')").await;
        let pass = pass.unwrap();
        assert_eq!((&pass["jobs"], &pass["duplicates"]), (&json!(0), &json!(events)), "{columns}: {pass}");
        assert_eq!(stage.value("select count(*) from job_queue", &[]).await, 0);
    }
}

#[tokio::test]
async fn a_foreign_key_that_names_an_event_is_not_overlooked() {
    let stage = open().await;
    dispatched(&stage, PLAIN, 0).await;
    // somebody made the job of an event that comes later, under the key that the consumer will give it
    let event = Uuid::new_v4();
    archived(&stage, &format!("c:{event}")).await;
    emit(&stage.client, "iu", 30).await;
    let one = "insert into event_outbox (id, event_domain, event_type, event_stream, delivery_lane)
               values ($1, 'iu', 'changed', 'update', 'delayed')";
    stage.client.execute(one, &[&event]).await.unwrap();
    let pass = stage.value(PASS, &[]).await;
    assert_eq!(
        (&pass["events"], &pass["jobs"], &pass["duplicates"]),
        (&json!(31), &json!(30), &json!(1)),
        "{pass}"
    );
}
