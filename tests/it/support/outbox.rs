//! Facts in, jobs counted: what the tests of dispatch do with a database.

use std::collections::BTreeMap;
use std::sync::Arc;

use reveille::postgres::embedded::Throwaway;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::database::TestDb;
use super::wait::{SOON, wait_until};

/// A database with open gates, and a connection to it.
pub(crate) struct Outbox {
    pub(crate) db: TestDb,
    pub(crate) client: Client,
}

impl Outbox {
    /// On the shared server.
    pub(crate) async fn open() -> Self {
        Self::of(TestDb::new().await).await
    }

    /// On a server of the test's own.
    pub(crate) async fn open_on(server: Arc<Throwaway>) -> Self {
        Self::of(TestDb::on(server).await).await
    }

    /// On a database that is there.
    pub(crate) async fn of(db: TestDb) -> Self {
        db.open_gates().await;
        let client = db.client().await;
        Self { db, client }
    }

    /// With consumers of every event of `iu`: `one` and `two`.
    pub(crate) async fn with_two_consumers() -> Self {
        let outbox = Self::open().await;
        outbox.two_consumers().await;
        outbox
    }

    /// Adds the consumers `one` and `two` of every event of `iu`.
    pub(crate) async fn two_consumers(&self) {
        self.consumer("one", "iu", json!({})).await;
        self.consumer("two", "iu", json!({})).await;
    }

    /// Writes an enabled consumer of a domain whose job kind is `test.<key>`; `columns` says what is different.
    pub(crate) async fn consumer(&self, key: &str, domain: &str, columns: Value) {
        let mut row = json!({
            "consumer_key": key, "event_domain": domain, "job_kind": format!("test.{key}"), "enabled": true});
        row.as_object_mut().unwrap().extend(columns.as_object().unwrap().clone());
        let put = "select fn_consumer_put($1, 'test', 'sql', true)";
        self.client.execute(put, &[&row]).await.unwrap();
    }

    /// A gate set through its function, which announces it.
    pub(crate) async fn gate(&self, key: &str, open: bool) {
        let set = "select fn_gate_set($1, $2, 'test', 'a test')";
        self.client.execute(set, &[&key, &open.to_string()]).await.unwrap();
    }

    /// One transaction with so many events of `iu`.
    pub(crate) async fn emit(&self, events: i32) {
        emit(&self.client, "iu", events).await;
    }

    /// One pass of `iu`: how many events it read, and whether there is more.
    pub(crate) async fn pass(&self, limit: i32) -> (i64, bool) {
        let answer = self.answer(&format!("fn_consumer_dispatch_batch('iu', {limit})")).await;
        assert_eq!((&answer["refused"], &answer["busy"]), (&json!(false), &json!(false)), "{answer}");
        (answer["events"].as_i64().unwrap(), answer["more"].as_bool().unwrap())
    }

    /// Passes of `iu` until nothing is left: how many events they read.
    pub(crate) async fn drain(&self, limit: i32) -> i64 {
        let mut events = 0;
        loop {
            let (read, more) = self.pass(limit).await;
            events += read;
            if !more {
                return events;
            }
        }
    }

    /// What a function answers.
    pub(crate) async fn answer(&self, call: &str) -> Value {
        self.client.query_one(&format!("select to_jsonb({call})"), &[]).await.unwrap().get(0)
    }

    /// A number.
    pub(crate) async fn count(&self, query: &str) -> i64 {
        self.client.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Jobs of all consumers.
    pub(crate) async fn jobs(&self) -> i64 {
        self.count("select count(*) from job_queue").await
    }

    /// Pairs of event and consumer without a job, and jobs beyond the first of a pair.
    pub(crate) async fn missing_and_twice(&self) -> (i64, i64) {
        let row = self.client.query_one(
            "select
               (select count(*) from event_outbox e
                join consumer_registry c on c.enabled and c.event_domain = e.event_domain
                  and c.job_kind is not null and e.event_type like c.event_type_like
                left join job_queue j on j.causation_event_id = e.id and j.consumer_key = c.consumer_key
                where j.job_id is null),
               (select count(*) - count(distinct (j.causation_event_id, j.consumer_key)) from job_queue j)",
            &[],
        );
        let row = row.await.unwrap();
        (row.get(0), row.get(1))
    }

    /// Every event has exactly one job for each consumer that wants its type.
    pub(crate) async fn assert_exactly_once(&self) {
        assert_eq!(self.missing_and_twice().await, (0, 0), "(missing, twice)");
    }

    /// Waits until every event has exactly one job for each consumer that wants its type.
    pub(crate) async fn exactly_once_soon(&self) {
        wait_until("every event has its jobs", SOON, async || self.missing_and_twice().await.0 == 0).await;
        self.assert_exactly_once().await;
    }

    /// Emits until events are found by `word`: a sidecar that has just started looks for other reasons, too.
    pub(crate) async fn settle(&self, word: &str) {
        wait_until(&format!("events are found by {word}"), SOON, async || {
            let before = self.found_by().await.get(word).copied().unwrap_or(0);
            self.emit(1).await;
            self.exactly_once_soon().await;
            self.found_by().await.get(word).is_some_and(|found| *found > before)
        })
        .await;
    }

    /// Emits so many events, one after the other, which must be found by `word`; one or the other by a look of the
    /// dispatcher's own, if somewhere on the server a transaction is open that may be blind.
    pub(crate) async fn emit_found_by(&self, word: &str, events: i64) {
        let before = self.found_by().await;
        for _ in 0..events {
            self.emit(1).await;
            self.exactly_once_soon().await;
        }
        let mut found = self.found_by().await;
        found.retain(|by, events| {
            *events -= before.get(by).copied().unwrap_or(0);
            *events > 0
        });
        let looks = found.remove("look").unwrap_or(0);
        assert_eq!(found, BTreeMap::from([(word.to_owned(), events - looks)]), "and {looks} by looks");
        assert!(looks < events);
    }

    /// Events of `iu` by what made the dispatcher look.
    pub(crate) async fn found_by(&self) -> BTreeMap<String, i64> {
        let query = "select found_by, sum(events)::bigint from dispatch_pass
                      where event_domain = 'iu' and events > 0 group by found_by";
        let rows = self.client.query(query, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

/// One statement with so many events of a domain, in whatever transaction the client is.
pub(crate) async fn emit(client: &Client, domain: &str, events: i32) {
    let insert =
        "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, event_subject_ref)
                  select $1, 'happened', 'update', 'immediate', 'ref-' || n from generate_series(1, $2) n";
    client.execute(insert, &[&domain, &events]).await.unwrap();
}
