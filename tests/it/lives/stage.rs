//! A database with open gates, and an executor in plain SQL.

use serde_json::Value;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::support::TestDb;

/// A database whose gates are open, with a registered executor.
pub(super) struct Stage {
    pub(super) db: TestDb,
    pub(super) client: Client,
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

    pub(super) async fn enqueue(&self, kind: &str) -> Uuid {
        let answer = self.value("select fn_job_enqueue($1, 'test')", &[&kind]).await;
        answer["job_id"].as_str().unwrap().parse().unwrap()
    }

    /// Claims the one job that is ready; its token.
    pub(super) async fn claim(&self) -> i64 {
        self.client.query_one("select lease_token from fn_job_claim('one')", &[]).await.unwrap().get(0)
    }

    /// One run of the one job that is ready, which fails.
    pub(super) async fn fail(&self, id: Uuid, error: &str) -> Value {
        let token = self.claim().await;
        self.value("select fn_job_fail_transient($1, $2, $3)", &[&id, &token, &error]).await
    }

    /// Whatever waits for its time is due.
    pub(super) async fn time_passes(&self) {
        self.client.batch_execute("update job_queue set scheduled_at = clock_timestamp()").await.unwrap();
    }

    /// All leases end now, unreported.
    pub(super) async fn leases_end(&self) {
        let end = "update job_queue set lease_until = clock_timestamp() where lease_until is not null";
        self.client.batch_execute(end).await.unwrap();
    }

    pub(super) async fn job(&self, id: Uuid) -> Value {
        self.value("select to_jsonb(j) from job_queue j where j.job_id = $1", &[&id]).await
    }

    /// The outcomes of the job's ended leases, in order.
    pub(super) async fn outcomes(&self, id: Uuid) -> Value {
        let outcomes = "select coalesce(jsonb_agg(outcome order by lease_token), '[]') from job_attempt where job_id = $1";
        self.value(outcomes, &[&id]).await
    }

    pub(super) async fn open_reaper(&self) {
        self.set("queue.lease_reaper.enabled", "true").await;
        self.set("queue.lease_reaper.dry_run_only", "false").await;
    }

    pub(super) async fn reap(&self) -> Value {
        self.value("select fn_job_lease_reaper()", &[]).await
    }
}
