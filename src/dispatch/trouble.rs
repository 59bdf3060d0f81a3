//! What becomes of errors: those that may pass are told once and waited out, any other ends the run.
//!
//! Trouble with the server stops everything but the timer's poll, until a turn succeeds again. Trouble with one
//! domain (a lock, a full disk, a failing trigger of the host) holds that domain back; the others go on.

use std::time::Duration;

use super::state::State;
use super::stats::DispatchStats;
use crate::backoff::Trouble;
use crate::error::{Error, Kind, Result};
use crate::latch::Latch;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Tells of trouble, in the log, the latch and the counter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Teller<'a> {
    pub(super) database: &'a str,
    pub(super) latch: &'a Latch,
    pub(super) stats: &'a DispatchStats,
}

impl Teller<'_> {
    /// `name` is the domain that had its turn; none when the poll failed.
    pub(super) fn failed(self, state: &mut State, name: Option<&str>, error: Error) -> Result<()> {
        if matches!(error.kind(), Kind::Denied | Kind::Schema | Kind::Usage) {
            return Err(error);
        }
        state.probing = false;
        state.unattached = true; // it may be that a dump was restored under us
        let of_domain = name.filter(|_| !is_of_server(&error));
        let trouble = match of_domain {
            Some(name) => state.held.entry(name.to_owned()).or_insert_with(|| self.begin()),
            None => state.outage.get_or_insert_with(|| self.begin()),
        };
        if trouble.failed(error.sort()) {
            let database = self.database;
            tracing::error!(database, domain = of_domain, "{}", error.trying_again());
            self.latch.clear(error.to_string());
        }
        let next_try = trouble.next_try().into();
        match of_domain {
            Some(name) => state.wait_until(name, next_try),
            None => state.next_poll = next_try,
        }
        Ok(())
    }

    /// A domain had its turn: the server takes work, and of this domain, too.
    pub(super) fn succeeded(self, state: &mut State, name: &str) {
        if let Some(trouble) = state.outage.take() {
            state.probing = false;
            let lasted = humantime::format_duration(trouble.lasted());
            tracing::info!(database = self.database, "the database can be used again, after {lasted}");
        }
        if let Some(trouble) = state.held.remove(name) {
            let lasted = humantime::format_duration(trouble.lasted());
            tracing::info!(database = self.database, domain = name, "domain {name} goes on, after {lasted}");
        }
        if state.held.is_empty() && !self.latch.is_set() {
            self.latch.set("");
        }
    }

    fn begin(self) -> Trouble {
        self.stats.outage();
        Trouble::begin(FIRST_PAUSE, LONGEST_PAUSE)
    }
}

/// Whether every other domain would meet the same: no answer, no connection, or no writing.
fn is_of_server(error: &Error) -> bool {
    match error.kind() {
        Kind::Unreachable => true,
        Kind::Timeout => error.sqlstate().is_none(),
        _ => error.sqlstate() == Some("53300"),
    }
}
