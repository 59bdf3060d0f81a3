//! Whether the process is ready: the components' latches, and the listener as its status says.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::latch::{Readiness, Standing};
use crate::postgres::listener::{ListenerState, ListenerStatus};

/// Where readiness is read from. Cloning is cheap.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    pub(super) readiness: Readiness,
    pub(super) listener: Option<Arc<ListenerStatus>>,
}

/// The answer of `/ready`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) ready: bool,
    missing: Vec<&'static str>,
    latches: Vec<Standing>,
}

impl Ready {
    /// Every component as it stands now.
    pub(super) fn standings(&self) -> Vec<Standing> {
        let mut standings = self.readiness.standings();
        standings.push(listening(self.listener.as_deref().map(ListenerStatus::state)));
        standings
    }

    pub(super) fn report(&self) -> Report {
        let latches = self.standings();
        let missing: Vec<_> = latches.iter().filter(|one| !one.ready).map(|one| one.latch).collect();
        Report { ready: missing.is_empty(), missing, latches }
    }
}

/// Where polling was chosen, or is all that a pooler lets through, it is enough: nothing gets lost, only later.
fn listening(state: Option<ListenerState>) -> Standing {
    let (ready, words) = match state {
        None => (true, "poll-only: [dispatch] listen = false"),
        Some(ListenerState::Listening) => (true, "listening"),
        Some(ListenerState::PoolerSuspected) => {
            (true, "poll-only: notifications do not come through, as behind a transaction pooler")
        }
        Some(ListenerState::Connecting) => (false, "no connection to listen on; polling goes on"),
        Some(ListenerState::Stopped) => (false, "stopped"),
    };
    Standing { latch: "listener", ready, words: words.into() }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ready {
            writeln!(f, "ready\n")?;
        } else {
            writeln!(f, "not ready: {}\n", self.missing.join(", "))?;
        }
        for Standing { latch, ready, words } in &self.latches {
            let word = if *ready { "ready" } else { "missing" };
            writeln!(f, "{}", format_args!("{word:<8} {latch:<12} {words}").to_string().trim_end())?;
        }
        Ok(())
    }
}
