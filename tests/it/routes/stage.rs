//! A table, an event type, and a route between them.

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::TestDb;

/// A database with the table `entity_species`, whose inserts can become `birth_registry.entity_born`.
pub(super) struct Stage {
    pub(super) db: TestDb,
    pub(super) client: Client,
}

const TABLE: &str = "
    insert into event_type_registry (event_domain, event_type, event_stream, delivery_lane, default_severity, description)
    values ('birth_registry', 'entity_born', 'birth', 'delayed', 'info', 'an entity was born');
    create table entity_species (code text primary key, name text, mode text, notes jsonb);";

/// The code of the route that [`route`] describes.
pub(super) const CODE: &str = "species.born";

/// A route from a statement on `entity_species`, once for each change.
pub(super) fn route(sql_event: &str) -> Value {
    json!({
        "route_code": CODE, "source_table": "entity_species", "sql_event": sql_event,
        "target_event_domain": "birth_registry", "target_event_type": "entity_born",
        "idempotency_policy": "per_change",
        "payload_contract": { "columns": ["code", "mode"], "subject_ref": "entity_species:{code}" },
    })
}

/// The same with some of its keys set otherwise.
pub(super) fn with(mut route: Value, changes: &Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        route[key] = value.clone();
    }
    route
}

impl Stage {
    pub(super) async fn new() -> Self {
        let db = TestDb::new().await;
        let client = db.client().await;
        Self::of(db, client).await
    }

    /// The same where this client looks.
    pub(super) async fn of(db: TestDb, client: Client) -> Self {
        client.batch_execute(TABLE).await.unwrap();
        let stage = Self { db, client };
        stage.gate(true).await;
        stage
    }

    /// Opens or closes the gate for all routes.
    pub(super) async fn gate(&self, open: bool) {
        let set = "fn_gate_set('queue.route.enabled', $1, 'test', 'a test')";
        self.answer(set, &[&open.to_string()]).await;
    }

    /// With a route that emits.
    pub(super) async fn live(route: &Value) -> Self {
        let stage = Self::new().await;
        stage.put(route).await;
        stage.enable(Some(false)).await;
        stage
    }

    pub(super) async fn put(&self, route: &Value) {
        let answer = self.answer("fn_route_put($1, 'test')", &[route]).await;
        assert_eq!(answer["refused"], false, "{answer}");
    }

    /// What is wrong with a route, as whoever writes it is told.
    pub(super) async fn put_fails(&self, route: &Value) -> String {
        let put = self.client.query_one("select fn_route_put($1, 'test')", &[route]).await;
        let error = put.expect_err(&route.to_string());
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "22023", "{error}");
        error.message().to_owned()
    }

    /// Enables it, live though it has not run dry.
    pub(super) async fn enable(&self, dry_run: Option<bool>) -> Value {
        let enable = "fn_route_enable($1, 'test', 'a test', $2, true)";
        let answer = self.answer(enable, &[&CODE, &dry_run]).await;
        assert_eq!(answer["refused"], false, "{answer}");
        answer
    }

    pub(super) async fn disable(&self) -> Value {
        self.answer("fn_route_disable($1, 'test', 'a test')", &[&CODE]).await
    }

    /// What a function answers.
    pub(super) async fn answer(
        &self,
        call: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Value {
        self.client.query_one(&format!("select {call}"), parameters).await.unwrap().get(0)
    }

    pub(super) async fn run(&self, statements: &str) {
        self.client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// The error of statements that fail.
    pub(super) async fn fails(&self, statements: &str) -> tokio_postgres::error::DbError {
        let error = self.client.batch_execute(statements).await.expect_err(statements);
        error.as_db_error().unwrap().clone()
    }

    /// Subjects of the events so far, in the order in which they were written.
    pub(super) async fn subjects(&self) -> Vec<String> {
        let subjects = "select event_subject_ref from event_outbox order by id";
        self.client.query(subjects, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    pub(super) async fn count(&self, of: &str) -> i64 {
        self.client.query_one(&format!("select count(*) from {of}"), &[]).await.unwrap().get(0)
    }

    /// What `fn_route_check` finds.
    pub(super) async fn findings(&self) -> Vec<String> {
        let check = "select finding from fn_route_check() order by 1";
        self.client.query(check, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// SQLSTATEs of the faults that were kept.
    pub(super) async fn faults(&self) -> Vec<String> {
        let faults = "select sqlstate from event_route_fault order by fault_id";
        self.client.query(faults, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }
}
