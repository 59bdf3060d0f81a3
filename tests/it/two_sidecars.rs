//! Two sidecars at once, killed at random: exactly one job for each event and consumer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Outbox, Program, Sidecar, emit, listening, polling, woken};

/// A number that looks random and is the same in every run: xorshift.
struct Dice(u32);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % sides
    }
}

/// Transactions of all sorts until told to stop: small, large, late, rolled back in part or as a whole.
async fn produce(outbox: &Outbox, mut dice: Dice, stop: &AtomicBool) {
    let client = outbox.db.client().await;
    while !stop.load(Ordering::Relaxed) {
        let levels = ["read committed", "repeatable read", "serializable"];
        let level = levels[dice.roll(3) as usize];
        client.batch_execute(&format!("begin isolation level {level}")).await.unwrap();
        for _ in 0..=dice.roll(3) {
            emit(&client, "iu", i32::try_from(dice.roll(8)).unwrap()).await;
            if dice.roll(4) == 0 {
                client.batch_execute("savepoint s").await.unwrap();
                emit(&client, "iu", 2).await;
                client.batch_execute("rollback to s").await.unwrap();
            }
        }
        let late = if dice.roll(6) == 0 { f64::from(dice.roll(700)) / 1000.0 } else { 0.0 };
        let end = if dice.roll(5) == 0 { "rollback" } else { "commit" };
        client.batch_execute(&format!("select pg_sleep({late}); {end}")).await.unwrap();
        if dice.roll(10) == 0 {
            client.batch_execute("select pg_sleep(0.2)").await.unwrap(); // time to fall asleep
        }
    }
}

#[tokio::test]
async fn two_sidecars_killed_at_random_make_exactly_one_job_for_each_event_and_consumer() {
    let outbox = Outbox::with_two_consumers().await;
    let stop = AtomicBool::new(false);
    let producers = (1..=4).map(|seed| produce(&outbox, Dice(seed), &stop));
    let killer = async {
        let client = outbox.db.client().await;
        let start = || Program::run(&outbox.db.url(), &[("REVEILLE__DISPATCH__BATCH_SIZE", "20")]);
        let mut running = [start(), start()];
        listening(&client, 2).await;
        let mut dice = Dice(7);
        let end = Instant::now() + Duration::from_secs(8);
        let mut kills = 0;
        while Instant::now() < end {
            let pause = f64::from(200 + dice.roll(600)) / 1000.0;
            client.batch_execute(&format!("select pg_sleep({pause})")).await.unwrap();
            running[dice.roll(2) as usize] = start(); // the one before is killed with SIGKILL
            kills += 1;
            if dice.roll(4) == 0 {
                running = [start(), start()];
                kills += 2;
            }
        }
        assert!(kills > 5, "{kills} kills");
        stop.store(true, Ordering::Relaxed);
        running
    };
    let (_, running) = tokio::join!(futures::future::join_all(producers), killer);
    outbox.exactly_once_soon().await;
    drop(running);
    let repeated = "select coalesce(sum(duplicates), 0)::bigint from dispatch_pass";
    assert_eq!(outbox.count(repeated).await, 0, "the unique key had nothing to absorb");
    assert!(outbox.jobs().await > 500);
}

#[tokio::test]
async fn two_sidecars_share_a_stream_and_make_nothing_twice() {
    let outbox = Outbox::with_two_consumers().await;
    let mut settings = woken(&outbox.db);
    settings.dispatch.stream_gap = Duration::from_millis(100);
    let (first, second) = (Sidecar::start(settings.clone()), Sidecar::start(settings));
    listening(&outbox.client, 2).await;
    let stop = AtomicBool::new(false);
    let producers = (11..=13).map(|seed| produce(&outbox, Dice(seed), &stop));
    let timer = async {
        outbox.client.batch_execute("select pg_sleep(2)").await.unwrap();
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(futures::future::join_all(producers), timer);
    outbox.exactly_once_soon().await; // with a poll once an hour
    first.stop().await;
    outbox.emit(3).await;
    outbox.exactly_once_soon().await;
    second.stop().await;
}

#[tokio::test]
async fn one_sidecar_that_stands_still_leaves_the_work_to_the_other() {
    let outbox = Outbox::with_two_consumers().await;
    let still = Program::run(&outbox.db.url(), &[("REVEILLE__DISPATCH__POLL_INTERVAL", "1h")]);
    listening(&outbox.client, 1).await;
    still.signal("STOP");
    let other = Sidecar::start(polling(&outbox.db));
    listening(&outbox.client, 2).await;
    for _ in 0..3 {
        outbox.emit(5).await;
        outbox.exactly_once_soon().await;
    }
    still.signal("CONT");
    outbox.emit(5).await;
    outbox.exactly_once_soon().await;
    other.stop().await;
    outbox.emit(5).await;
    outbox.exactly_once_soon().await;
    drop(still);
}
