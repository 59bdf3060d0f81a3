//! What the dispatcher's loop remembers from one turn to the next.

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tokio::time::Instant;

use super::domain::{Domain, Turn};
use crate::backoff::Trouble;
use crate::error::Result;
use crate::model::pass::FoundBy;
use crate::model::refusal::{Answer, PAUSED, remedy};

/// What a future of the loop ended with.
pub(super) enum Done {
    Turned(Box<Domain>, Result<Turn>),
    /// The pause of a domain is over; the number says after which turn it began.
    Due(String, u64),
    /// The positions were checked.
    Attached(Result<()>),
    Polled(Result<Answer>),
}

/// A statement of no domain. One runs at a time: there is one connection for them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    Poll,
    Positions,
}

/// What the loop remembers.
pub(super) struct State {
    /// Domains at rest; one whose turn it is is away.
    pub(super) resting: BTreeMap<String, Box<Domain>>,
    /// Domains to look at as soon as there is room, first come first served.
    pub(super) waiting: VecDeque<(String, FoundBy)>,
    pub(super) running: FuturesUnordered<BoxFuture<'static, Done>>,
    pub(super) asking: Option<Asking>,
    pub(super) next_poll: Instant,
    /// Positions must be checked before the next look: at start, and after an outage.
    pub(super) unattached: bool,
    /// Trouble with the server.
    pub(super) outage: Option<Trouble>,
    /// The server answers again after an outage; whether it takes work is being tried.
    pub(super) probing: bool,
    /// Trouble with single domains.
    pub(super) held: BTreeMap<String, Trouble>,
    pub(super) closed: Option<String>,
    /// Somebody has paused everything.
    pub(super) all_paused: bool,
    /// Domains that somebody has paused; the others go on.
    pub(super) paused: BTreeSet<String>,
}

impl State {
    /// At start every domain is looked at.
    pub(super) fn new(resting: BTreeMap<String, Box<Domain>>, next_poll: Instant) -> Self {
        Self {
            waiting: resting.keys().map(|name| (name.clone(), FoundBy::Start)).collect(),
            resting,
            running: FuturesUnordered::new(),
            asking: None,
            next_poll,
            unattached: true,
            outage: None,
            probing: false,
            held: BTreeMap::new(),
            closed: None,
            all_paused: false,
            paused: BTreeSet::new(),
        }
    }

    /// Has a domain looked at; once is enough.
    pub(super) fn wait(&mut self, name: &str, found_by: FoundBy) {
        if !self.waiting.iter().any(|(waiting, _)| waiting == name) {
            self.waiting.push_back((name.to_owned(), found_by));
        }
    }

    /// Has a domain looked at, not before `moment`.
    pub(super) fn wait_until(&mut self, name: &str, moment: Instant) {
        self.wait(name, FoundBy::Start);
        if let Some(domain) = self.resting.get(name) {
            let due = Done::Due(name.to_owned(), domain.turns);
            self.running.push(Box::pin(async move {
                tokio::time::sleep_until(moment).await;
                due
            }));
        }
    }

    /// The first waiting domain that is at rest and not held back.
    pub(super) fn next_at_rest(&mut self) -> Option<(Box<Domain>, FoundBy)> {
        let now = Instant::now();
        let is_held = |name: &str| self.held.get(name).is_some_and(|trouble| now < trouble.next_try().into());
        let is_ready = |name: &str| self.resting.contains_key(name) && !is_held(name);
        let at = self.waiting.iter().position(|(name, _)| is_ready(name))?;
        let (name, found_by) = self.waiting.remove(at)?;
        Some((self.resting.remove(&name)?, found_by))
    }

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

    /// Logs a pause when it begins and when it ends, however often the timer finds unread events; that of everything
    /// once, not for each domain. `scope` is that of the pause which stops this domain.
    pub(super) fn pause(&mut self, name: &str, scope: Option<&str>) {
        self.pause_all(scope == Some("all"));
        if scope != Some("all") {
            self.pause_domain(name, scope.is_some()); // else it shows afterwards whether it is paused, too
        }
    }

    fn pause_all(&mut self, is_paused: bool) {
        if is_paused && !self.all_paused {
            tracing::warn!("everything is paused, positions stay where they are: {}", pause_remedy());
        } else if !is_paused && self.all_paused {
            tracing::info!("the pause of everything is over");
        }
        self.all_paused = is_paused;
    }

    fn pause_domain(&mut self, name: &str, is_paused: bool) {
        if is_paused && self.paused.insert(name.to_owned()) {
            tracing::warn!(
                domain = name,
                "domain {name} is paused, its position stays where it is: {}",
                pause_remedy()
            );
        } else if !is_paused && self.paused.remove(name) {
            tracing::info!(domain = name, "domain {name} is not paused any more");
        }
    }
}

fn pause_remedy() -> &'static str {
    remedy(PAUSED).unwrap_or("see the contract's reasons")
}
