//! A database with open gates, an executor `one` in plain SQL, and what explains.

use serde_json::{Value, json};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::support::Outbox;

pub(super) struct Stage {
    pub(super) outbox: Outbox,
}

impl Stage {
    pub(super) async fn open() -> Self {
        let outbox = Outbox::open().await;
        let begin = "
            select fn_queue_heartbeat_register('one', 'PG_worker');
            create function nothing(p_job jsonb) returns jsonb language sql as $$ select null::jsonb $$;
            insert into job_handler (job_kind, handler) values ('a.a', 'nothing(jsonb)')";
        outbox.client.batch_execute(begin).await.unwrap();
        Self { outbox }
    }

    pub(super) async fn run(&self, statements: &str) {
        let done = self.outbox.client.batch_execute(statements).await;
        done.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// The one JSON value of an expression.
    pub(super) async fn value(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Value {
        let sql = format!("select to_jsonb(({sql}))");
        let row = self.outbox.client.query_one(&sql, parameters).await;
        let row = row.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        row.get::<_, Option<Value>>(0).unwrap_or_default()
    }

    /// Pauses, with a reason to be found again.
    pub(super) async fn pause(&self, scope: &str, name: &str) {
        self.value("select fn_pause($1, $2, 'user:ann', 'the disk is full')", &[&scope, &name]).await;
    }

    /// One event of `iu` with this payload.
    pub(super) async fn event(&self, payload: Value) -> Uuid {
        let insert = "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, event_subject_ref, safe_payload)
            values ('iu', 'changed', 'update', 'delayed', 'page:1', $1) returning id";
        self.outbox.client.query_one(insert, &[&payload]).await.unwrap().get(0)
    }

    /// An event of `iu` that dispatch has read.
    pub(super) async fn dispatched(&self, payload: Value) -> Uuid {
        let id = self.event(payload).await;
        self.outbox.drain(100).await;
        id
    }

    /// All rows about an event.
    pub(super) async fn of_event(&self, id: Uuid) -> Vec<Value> {
        self.rows("fn_event_explain($1)", id).await
    }

    /// What one consumer says of an event.
    pub(super) async fn of_consumer(&self, id: Uuid, key: &str) -> Value {
        let all = self.of_event(id).await;
        let mut own = all.into_iter().filter(|row| row["consumer_key"] == key);
        own.next().unwrap_or_else(|| panic!("{key} says nothing"))
    }

    /// All rows about a job.
    pub(super) async fn of_job(&self, id: Uuid) -> Vec<Value> {
        self.rows("fn_job_explain($1)", id).await
    }

    /// The row of a job with this reason.
    pub(super) async fn reason(&self, id: Uuid, reason: &str) -> Value {
        let all = self.of_job(id).await;
        let found = all.iter().find(|row| row["reason"] == reason);
        found.unwrap_or_else(|| panic!("{reason} is not among {all:#?}")).clone()
    }

    async fn rows(&self, call: &str, id: Uuid) -> Vec<Value> {
        let sql = format!("select to_jsonb(x) from {call} x");
        let rows = self.outbox.client.query(&sql, &[&id]).await.unwrap_or_else(|e| panic!("{call}: {e:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// A job of a kind; `more` has other columns of it.
    pub(super) async fn job(&self, kind: &str, more: Value) -> Uuid {
        let mut job = json!({"job_kind": kind, "actor": "test"});
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = self.value("select fn_job_enqueue_many($1)", &[&json!([job])]).await;
        answer["job_ids"][0].as_str().unwrap().parse().unwrap()
    }

    /// `one` claims one job; its id and token.
    pub(super) async fn claim(&self) -> (Uuid, i64) {
        let claim = "select job_id, lease_token from fn_job_claim('one', 1)";
        let row = self.outbox.client.query_one(claim, &[]).await.unwrap();
        (row.get(0), row.get(1))
    }

    /// `one` claims one job and ends it: `succeed($1, $2)`, `fail_transient($1, $2, 'why')`.
    pub(super) async fn end(&self, how: &str) -> Uuid {
        let (id, token) = self.claim().await;
        let answer = self.value(&format!("select fn_job_{how}"), &[&id, &token]).await;
        assert_eq!(answer["refused"], false, "{answer}");
        id
    }

    pub(super) async fn set(&self, key: &str, value: &str) {
        self.value("select fn_gate_set($1, $2, 'test', 'a test')", &[&key, &value]).await;
    }
}

/// Whether a row has this verdict and reason, and these words in its sentence and its hint.
#[track_caller]
pub(super) fn says(row: &Value, verdict: &str, reason: &str, what: &[&str], hint: &str) {
    assert_eq!((&row["verdict"], &row["reason"]), (&verdict.into(), &reason.into()), "{row:#}");
    let sentence = row["what"].as_str().unwrap();
    for words in what {
        assert!(sentence.contains(words), "`{words}` is not in: {sentence}");
    }
    assert!(row["hint"].as_str().unwrap_or_default().contains(hint), "`{hint}` is not in {row:#}");
}
