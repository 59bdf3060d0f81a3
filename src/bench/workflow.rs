//! `bench workflow`: one worker with a Rust handler drains workflows of six steps, each after the one before it.
//!
//! The limit is the same worker with as many jobs that belong to no workflow, in turns on the same table. Nothing else is
//! taken away: the difference is what edges, freeing and settling cost. A chain is the worst case: every step but the first
//! of each has to be freed.

use std::time::Instant;

use deadpool_postgres::Object;

use super::crew::drain;
use super::report::{Report, median, number, ratio};
use super::stage::Stage;
use super::{Options, Tell};
use crate::error::Result;
use crate::store::bench as sql;

const STEPS: u32 = 6;
const JOBS: u32 = 10_000 * STEPS;
/// Workflows that are emitted by one statement.
const BATCH: u32 = 100;
const ROUNDS: u32 = 3;
const KIND: &str = "bench.nothing";
/// Steps of a graph that must be there at once, and how many such graphs are emitted.
const NODES: u32 = 1000;
const LARGE: u32 = 10;

pub(super) async fn run(options: &Options, tell: Tell<'_>) -> Result<Report> {
    let settings = [("max_wal_size", "8GB"), ("checkpoint_timeout", "30min")];
    let stage = Stage::begin(options, &settings, tell).await?;
    let outcome = measure(&stage, options, tell).await;
    stage.end().await?;
    outcome
}

async fn measure(stage: &Stage, options: &Options, tell: Tell<'_>) -> Result<Report> {
    let client = stage.client().await?;
    let mut report = Report::new("workflow", sql::facts(&client).await?);
    let workflows = (options.jobs.unwrap_or(JOBS) / STEPS).max(1);
    let jobs = i64::from(workflows * STEPS);
    sql::add_consumer(&client, "bench_workflow", "*", KIND).await?; // which makes the kind known
    sql::put_chain(&client, KIND, STEPS).await?;
    let (mut emits, mut plain, mut flows) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=options.rounds.unwrap_or(ROUNDS) {
        sql::empty_workflows(&client).await?;
        sql::fill_jobs(&client, KIND, jobs).await?;
        sql::settle_jobs(&client).await?;
        plain.push(drain(stage, KIND, jobs).await?);
        sql::empty_workflows(&client).await?;
        emits.push(emit(&client, STEPS, workflows).await?);
        sql::settle_jobs(&client).await?;
        flows.push(drain(stage, KIND, jobs).await?);
        let [.., rate] = flows.as_slice() else { continue };
        tell(&format!("steps: {rate:.0} jobs/s, plain: {:.0}", plain.last().copied().unwrap_or_default()));
        report.check(
            format!("round {round}: workflows that succeeded"),
            workflows.into(),
            sql::finished(&client).await?,
        );
        report.check(format!("round {round}: steps that succeeded"), jobs, sql::succeeded(&client).await?.0);
    }
    sql::put_chain(&client, KIND, NODES).await?;
    let large = emit(&client, NODES, LARGE).await?;
    report.figure(format!("emitted, {STEPS} steps each"), median(&emits), "workflows/s");
    report.figure("one worker, plain jobs", median(&plain), "jobs/s");
    report.figure(format!("one worker, workflows of {STEPS} steps"), median(&flows), "jobs/s");
    report.at_most(format!("a workflow of {NODES} steps, emitted, s"), ratio(1.0, large), 1.0);
    report.at_least("steps / plain jobs", ratio(median(&flows), median(&plain)), 0.6);
    Ok(report)
}

/// Workflows a second.
async fn emit(client: &Object, steps: u32, workflows: u32) -> Result<f64> {
    let begun = Instant::now();
    for first in (0..workflows).step_by(usize::try_from(BATCH).unwrap_or(usize::MAX)) {
        sql::emit_chains(client, steps, first.into(), BATCH.min(workflows - first).into()).await?;
    }
    Ok(ratio(number(workflows.into()), begun.elapsed().as_secs_f64()))
}
