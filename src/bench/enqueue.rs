//! `bench enqueue`: jobs through `fn_job_enqueue_many`, beside a bare INSERT of the same rows.
//!
//! One connection, one transaction a batch, the same documents both ways. The limit is one plain INSERT of them into a
//! table that is made like `job_queue`, with the same indexes, checks and triggers: no gates, duplicates or answers.

use std::time::{Duration, Instant};

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
        sql::make_twin(&client).await?;
        sql::checkpoint(&client).await?;
        let taken = round_of(&client, &batches).await?;
        let rate = ratio(number(taken.created), taken.ours.as_secs_f64());
        let limit = ratio(number(taken.inserted), taken.bare.as_secs_f64());
        tell(&format!("enqueued: {rate:.0} jobs/s, bare INSERT: {limit:.0}"));
        rates.push(rate);
        limits.push(limit);
        report.check(format!("round {round}: jobs that were created"), jobs.into(), taken.created);
        report.check(format!("round {round}: rows of the limit"), jobs.into(), taken.inserted);
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

/// What one round did, and how long each way took.
#[derive(Default)]
struct Round {
    created: i64,
    ours: Duration,
    inserted: i64,
    bare: Duration,
}

/// Each batch goes both ways, one after the other, so that whatever disturbs one disturbs the other.
async fn round_of(client: &Object, batches: &[Value]) -> Result<Round> {
    let mut round = Round::default();
    for batch in batches {
        let begun = Instant::now();
        round.created += sql::enqueue_many(client, batch).await?;
        round.ours += begun.elapsed();
        let begun = Instant::now();
        round.inserted += sql::insert_bare(client, batch).await?;
        round.bare += begun.elapsed();
    }
    Ok(round)
}
