//! A database with open gates, and workflows that stop where a test wants them to.

use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::TestDb;

pub(super) struct Stage {
    pub(super) db: TestDb,
    pub(super) client: Client,
}

impl Stage {
    /// An executor `one` for jobs of kind `a.a`; the template `letter` is write, then approval, then send; `order` is
    /// begin, then the event `iu.paid`, then ship.
    pub(super) async fn new() -> Self {
        let db = TestDb::new().await;
        db.open_gates().await;
        let client = db.client().await;
        let begin = "
            select fn_queue_heartbeat_register('one', 'PG_worker');
            create function nothing(p_job jsonb) returns jsonb language sql as $$ select null::jsonb $$;
            insert into job_handler (job_kind, handler) values ('a.a', 'nothing(jsonb)');
            insert into event_type_registry (event_domain, event_type, event_stream, delivery_lane, description)
            values ('iu', 'paid', 'update', 'immediate', 'test')";
        client.batch_execute(begin).await.unwrap();
        let stage = Self { db, client };
        let job = |key: &str| json!({"key": key, "job_kind": "a.a"});
        let approval = json!({"key": "review", "type": "approval"});
        let event = json!({"key": "paid", "type": "event", "event_domain": "iu", "event_type": "paid"});
        for (key, nodes) in
            [("letter", [job("write"), approval, job("send")]), ("order", [job("begin"), event, job("ship")])]
        {
            let edges = [0, 1].map(|n| json!({"from": nodes[n]["key"], "to": nodes[n + 1]["key"]}));
            let template = json!({"template_key": key, "nodes": nodes, "edges": edges});
            stage.value("fn_mot_template_put($1, 'test')", &[&template]).await;
        }
        stage
    }

    /// What an expression gives, as JSON.
    pub(super) async fn value(
        &self,
        sql: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Value {
        let sql = format!("select to_jsonb(({sql}))");
        let row = self.client.query_one(&sql, parameters).await;
        let row = row.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        row.get::<_, Option<Value>>(0).unwrap_or_default()
    }

    pub(super) async fn run(&self, statements: &str) {
        self.client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    pub(super) async fn emit(&self, template: &str) -> Uuid {
        let answer = self.value("fn_mot_graph_emit($1, '{}', p_actor => 'test')", &[&template]).await;
        answer["workflow_id"].as_str().unwrap().parse().unwrap()
    }

    /// Ends the one job that is free, well or for good.
    pub(super) async fn end_one(&self, well: bool) {
        let claim = "select job_id, lease_token from fn_job_claim('one', 1)";
        let job = self.client.query_one(claim, &[]).await.unwrap();
        let (id, token): (Uuid, i64) = (job.get(0), job.get(1));
        let end = if well { "fn_job_succeed($1, $2)" } else { "fn_job_fail_permanent($1, $2, 'no')" };
        assert_eq!(self.value(end, &[&id, &token]).await["refused"], false);
    }

    pub(super) async fn set(&self, key: &str, value: &str) {
        self.value("fn_gate_set($1, $2, 'test', 'a test')", &[&key, &value]).await;
    }

    /// The findings about workflows so long from now.
    pub(super) async fn findings(&self, later: &str) -> Value {
        let check = "select jsonb_agg(finding) from fn_job_workflow_check(p_now => clock_timestamp() + $1::text::interval)";
        self.value(check, &[&later]).await
    }
}
