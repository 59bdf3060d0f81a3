//! `bench enqueue`: jobs through `fn_job_enqueue_many`, beside a bare INSERT of the same rows.
//!
//! One connection, one transaction a batch, the same documents both ways. The limit is one plain INSERT of them into a
//! table that is made like `job_queue`, with the same indexes, checks and triggers: no gates, duplicates or answers.

use std::time::Instant;

use deadpool_postgres::Object;
use serde_json::{Value, json};

use super::report::{Report, median, number, ratio};
use super::stage::Stage;
use super::{Options, Tell};
use crate::error::Result;
use crate::store::bench as sql;

const JOBS: u32 = 50_000;
const BATCH: u32 = 1000;
const ROUNDS: u32 = 5;
const KIND: &str = "bench.enqueue";

pub(super) async fn run(options: &Options, tell: Tell<'_>) -> Result<Report> {
    let settings =
        [("max_wal_size", "8GB"), ("checkpoint_timeout", "30min"), ("autovacuum_naptime", "10min")];
    let stage = Stage::begin(options, &settings, tell).await?;
    let outcome = measure(&stage, options, tell).await;
    stage.end().await?;
    outcome
}

async fn measure(stage: &Stage, options: &Options, tell: Tell<'_>) -> Result<Report> {
    let client = stage.client().await?;
    let mut report = Report::new("enqueue", sql::facts(&client).await?);
    let (jobs, batch) = (options.jobs.unwrap_or(JOBS), options.batch.unwrap_or(BATCH));
    let batches = documents(jobs, batch);
    let (mut limits, mut rates) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds.unwrap_or(ROUNDS) {
        sql::empty(&client).await?;
        sql::checkpoint(&client).await?;
        let (rate, created) = enqueue(&client, &batches).await?;
        tell(&format!("enqueued: {rate:.0} jobs/s"));
        rates.push(rate);
        sql::make_twin(&client).await?;
        sql::checkpoint(&client).await?;
        let (limit, inserted) = bare(&client, &batches).await?;
        tell(&format!("bare INSERT: {limit:.0} rows/s"));
        limits.push(limit);
        report.check(format!("round {round}: jobs that were created"), jobs.into(), created);
        report.check(format!("round {round}: rows of the limit"), jobs.into(), inserted);
    }
    report.figure(format!("bare INSERT of {batch} rows"), median(&limits), "rows/s");
    report.figure(format!("fn_job_enqueue_many of {batch} jobs"), median(&rates), "jobs/s");
    report.at_least("enqueue / bare insert", ratio(median(&rates), median(&limits)), 0.8);
    Ok(report)
}

/// The jobs, as a producer sends them.
fn documents(jobs: u32, batch: u32) -> Vec<Value> {
    let job = |n: &u32| {
        json!({
            "job_kind": KIND,
            "actor": "bench",
            "idempotency_key": n.to_string(),
            "source_ref": format!("subject-{n}"),
            "safe_payload": { "n": n },
        })
    };
    let all: Vec<u32> = (1..=jobs).collect();
    let batch = usize::try_from(batch).unwrap_or(usize::MAX);
    all.chunks(batch).map(|chunk| Value::Array(chunk.iter().map(job).collect())).collect()
}

async fn enqueue(client: &Object, batches: &[Value]) -> Result<(f64, i64)> {
    let begun = Instant::now();
    let mut created = 0;
    for batch in batches {
        created += sql::enqueue_many(client, batch).await?;
    }
    Ok((ratio(number(created), begun.elapsed().as_secs_f64()), created))
}

async fn bare(client: &Object, batches: &[Value]) -> Result<(f64, i64)> {
    let begun = Instant::now();
    let mut inserted = 0;
    for batch in batches {
        inserted += sql::insert_bare(client, batch).await?;
    }
    Ok((ratio(number(inserted), begun.elapsed().as_secs_f64()), inserted))
}
