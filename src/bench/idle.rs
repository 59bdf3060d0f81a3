//! `bench idle`: what a sidecar costs while there is nothing to do.

use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio::time::sleep;

use super::child::{Cost, Sidecar};
use super::process::resident_mib;
use super::report::{Report, number, ratio};
use super::stage::Stage;
use super::{Options, Tell};
use crate::error::Result;
use crate::store::bench::{self as sql, Counting};

const LENGTH: Duration = Duration::from_mins(1);
/// Until start-up and the first sweep are over.
const SETTLE: Duration = Duration::from_secs(5);
/// Sessions report what they did within this time.
const REPORTED: Duration = Duration::from_millis(1500);

pub(super) async fn run(options: &Options, tell: Tell<'_>) -> Result<Report> {
    let settings = [("shared_preload_libraries", "pg_stat_statements")];
    let stage = match Stage::begin(options, &settings, tell).await {
        Ok(stage) => stage,
        Err(error) if options.server.is_none() => {
            tell(&format!("without pg_stat_statements, counting transactions instead ({error})"));
            Stage::begin(options, &[], tell).await?
        }
        Err(error) => return Err(error),
    };
    let outcome = measure(&stage, options, tell).await;
    stage.end().await?;
    outcome
}

async fn measure(stage: &Stage, options: &Options, tell: Tell<'_>) -> Result<Report> {
    let outside = stage.outside().await?;
    let counting = sql::count_statements(&outside).await?;
    let mut report = Report::new("idle", sql::facts(&outside).await?);
    let length = options.length.unwrap_or(LENGTH);
    let sidecar = Sidecar::start(&options.program, stage, &[]).await?;
    sleep(SETTLE).await;
    tell(&format!("doing nothing for {}", humantime::format_duration(length)));
    let before = first_look(stage, &sidecar, &outside, counting).await?;
    let begun = Instant::now();
    sleep(length).await;
    let after = last_look(stage, &sidecar, &outside, counting).await?;
    let span = begun.elapsed();
    let memory = resident_mib(sidecar.pid());
    sidecar.stop().await?;

    let (unit, name) = match counting {
        Counting::Statements => ("statements/s", "statements a second"),
        Counting::Transactions => ("transactions/s", "transactions a second"),
    };
    let rate = ratio(number(after.statements - before.statements), span.as_secs_f64());
    let cost = after.cost.since(before.cost);
    report.figure(name, rate, unit);
    report.figure("rows updated or deleted", number(after.changed - before.changed), "");
    report.figure(
        "the sidecar's process, of one core",
        cost.process.as_secs_f64() / span.as_secs_f64() * 100.0,
        "%",
    );
    if stage.is_own() {
        let sessions = cost.sessions.as_secs_f64() / span.as_secs_f64() * 100.0;
        report.figure("its sessions, of one core", sessions, "%");
    }
    report.at_most(name, rate, 1.0);
    report.at_most("dead rows", number(after.dead - before.dead), 0.0);
    report.at_most("resident memory, MiB", memory, 30.0);
    Ok(report)
}

/// Everything at one moment.
struct Look {
    statements: i64,
    dead: i64,
    changed: i64,
    cost: Cost,
}

/// The look before: what the bench itself asks within the database is over before statements are counted.
async fn first_look(stage: &Stage, sidecar: &Sidecar, outside: &Object, counting: Counting) -> Result<Look> {
    let (dead, changed) = sql::dead_rows(&stage.client().await?).await?;
    let cost = sidecar.cost(stage).await?;
    sleep(REPORTED).await;
    let statements = sql::statements(outside, counting, stage.name()).await?;
    Ok(Look { statements, dead, changed, cost })
}

/// The look after: statements are counted before the bench itself asks within the database.
async fn last_look(stage: &Stage, sidecar: &Sidecar, outside: &Object, counting: Counting) -> Result<Look> {
    let statements = sql::statements(outside, counting, stage.name()).await?;
    let cost = sidecar.cost(stage).await?;
    let (dead, changed) = sql::dead_rows(&stage.client().await?).await?;
    Ok(Look { statements, dead, changed, cost })
}
