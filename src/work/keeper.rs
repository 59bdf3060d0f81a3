//! Keeps what the worker holds: beats also when idle or gated, renews leases at a third of their length, says of long
//! runs that they are in progress, and reads anew which kinds there are.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::board::Due;
use super::shared::Shared;
use super::stop::StopReason;
use super::waker::Waker;
use crate::backoff::Backoff;
use crate::error::Result;
use crate::host;
use crate::model::refusal::Answer;
use crate::postgres::pool::hand_back;
use crate::store;
use crate::store::work::{Answers, Leases};

/// Keeps until it is aborted. The executor has been registered just now.
pub(super) async fn run(shared: Arc<Shared>, waker: Arc<Waker>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut next_beat = Instant::now() + shared.cadence;
    let mut changed = false;
    loop {
        let due = shared.board.due(Instant::now());
        let next = due.next.map_or(next_beat, |next| next.min(next_beat));
        let beats = Instant::now() >= next_beat;
        if let Err(error) = keep(&shared, &waker, due, beats, changed).await {
            shared.outage.failed(&shared.stats, &error);
            tokio::time::sleep(backoff.next_delay()).await;
            continue;
        }
        backoff.reset();
        if beats {
            next_beat = Instant::now() + shared.cadence;
            changed = false;
            continue;
        }
        if shared.board.give_back_stalled() > 0 {
            tracing::info!("giving back what waits behind long runs");
        }
        changed = tokio::select! {
            () = waker.control() => true,
            () = shared.board.added() => false,
            () = tokio::time::sleep_until(next) => false,
        };
    }
}

/// What is due now, if anything. Kinds are read at every beat, and when a change was announced.
async fn keep(shared: &Shared, waker: &Waker, due: Due, beats: bool, changed: bool) -> Result<()> {
    if !due.start.is_empty() {
        start(shared, due.start).await?;
    }
    if !due.renew.is_empty() {
        renew(shared, due.renew).await?;
    }
    if beats {
        beat(shared).await?;
    }
    if (beats || changed) && shared.read_kinds().await? {
        waker.look();
    }
    Ok(())
}

async fn start(shared: &Shared, jobs: Vec<(Uuid, i64)>) -> Result<()> {
    let client = shared.server.take(&shared.control).await?;
    let leases = Leases::from_iter(jobs);
    let start = store::work::start(&client, &leases);
    let outcome = shared.server.in_time(1, "starting jobs", start).await;
    let answers = hand_back(client, outcome)?;
    let (done, lost, _) = told(answers);
    shared.board.told(done);
    shared.board.lost(&lost);
    Ok(())
}

async fn renew(shared: &Shared, jobs: Vec<(Uuid, i64)>) -> Result<()> {
    let client = shared.server.take(&shared.control).await?;
    let begun = Instant::now();
    let leases = Leases::from_iter(jobs);
    let renew = store::work::renew(&client, &leases, shared.lease());
    let outcome = shared.server.in_time(1, "renewing leases", renew).await;
    let (answers, lease) = hand_back(client, outcome)?;
    let (done, lost, cancelled) = told(answers);
    shared.board.renewed(done, lease, begun);
    shared.board.lost(&lost);
    shared.board.stop(Some(&cancelled), StopReason::CancelRequested);
    Ok(())
}

/// Ids: done, lease lost, and done with a wish to cancel.
fn told(answers: Answers) -> (Vec<Uuid>, Vec<Uuid>, Vec<Uuid>) {
    let (mut done, mut lost, mut cancelled) = (Vec::new(), Vec::new(), Vec::new());
    for (id, answer) in answers {
        match answer {
            Answer::Refused(_) => lost.push(id),
            Answer::Done(answer) => {
                done.push(id);
                if answer.get("cancel_requested").and_then(Value::as_bool) == Some(true) {
                    cancelled.push(id);
                }
            }
        }
    }
    (done, lost, cancelled)
}

/// One beat; a name that is not known any more is registered anew.
pub(super) async fn beat(shared: &Shared) -> Result<()> {
    let client = shared.server.take(&shared.control).await?;
    let beat = store::heartbeats::tick(&client, &shared.name, shared.board.current());
    let outcome = shared.server.in_time(1, "beating", beat).await;
    if let Answer::Refused(refusal) = hand_back(client, outcome)? {
        if refusal.reason == "executor_not_registered" {
            return register(shared).await.map(|_| ());
        }
        tracing::warn!(executor = %shared.name, "the heartbeat was refused: {}", refusal.reason);
    }
    Ok(())
}

/// Registers the executor's name, with a beat.
pub(super) async fn register(shared: &Shared) -> Result<Answer> {
    let client = shared.server.take(&shared.control).await?;
    let metadata = json!({
        "role": "worker",
        "version": env!("CARGO_PKG_VERSION"),
        "host": host::name(),
        "pid": std::process::id(),
        "concurrency": shared.settings.concurrency,
    });
    let kind = shared.settings.kind;
    let register = store::heartbeats::register(&client, &shared.name, kind, shared.cadence, &metadata);
    let outcome = shared.server.in_time(1, "registering", register).await;
    hand_back(client, outcome)
}
