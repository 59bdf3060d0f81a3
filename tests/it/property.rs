//! Random producers, rollbacks, operators, passes and crashes against the real server, compared with a model.
//!
//! A failure prints the shortest list of things found that fails, and the seed. `REVEILLE_PROPTEST_SEED` repeats a
//! run, `REVEILLE_PROPTEST_CASES` makes it longer (24 cases take some ten seconds).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use reveille::postgres::embedded::Throwaway;
use tokio::runtime::Runtime;

use crate::support::{TestDb, connect, own_server, quiet_options};

mod compare;
mod facts;
mod model;
mod ops;
mod passes;
mod ranges;
mod storm;
mod world;
mod write;

/// Most things that happen in one case.
const LENGTH: usize = 80;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{variable}={value}")))
}

/// A runner with a seed that it prints when it fails.
fn runner(cases: u32) -> (TestRunner, u64) {
    let seed = number("REVEILLE_PROPTEST_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let cases = number("REVEILLE_PROPTEST_CASES").map_or(cases, |cases| u32::try_from(cases).unwrap());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { cases, max_shrink_iters: 400, failure_persistence: None, ..Config::default() };
    (TestRunner::new_with_rng(config, rng), seed)
}

/// A server of its own, which may be killed, and a database to copy.
struct Place {
    server: Arc<Throwaway>,
    template: TestDb,
    cases: AtomicUsize,
}

impl Place {
    async fn new() -> Self {
        let server = Arc::new(own_server(quiet_options()).await);
        let template = TestDb::on(Arc::clone(&server)).await;
        Self { server, template, cases: AtomicUsize::new(0) }
    }

    async fn case(&self, ops: &[ops::Op]) {
        let name = format!("case_{}", self.cases.fetch_add(1, Ordering::Relaxed));
        let admin = connect(&self.server.url("postgres")).await;
        // not by WAL: a copy of that kind forgets, when the server crashes, how far its sequences had come
        let strategy = if self.server.binaries().version >= 15 { " strategy file_copy" } else { "" };
        let create = format!("create database {name} template {}{strategy}", self.template.name());
        admin.batch_execute(&create).await.unwrap();
        let mut world = world::World::new(Arc::clone(&self.server), self.server.url(&name)).await;
        for op in ops {
            world.step(op).await;
        }
        world.settle().await;
        let admin = connect(&self.server.url("postgres")).await;
        admin.batch_execute(&format!("drop database {name} with (force)")).await.unwrap();
    }
}

#[test]
fn whatever_happens_each_committed_event_meets_each_consumer_exactly_once() {
    let runtime = Runtime::new().unwrap();
    let place = runtime.block_on(Place::new());
    let (mut runner, seed) = runner(24);
    let outcome = runner.run(&ops::ops(LENGTH), |ops| {
        runtime.block_on(place.case(&ops));
        Ok(())
    });
    if let Err(TestError::Fail(reason, ops)) = outcome {
        let ops: Vec<String> = ops.iter().map(|op| format!("{op:?}")).collect();
        panic!("REVEILLE_PROPTEST_SEED={seed}\n{reason}\n{}", ops.join("\n"));
    }
    outcome.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_storm_of_producers_passes_sweeps_and_kills_each_event_is_read_exactly_once() {
    let seed = number("REVEILLE_PROPTEST_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    println!("REVEILLE_PROPTEST_SEED={seed}");
    storm::rage(seed).await;
}

#[test]
fn ranges_hold_what_the_newer_snapshot_sees_and_the_older_does_not() {
    let runtime = Runtime::new().unwrap();
    let database = runtime.block_on(TestDb::new());
    let client = runtime.block_on(database.client());
    let (mut runner, seed) = runner(300);
    let outcome = runner.run(&ranges::pair(), |pair| {
        runtime.block_on(ranges::compare(&client, &pair));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("REVEILLE_PROPTEST_SEED={seed}\n{error}"));
}
