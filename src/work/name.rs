//! The name that a worker claims under: registered before the first claim, beaten for, left at the end; and what becomes of
//! two processes that want the same.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::shared::Shared;
use crate::backoff::Backoff;
use crate::error::{Error, Kind, Result};
use crate::host;
use crate::model::refusal::{Answer, Refusal};
use crate::postgres::pool::hand_back;
use crate::shutdown::Shutdown;
use crate::store;
use crate::store::heartbeats::Registration;

/// Between two tries while another process has the name.
const PREDECESSOR: Duration = Duration::from_secs(1);

/// Registers the name and reads what kinds there are; tries until the database answers, and until no other process has
/// the name. False: told to stop.
pub(super) async fn begin(shared: &Shared, shutdown: &Shutdown) -> Result<bool> {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    let mut told = false;
    loop {
        let mut pause = backoff.next_delay();
        match introduce(shared).await {
            Ok(None) => return Ok(true),
            Ok(Some(alive)) => {
                if !std::mem::replace(&mut told, true) {
                    tell_predecessor(shared, &alive);
                }
                pause = PREDECESSOR;
            }
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => shared.outage.failed(&shared.stats, &error),
        }
        if !shutdown.pause(pause).await {
            return Ok(false);
        }
    }
}

/// As [`begin`], once; a refusal because another process beats under the name is an answer.
pub(super) async fn introduce(shared: &Shared) -> Result<Option<Refusal>> {
    match register(shared).await? {
        Answer::Refused(refusal) if refusal.reason == "executor_alive" => return Ok(Some(refusal)),
        answer => answer.done(&format!("registering {}", shared.beater.name))?,
    };
    shared.read_kinds().await?;
    tell_kinds(shared).await?;
    shared.outage.passed();
    Ok(None)
}

/// The other process may live, or be gone without a word.
fn tell_predecessor(shared: &Shared, alive: &Refusal) {
    let until = alive.answer.get("stale_at").and_then(Value::as_str).unwrap_or("it is stale");
    tracing::warn!(
        executor = %shared.beater.name,
        hint = "if it is gone: --takeover does not wait",
        "another process beats under this name: waiting until it ends, or {until}"
    );
}

/// Registers the name, with a beat. Whatever the database knew of its kinds is told anew.
async fn register(shared: &Shared) -> Result<Answer> {
    shared.kinds_told.store(false, Ordering::Relaxed);
    let client = shared.server.take(&shared.control).await?;
    let metadata = json!({
        "role": "worker",
        "version": env!("CARGO_PKG_VERSION"),
        "host": host::name(),
        "pid": std::process::id(),
        "concurrency": shared.settings.concurrency,
    });
    let registration = Registration {
        kind: shared.settings.kind,
        cadence: shared.cadence,
        metadata: &metadata,
        takeover: shared.takeover,
    };
    let register = store::heartbeats::register(&client, &shared.beater, registration);
    let outcome = shared.server.in_time(1, "registering", register).await;
    hand_back(client, outcome)
}

/// Somebody has forgotten the name meanwhile.
pub(super) async fn register_again(shared: &Shared) -> Result<()> {
    let answer = register(shared).await?;
    answer.done(&format!("registering {}", shared.beater.name))?;
    tell_kinds(shared).await
}

/// Says of which kinds of jobs to tell this worker by name, unless it has been said. A refusal is the next beat's to mend.
pub(super) async fn tell_kinds(shared: &Shared) -> Result<()> {
    if !shared.listens || shared.kinds_told.load(Ordering::Relaxed) {
        return Ok(());
    }
    let client = shared.server.take(&shared.control).await?;
    let kinds = shared.kinds.names();
    let tell = store::wakes::wakes_for(&client, &shared.beater, &kinds);
    let outcome = shared.server.in_time(1, "announcing kinds", tell).await;
    hand_back(client, outcome)?;
    shared.kinds_told.store(true, Ordering::Relaxed);
    Ok(())
}

/// One beat; a name that is not known any more is registered anew.
pub(super) async fn beat(shared: &Shared) -> Result<()> {
    let client = shared.server.take(&shared.control).await?;
    let beat = store::heartbeats::tick(&client, &shared.beater, shared.board.current());
    let outcome = shared.server.in_time(1, "beating", beat).await;
    if let Answer::Refused(refusal) = hand_back(client, outcome)? {
        if refusal.reason == "executor_not_registered" {
            return register_again(shared).await;
        }
        // somebody else has the name now: whoever goes on under it would hide the other's silence
        shared.taken_over.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// What ends a worker whose name somebody else has now.
pub(super) fn taken_over(shared: &Shared) -> Error {
    let name = &shared.beater.name;
    Error::new(Kind::Refused, format!("another process has taken over the name {name}"))
        .hint("give each worker a name of its own, or none: then it makes one up")
}

/// Says goodbye: the name is free for another process, or is taken from the list of those that must beat.
pub(super) async fn leave(shared: &Shared, forget: bool, deadline: Duration) {
    let beater = &shared.beater;
    let leave = async {
        let client = shared.server.take(&shared.control).await?;
        if forget {
            store::heartbeats::retire(&client, beater).await
        } else {
            store::heartbeats::leave(&client, beater).await
        }
    };
    if let Ok(Err(error)) = timeout(deadline, leave).await {
        tracing::debug!("{} stays registered: {error}", beater.name);
    }
}

/// Whether trying again cannot help.
pub(super) fn is_fatal(error: &Error) -> bool {
    matches!(error.kind(), Kind::Usage | Kind::Denied | Kind::Schema | Kind::Refused)
}
