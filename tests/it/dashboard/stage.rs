//! A database with something of everything, and the face beside it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::http::Served;
use crate::support::{DOMAIN, TestDb, flow, server_at};

/// What stands in every field that takes it.
pub(super) const HOSTILE: &str = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'`&amp;{{7*7}} javascript:alert(3) \
    \u{202e}txt.exe\u{2066} Wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww";

/// What signs in where writing is wanted.
pub(super) const TOKEN: &str = "0123456789abcdef-token";

/// Ids of what there is.
pub(super) struct Stage {
    pub(super) db: TestDb,
    pub(super) client: Client,
    pub(super) face: Served,
    pub(super) event: String,
    pub(super) job: String,
    pub(super) dead_letter: String,
    pub(super) workflow: String,
}

impl Stage {
    /// Events, jobs in several statuses, a dead letter, a workflow, a pause, changes of gates; `words` in every field.
    pub(super) async fn set(words: &str) -> Self {
        let db = TestDb::new().await;
        let face = Served::start(server_at(&db.url()), None, Duration::ZERO).await;
        Self::beside(db, face, words).await
    }

    /// The same, and who has [`TOKEN`] may write.
    pub(super) async fn with_token(words: &str) -> Self {
        let db = TestDb::new().await;
        let face = Served::with_token(server_at(&db.url()), TOKEN, false).await;
        Self::beside(db, face, words).await
    }

    async fn beside(db: TestDb, face: Served, words: &str) -> Self {
        let client = flow(&db).await;
        let mut stage = Self {
            db,
            client,
            face,
            event: String::new(),
            job: String::new(),
            dead_letter: String::new(),
            workflow: String::new(),
        };
        stage.fill(words).await;
        stage
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.face.address()
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// Every page that there is.
    pub(super) fn pages(&self) -> Vec<String> {
        let mut pages: Vec<String> =
            ["/", "/events", "/jobs", "/dead-letters", "/workflows", "/consumers", "/executors", "/gates"]
                .map(str::to_owned)
                .into();
        pages.push(format!("/events/{}", self.event));
        pages.push(format!("/jobs/{}", self.job));
        pages.push(format!("/dead-letters/{}", self.dead_letter));
        pages.push(format!("/workflows/{}", self.workflow));
        pages.push("/consumers/one_job_each".to_owned());
        pages
    }

    async fn text(&self, sql: &str, words: &str) -> String {
        let row = self.client.query_one(&format!("select (({sql}))::text"), &[&words]).await;
        row.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// One more event, dispatched.
    pub(super) async fn emit(&self, subject: &str) -> String {
        let emit = format!(
            "select fn_event_emit('{DOMAIN}', 'queue_worker_silent', $1, p_safe_payload => jsonb_build_object('note', $1::text),
               p_actor_ref => $1, p_correlation_id => $1, p_canonical_address => $1)"
        );
        let id = self.text(&emit, subject).await;
        self.client.execute("select fn_consumer_dispatch_batch($1, 1000)", &[&DOMAIN]).await.unwrap();
        id
    }

    async fn fill(&mut self, words: &str) {
        let name: String = words.chars().take(100).collect();
        self.text("select fn_queue_heartbeat_register($1, 'PG_worker')", &name).await;
        self.text("select fn_queue_heartbeat_register('idle-one', 'Agent', p_stale_threshold_seconds => 60)::text || $1", "").await;
        self.client
            .batch_execute("update queue_heartbeat set last_beat_at = now() - interval '2 hours' where executor_name = 'idle-one'")
            .await
            .unwrap();
        for _ in 0..8 {
            self.event = self.emit(words).await;
        }
        let claim = "select job_id, lease_token from fn_job_claim($1, 5)";
        let claimed = self.client.query(claim, &[&name]).await.unwrap();
        let ends = [
            "select fn_job_succeed($1, $2, $3)",
            "select fn_job_fail_transient($1, $2, $3)",
            "select fn_job_fail_permanent($1, $2, $3)",
            "select fn_job_succeed($1, $2, $3)",
        ];
        for (row, end) in claimed.iter().zip(ends) {
            let (job, token): (uuid::Uuid, i64) = (row.get(0), row.get(1));
            self.client.execute(end, &[&job, &token, &words]).await.unwrap();
        }
        let letter = "select dead_letter_id from job_dead_letter where $1 <> ''";
        self.dead_letter = self.text(letter, "-").await;
        self.job = self.text("select job_id from job_dead_letter where $1 <> ''", "-").await;
        let triage = "select fn_job_dead_letter_triage((select dead_letter_id from job_dead_letter), 'investigating', $1, $1)";
        self.text(triage, words).await;
        self.text("select fn_gate_set('queue.archive.enabled', 'true', $1, $1)", words).await;
        self.text("select fn_pause('domain', 'iu', $1, $1)", words).await;
        let consumer = "update consumer_registry set description = $1::text, actor = $1::text";
        self.client.execute(consumer, &[&words]).await.unwrap();
        let dry = json!({"consumer_key": "trying_out", "event_domain": DOMAIN, "job_kind": "test.tried", "enabled": true,
            "dry_run": true, "description": words});
        self.client.execute("select fn_consumer_put($1, 'test', 'sql', true)", &[&dry]).await.unwrap();
        self.workflow = self.make_workflow(words).await;
    }

    async fn make_workflow(&self, words: &str) -> String {
        let handler =
            "create function nothing(p_job jsonb) returns jsonb language sql as $$ select null::jsonb $$;
            insert into job_handler (job_kind, handler) values ('cut.cut', 'nothing(jsonb)')";
        self.client.batch_execute(handler).await.unwrap();
        let node = |key: &str| json!({"key": key, "job_kind": "cut.cut"});
        let edge = |from: &str, to: &str| json!({"from": from, "to": to});
        let template = json!({
            "template_key": "cut_pipeline", "params": {"type": "object"}, "description": words,
            "nodes": [node("mark"), node("cut_left"), node("cut_right"), {"key": "review", "type": "approval"},
                node("verify"), node("tell")],
            "edges": [edge("mark", "cut_left"), edge("mark", "cut_right"), edge("cut_left", "review"),
                edge("cut_right", "review"), edge("review", "verify"), edge("verify", "tell")],
        });
        let put: Value = self
            .client
            .query_one("select fn_mot_template_put($1, 'test')", &[&template])
            .await
            .unwrap()
            .get(0);
        assert_eq!(put["refused"], false, "{put}");
        let emit = "select fn_mot_graph_emit('cut_pipeline', '{}', $1, p_actor => $1)";
        let made: Value = self.client.query_one(emit, &[&words]).await.unwrap().get(0);
        assert_eq!(made["created"], true, "{made}");
        let name: String = words.chars().take(100).collect();
        for _ in 0..20 {
            let claim = "select job_id, lease_token from fn_job_claim($1, 1, p_job_kinds => '{cut.cut}')";
            let Some(row) = self.client.query_opt(claim, &[&name]).await.unwrap() else { break };
            let (job, token): (uuid::Uuid, i64) = (row.get(0), row.get(1));
            self.client.execute("select fn_job_succeed($1, $2, $3)", &[&job, &token, &words]).await.unwrap();
        }
        made["workflow_id"].as_str().unwrap().to_owned()
    }
}
