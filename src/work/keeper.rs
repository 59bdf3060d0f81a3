//! Keeps what the worker holds: beats also when idle or gated, renews leases at a third of their length, says of long
//! runs that they are in progress, asks which of them are cancelled, and reads anew which kinds there are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::board::Due;
use super::name;
use super::shared::Shared;
use super::stop::StopReason;
use super::waker::Waker;
use crate::backoff::Backoff;
use crate::error::Result;
use crate::model::refusal::Answer;
use crate::postgres::pool::hand_back;
use crate::store;
use crate::store::work::{Answers, Leases};

/// Keeps until it is aborted. The executor has been registered just now.
pub(super) async fn run(shared: Arc<Shared>, waker: Arc<Waker>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut next_beat = Instant::now() + shared.cadence;
    let mut next_look = Instant::now() + shared.cancel_look;
    let mut changed = false;
    loop {
        let due = shared.board.due(Instant::now());
        let runs = shared.board.long_runs();
        let next = due.next.map_or(next_beat, |next| next.min(next_beat));
        let next = if runs.is_empty() { next } else { next.min(next_look) };
        let beats = Instant::now() >= next_beat;
        let looks = !runs.is_empty() && (changed || Instant::now() >= next_look);
        if let Err(error) = keep(&shared, &waker, Turn { due, runs, looks, beats, changed }).await {
            shared.outage.failed(&shared.stats, &error);
            tokio::time::sleep(backoff.next_delay()).await;
            continue;
        }
        backoff.reset();
        if looks || Instant::now() >= next_look {
            next_look = Instant::now() + shared.cancel_look;
        }
        if beats {
            if shared.taken_over.load(Ordering::Relaxed) {
                waker.look(); // the claimer ends it
            }
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

/// What there is to do.
struct Turn {
    due: Due,
    /// Runs that have lasted for a while.
    runs: Vec<Uuid>,
    /// Whether to ask which of them are cancelled.
    looks: bool,
    beats: bool,
    /// Somebody announced a change.
    changed: bool,
}

/// What is due now, if anything: leases first, as the rest can wait longer; an error of one step does not keep the
/// others from their turn. Kinds are read at every beat, and when a change was announced.
async fn keep(shared: &Shared, waker: &Waker, turn: Turn) -> Result<()> {
    let Turn { due, runs, looks, beats, changed } = turn;
    let renewed = if due.renew.is_empty() { Ok(()) } else { renew(shared, due.renew).await };
    let started = if due.start.is_empty() { Ok(()) } else { start(shared, due.start).await };
    let beaten = if beats { name::beat(shared).await } else { Ok(()) };
    let looked = if looks { look(shared, runs).await } else { Ok(()) };
    renewed.and(started).and(beaten).and(looked)?;
    if (beats || changed) && shared.read_kinds().await? {
        waker.look();
    }
    name::tell_kinds(shared).await
}

async fn start(shared: &Shared, jobs: Vec<(Uuid, i64)>) -> Result<()> {
    let client = shared.server.take(&shared.control).await?;
    let leases = Leases::from_iter(jobs);
    let start = store::work::start(&client, &leases);
    let outcome = shared.server.in_time(1, "starting jobs", start).await;
    let answers = hand_back(client, outcome)?;
    let told = Told::of(answers);
    shared.board.told(told.done);
    shared.board.lost(&told.lost);
    shared.board.busy(told.busy);
    Ok(())
}

async fn look(shared: &Shared, runs: Vec<Uuid>) -> Result<()> {
    let client = shared.server.take(&shared.control).await?;
    let looked = store::work::cancellations(&client, &runs);
    let outcome = shared.server.in_time(1, "looking for cancellations", looked).await;
    let cancelled = hand_back(client, outcome)?;
    shared.board.stop(Some(&cancelled), StopReason::CancelRequested);
    Ok(())
}

async fn renew(shared: &Shared, jobs: Vec<(Uuid, i64)>) -> Result<()> {
    let client = shared.server.take(&shared.control).await?;
    let begun = Instant::now();
    let leases = Leases::from_iter(jobs);
    let renew = store::work::renew(&client, &leases, shared.lease());
    let outcome = shared.server.in_time(1, "renewing leases", renew).await;
    let (answers, lease) = hand_back(client, outcome)?;
    let told = Told::of(answers);
    shared.board.renewed(told.done, lease, begun);
    shared.board.lost(&told.lost);
    shared.board.stop(Some(&told.cancelled), StopReason::CancelRequested);
    shared.board.busy(told.busy);
    Ok(())
}

/// Which jobs got which answer.
#[derive(Default)]
struct Told {
    done: Vec<Uuid>,
    /// Their leases are somebody else's.
    lost: Vec<Uuid>,
    /// Of those done: somebody wishes them to end.
    cancelled: Vec<Uuid>,
    /// Somebody else has locked their rows.
    busy: Vec<Uuid>,
}

impl Told {
    fn of(answers: Answers) -> Self {
        let mut told = Self::default();
        for (id, answer) in answers {
            match answer {
                None => told.busy.push(id),
                Some(Answer::Refused(_)) => told.lost.push(id),
                Some(Answer::Done(answer)) => {
                    told.done.push(id);
                    if answer.get("cancel_requested").and_then(Value::as_bool) == Some(true) {
                        told.cancelled.push(id);
                    }
                }
            }
        }
        told
    }
}
