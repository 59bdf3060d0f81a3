//! A database with two consumers of `iu`, whose history the audit knows from the beginning.

use reveille::maintain::{Audited, Auditor};
use reveille::postgres::Server;
use serde_json::{Value, json};

use crate::support::{Outbox, TestDb};

pub(super) struct Stage {
    pub(super) outbox: Outbox,
}

/// An auditor, as a sidecar has it.
pub(super) fn auditor(db: &TestDb) -> Auditor {
    let settings = db.settings();
    let server = Server::from_settings(&settings.database).unwrap();
    Auditor::new(&server, &settings.maintenance).unwrap()
}

impl Stage {
    /// Consumers `one` and `two`, noted by a first pass.
    pub(super) async fn new() -> Self {
        Self::of(Outbox::with_two_consumers().await).await
    }

    pub(super) async fn of(outbox: Outbox) -> Self {
        let stage = Self { outbox };
        stage.run("analyze").await;
        stage.sweep().await;
        stage.audit().await;
        stage
    }

    /// A sweep that closes everything up to now.
    pub(super) async fn sweep(&self) -> Value {
        self.outbox.answer("fn_event_sweep(p_margin => interval '0')").await
    }

    /// One pass of the audit.
    pub(super) async fn audit(&self) -> Value {
        self.outbox.answer("fn_dispatch_audit_pass()").await
    }

    /// The same by the sidecar's part.
    pub(super) async fn round(&self) -> Audited {
        let mut audited = Audited::default();
        auditor(&self.outbox.db).run_once(&mut audited).await.unwrap();
        audited
    }

    /// Sweeps, dispatches what there is, and audits: everything is closed then.
    pub(super) async fn closed(&self) -> Value {
        self.sweep().await;
        self.outbox.drain(1000).await;
        self.audit().await
    }

    /// The operator's audit of `iu`, with more arguments: it must not be cut.
    pub(super) async fn asked(&self, more: &str) -> Value {
        let answer = self.outbox.answer(&format!("fn_dispatch_audit('iu'{more})")).await;
        assert_eq!(answer["next"], Value::Null, "{answer}");
        answer
    }

    pub(super) async fn run(&self, statements: &str) {
        let done = self.outbox.client.batch_execute(statements).await;
        done.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    pub(super) async fn count(&self, query: &str) -> i64 {
        self.outbox.count(query).await
    }

    pub(super) async fn text(&self, expression: &str) -> String {
        let sql = format!("select ({expression})::text");
        let row = self.outbox.client.query_one(&sql, &[]).await;
        let row = row.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        row.get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// Registers the event of gaps.
    pub(super) async fn registered(&self) {
        self.run(
            "insert into event_type_registry (event_domain, event_type, event_stream, delivery_lane, description)
             values ('system', 'queue_dispatch_gap', 'alert', 'immediate', 'test') on conflict do nothing",
        )
        .await;
    }
}

/// events, expected, found, missing, unproven of an answer.
pub(super) fn numbers(answer: &Value) -> [i64; 5] {
    assert_eq!(answer["refused"], json!(false), "{answer}");
    ["events", "expected", "found", "missing", "unproven"]
        .map(|key| answer[key].as_i64().unwrap_or_else(|| panic!("{key}: {answer}")))
}
