//! A database with open gates, two executors in plain SQL, and templates made for one test.

use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::support::{SOON, TestDb, wait_until};

pub(super) struct Stage {
    pub(super) db: TestDb,
    pub(super) client: Client,
}

/// A step as a claim gave it.
#[derive(Debug, Clone)]
pub(super) struct Claimed {
    pub(super) id: Uuid,
    pub(super) token: i64,
    pub(super) step: String,
}

impl Stage {
    /// Kinds `a.a` and `b.b` are known; executors `one` and `two` may run them.
    pub(super) async fn open() -> Self {
        let db = TestDb::new().await;
        db.open_gates().await;
        let client = db.client().await;
        let begin = "
            select fn_queue_heartbeat_register('one', 'PG_worker'), fn_queue_heartbeat_register('two', 'PG_worker');
            create function nothing(p_job jsonb) returns jsonb language sql as $$ select null::jsonb $$;
            insert into job_handler (job_kind, handler) values ('a.a', 'nothing(jsonb)'), ('b.b', 'nothing(jsonb)')";
        client.batch_execute(begin).await.unwrap();
        Self { db, client }
    }

    /// The one JSON value of a statement.
    pub(super) async fn value(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Value {
        let row = self.client.query_one(&format!("select to_jsonb(({sql}))"), parameters).await.unwrap();
        row.get::<_, Option<Value>>(0).unwrap_or_default()
    }

    /// What `fn_mot_template_put` says of nodes and edges.
    pub(super) async fn put(&self, key: &str, nodes: Value, edges: Value) -> Value {
        self.put_with(key, json!({"type": "object"}), nodes, edges).await
    }

    pub(super) async fn put_with(&self, key: &str, params: Value, nodes: Value, edges: Value) -> Value {
        let template = json!({"template_key": key, "params": params, "nodes": nodes, "edges": edges});
        self.value("select fn_mot_template_put($1, 'test')", &[&template]).await
    }

    /// A workflow of a template that is there.
    pub(super) async fn emit(&self, template: &str, params: Value) -> Uuid {
        let answer =
            self.value("select fn_mot_graph_emit($1, $2, p_actor => 'test')", &[&template, &params]).await;
        assert_eq!(answer["created"], true, "{answer}");
        answer["workflow_id"].as_str().unwrap().parse().unwrap()
    }

    pub(super) async fn claim(&self, executor: &str, limit: i32) -> Vec<Claimed> {
        let claim = "select job_id, lease_token, substr(idempotency_key, 38) as step, executor, reason
            from fn_job_claim($1, $2) order by priority, scheduled_at, job_id";
        let rows = self.client.query(claim, &[&executor, &limit]).await.unwrap();
        let claimed = rows.iter().map(|row| {
            assert_eq!(row.get::<_, Option<&str>>("reason"), None);
            Claimed { id: row.get("job_id"), token: row.get("lease_token"), step: row.get("step") }
        });
        claimed.collect()
    }

    pub(super) async fn succeed(&self, job: &Claimed) {
        let answer = self.value("select fn_job_succeed($1, $2)", &[&job.id, &job.token]).await;
        assert_eq!(answer["refused"], false, "{answer}");
    }

    pub(super) async fn fail(&self, job: &Claimed) {
        let fail = "select fn_job_fail_permanent($1, $2, 'it cannot be done')";
        let answer = self.value(fail, &[&job.id, &job.token]).await;
        assert_eq!(answer["refused"], false, "{answer}");
    }

    /// Runs what is free, well but for the steps named, until nothing is; the steps in the order in which they ran.
    pub(super) async fn run(&self, bad: &[&str]) -> Vec<String> {
        let mut ran = Vec::new();
        loop {
            let jobs = self.claim("one", 1).await;
            let Some(job) = jobs.first() else { return ran };
            if bad.contains(&job.step.as_str()) {
                self.fail(job).await;
            } else {
                self.succeed(job).await;
            }
            ran.push(job.step.clone());
        }
    }

    /// Status and counts of a workflow as its health shows them.
    pub(super) async fn health(&self, id: Uuid) -> Value {
        self.value("select h from v_job_workflow_health h where workflow_id = $1", &[&id]).await
    }

    pub(super) async fn status(&self, id: Uuid) -> String {
        self.health(id).await["status"].as_str().unwrap().to_owned()
    }

    /// Until so many sessions of this database wait for a lock.
    pub(super) async fn waiting_for_locks(&self, sessions: i64) {
        let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        let all = async || self.value(waits, &[]).await == sessions;
        wait_until("they wait for a lock", SOON, all).await;
    }

    /// Every step with its status, or `skipped`.
    pub(super) async fn standing(&self, id: Uuid) -> Value {
        let steps = "select jsonb_object_agg(step, case when cancel_reason like 'skipped: %' then 'skipped' else status end)
            from fn_job_workflow_steps($1)";
        self.value(steps, &[&id]).await
    }

    /// The job of a step.
    pub(super) async fn job(&self, id: Uuid, step: &str) -> Uuid {
        let job = "select job_id from fn_job_workflow_steps($1) where step = $2";
        self.client.query_one(job, &[&id, &step]).await.unwrap().get(0)
    }
}

/// A node that runs jobs of kind `a.a`.
pub(super) fn node(key: &str) -> Value {
    json!({"key": key, "job_kind": "a.a"})
}

/// An edge as it is by default.
pub(super) fn edge(from: &str, to: &str) -> Value {
    json!({"from": from, "to": to})
}

/// The answer of `sql` about a workflow, asked beside others.
pub(super) fn beside(client: Client, sql: &'static str, id: Uuid) -> tokio::task::JoinHandle<Value> {
    tokio::spawn(async move { client.query_one(sql, &[&id]).await.unwrap().get(0) })
}
