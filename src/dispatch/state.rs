//! What the dispatcher's loop remembers from one turn to the next.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::domain::{Domain, Drained};
use crate::backoff::Backoff;
use crate::error::Result;
use crate::model::pass::FoundBy;
use crate::model::refusal::{Answer, remedy};

/// What a future of the loop ended with.
pub(super) enum Done {
    Drained(Box<Domain>, Result<Drained>),
    Polled(Result<Answer>),
}

/// What the loop remembers.
pub(super) struct State {
    /// Domains at rest; a domain that is being drained is away.
    pub(super) resting: BTreeMap<String, Box<Domain>>,
    /// Domains to look at as soon as there is room.
    pub(super) waiting: BTreeMap<String, FoundBy>,
    pub(super) running: FuturesUnordered<BoxFuture<'static, Done>>,
    pub(super) polling: bool,
    pub(super) next_poll: Instant,
    pub(super) backoff: Backoff,
    /// Positions must be checked before the next look: at start, and after an outage.
    pub(super) unattached: bool,
    pub(super) in_outage: bool,
    pub(super) closed: Option<String>,
}

impl State {
    /// Logs a gate when it closes and when it opens, not in between.
    pub(super) fn gate(&mut self, reason: Option<String>) {
        if self.closed == reason {
            return;
        }
        if let Some(reason) = &reason {
            tracing::warn!(
                gate.reason = %reason,
                "dispatch is refused, positions stay where they are: {}",
                remedy(reason).unwrap_or("see the contract's reasons")
            );
        } else {
            tracing::info!("dispatch is open");
        }
        self.closed = reason;
    }
}
