//! A database with open gates, an executor in plain SQL, and jobs made for one test.

use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::support::TestDb;

/// A database whose gates are open, with a registered executor `one`.
pub(super) struct Stage {
    pub(super) db: TestDb,
    pub(super) client: Client,
}

/// A job as a claim gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) id: Uuid,
    pub(super) token: i64,
    /// What the test called it.
    pub(super) name: String,
}

impl Stage {
    pub(super) async fn open() -> Self {
        let db = TestDb::new().await;
        db.open_gates().await;
        let client = db.client().await;
        client.batch_execute("select fn_queue_heartbeat_register('one', 'PG_worker')").await.unwrap();
        Self { db, client }
    }

    /// The one JSON value of a statement.
    pub(super) async fn value(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Value {
        let row = self.client.query_one(&format!("select to_jsonb(({sql}))"), parameters).await.unwrap();
        row.get::<_, Option<Value>>(0).unwrap_or_default()
    }

    pub(super) async fn set(&self, key: &str, value: &str) {
        self.client.execute("select fn_gate_set($1, $2, 'test', 'test')", &[&key, &value]).await.unwrap();
    }

    /// A job of a kind under a name; `more` has other columns of it.
    pub(super) async fn job(&self, kind: &str, name: &str, more: Value) -> Uuid {
        let mut job = json!({"job_kind": kind, "actor": "test", "source_ref": name});
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = self.value("select fn_job_enqueue_many($1)", &[&json!([job])]).await;
        answer["job_ids"][0].as_str().unwrap().parse().unwrap()
    }

    /// What one claim gives, sorted as it came.
    pub(super) async fn claim(&self, limit: i32) -> Vec<Claimed> {
        claim(&self.client, "one", limit).await
    }

    /// The names of what one claim gives.
    pub(super) async fn names(&self, limit: i32) -> Vec<String> {
        self.claim(limit).await.into_iter().map(|job| job.name).collect()
    }

    pub(super) async fn succeed(&self, job: &Claimed) -> Value {
        self.value("select fn_job_succeed($1, $2)", &[&job.id, &job.token]).await
    }

    /// The one job that is ready runs well; its name.
    pub(super) async fn run(&self) -> Option<String> {
        let job = self.claim(1).await.pop()?;
        assert_eq!(self.succeed(&job).await["refused"], false);
        Some(job.name)
    }

    /// Why a claim is refused; null when it is not.
    pub(super) async fn refusal(&self, kinds: Option<&[&str]>) -> Value {
        let claim = "select (select reason from fn_job_claim('one', p_job_kinds => $1) where refused)";
        self.value(claim, &[&kinds]).await
    }
}

/// What one claim of an executor gives.
pub(super) async fn claim(client: &Client, executor: &str, limit: i32) -> Vec<Claimed> {
    let claim = "select job_id, lease_token, source_ref from fn_job_claim($1, $2) where not refused
        order by priority, scheduled_at, job_id";
    let jobs = client.query(claim, &[&executor, &limit]).await.unwrap();
    jobs.iter()
        .map(|job| Claimed {
            id: job.get(0),
            token: job.get(1),
            name: job.get::<_, Option<String>>(2).unwrap_or_default(),
        })
        .collect()
}
