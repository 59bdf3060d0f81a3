//! Events of `iu` from an hour ago that dispatch has read, and a consumer `k` that came after them.

use serde_json::{Value, json};

use crate::support::{Outbox, TestDb};

/// What is counted alike in a dry run and a real one.
pub(super) const COUNTS: [&str; 8] =
    ["looked", "events", "expected", "made", "present", "not_matching", "without_job", "errors"];

pub(super) struct Stage {
    pub(super) outbox: Outbox,
}

impl Stage {
    /// With so many events, and `k` with other columns.
    pub(super) async fn new(events: i32, columns: Value) -> Self {
        let stage = Self { outbox: Outbox::open().await };
        stage.past("iu", "happened", events, "{}").await;
        stage.closed().await;
        stage.outbox.consumer("k", "iu", columns).await;
        stage
    }

    /// More events of an hour ago, ten a second, each with this payload.
    pub(super) async fn past(&self, domain: &str, event_type: &str, events: i32, payload: &str) {
        self.run(&format!(
            "insert into event_outbox (event_domain, event_type, event_stream, delivery_lane, event_subject_ref, safe_payload, created_at)
             select '{domain}', '{event_type}', 'update', 'immediate', '{event_type}-' || n, '{payload}',
               date_trunc('second', clock_timestamp()) - interval '1 hour' + n * interval '0.1 seconds'
             from generate_series(1, {events}) n"
        ))
        .await;
    }

    /// A sweep and the passes: what there is, is closed.
    pub(super) async fn closed(&self) {
        self.outbox.answer("fn_event_sweep(p_margin => interval '0')").await;
        self.outbox.drain(1000).await;
    }

    pub(super) async fn run(&self, statements: &str) {
        let done = self.outbox.client.batch_execute(statements).await;
        done.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    pub(super) async fn count(&self, query: &str) -> i64 {
        self.outbox.count(query).await
    }

    /// Jobs that `k` has.
    pub(super) async fn jobs(&self) -> i64 {
        self.count("select count(*) from job_queue where consumer_key = 'k'").await
    }

    /// Begins a run of `k` until half an hour ago; `rest` are more arguments.
    pub(super) async fn begin(&self, mode: &str, rest: &str) -> Value {
        let call = format!(
            "fn_consumer_{mode}('k', p_until => date_trunc('minute', clock_timestamp()) - interval '30 minutes', \
             p_dry_run => false, p_reason => 'a test'{rest})"
        );
        self.outbox.answer(&call).await
    }

    /// Goes on until it ends, is paused or must wait.
    pub(super) async fn finish(&self, mut run: Value) -> Value {
        while run["status"] == "running" && run.get("waiting").is_none() && run.get("wait_seconds").is_none()
        {
            run = self.step(&run, "").await;
        }
        run
    }

    /// One batch; `rest` are more arguments.
    pub(super) async fn step(&self, run: &Value, rest: &str) -> Value {
        let id = run["backfill_id"].as_str().unwrap_or_else(|| panic!("{run}"));
        self.outbox.answer(&format!("fn_consumer_backfill_step('{id}'{rest})")).await
    }

    pub(super) async fn set_status(&self, run: &Value, status: &str, rest: &str) -> Value {
        let id = run["backfill_id"].as_str().unwrap();
        self.outbox
            .answer(&format!("fn_consumer_backfill_move('{id}', '{status}', 'test', 'a test'{rest})"))
            .await
    }

    /// Begins and finishes.
    pub(super) async fn real(&self, mode: &str, rest: &str) -> Value {
        let first = self.begin(mode, rest).await;
        assert_eq!(first["refused"], json!(false), "{first}");
        self.finish(first).await
    }

    /// The dry run of the same, page by page, summed up.
    pub(super) async fn dry(&self, mode: &str, rest: &str) -> Value {
        let mut sums = [0; COUNTS.len()];
        let mut after = "null".to_owned();
        loop {
            let call = format!(
                "fn_consumer_{mode}('k', p_until => date_trunc('minute', clock_timestamp()) - interval '30 minutes', \
                 p_after => {after}{rest})"
            );
            let page = self.outbox.answer(&call).await;
            assert_eq!((&page["refused"], &page["dry_run"]), (&json!(false), &json!(true)), "{page}");
            for (sum, name) in sums.iter_mut().zip(COUNTS) {
                *sum += page[name].as_i64().unwrap_or_else(|| panic!("{name}: {page}"));
            }
            if page["next"].is_null() {
                return COUNTS.iter().zip(sums).map(|(name, sum)| ((*name).to_owned(), json!(sum))).collect();
            }
            after = format!("'{}'", page["next"]);
        }
    }

    pub(super) fn db(&self) -> &TestDb {
        &self.outbox.db
    }
}

/// The counts of a real run, to be compared with those of a dry one.
pub(super) fn counts(run: &Value) -> Value {
    COUNTS.iter().map(|name| ((*name).to_owned(), run[*name].clone())).collect()
}
