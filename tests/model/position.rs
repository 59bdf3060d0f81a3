//! A domain's position and how it moves: `fn_consumer_dispatch_batch` and `fn_arrival_ranges`.

use crate::faults::Fault;
use crate::transactions::{Ranks, Snapshot, Xid};

/// A row of `event_arrival`: (`tx_id`, `arrival_seq`).
pub(crate) type Arrival = (Xid, u8);

/// The newest row of `dispatch_pass`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Position {
    pub(crate) old: Snapshot,
    pub(crate) new: Snapshot,
    pub(crate) place: Option<Arrival>,
}

/// What a pass has read, and where it stands then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Batch {
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) after: Position,
    pub(crate) more: bool,
}

/// Arrivals that `new` sees and `old` does not, after a place, in reading order.
fn between(arrivals: &[Arrival], old: &Snapshot, new: &Snapshot, place: Option<Arrival>) -> Vec<Arrival> {
    let unread = |a: &Arrival| new.sees(a.0) && !old.sees(a.0) && place.is_none_or(|place| *a > place);
    let mut found: Vec<Arrival> = arrivals.iter().copied().filter(unread).collect();
    found.sort_unstable();
    found
}

impl Position {
    /// One pass: the loop of `fn_consumer_dispatch_batch` from its snapshot to its new position. `visible` are the
    /// arrivals of transactions that have committed.
    pub(crate) fn read(
        &self,
        visible: &[Arrival],
        now: &Snapshot,
        limit: usize,
        fault: Option<Fault>,
    ) -> Batch {
        let Self { mut old, mut new, mut place } = self.clone();
        let mut arrivals;
        loop {
            if place.is_none() {
                old = new;
                new = now.clone();
                if fault == Some(Fault::WaitsForTheOldest)
                    && let Some(oldest) = new.running.iter().min()
                {
                    new.upto = oldest - 1;
                    new.running.clear();
                }
            }
            arrivals = between(visible, &old, &new, place);
            arrivals.truncate(limit);
            if !arrivals.is_empty() || place.is_none() {
                break;
            }
            place = None; // the resumed pair had nothing left
        }
        let full = arrivals.len() >= limit;
        // the rest of a pair is not all: what has committed since waits
        let more = full || place.is_some() && fault != Some(Fault::RestOfAPairIsAll);
        let place = arrivals.last().copied().filter(|_| full);
        if fault == Some(Fault::LateCommitsForgotten) {
            new.running.clear();
        }
        let after = if arrivals.is_empty() { self.clone() } else { Self { old, new, place } };
        Batch { arrivals, after, more }
    }

    /// Whether a pass from here would ever read an arrival: `fn_dispatch_unread`.
    pub(crate) fn has_ahead(&self, arrival: Arrival, now: &Snapshot) -> bool {
        let rest = self
            .place
            .is_some_and(|place| !between(&[arrival], &self.old, &self.new, Some(place)).is_empty());
        rest || !between(&[arrival], &self.new, now, None).is_empty()
    }

    pub(crate) fn rank(&mut self, ranks: &Ranks) {
        ranks.rank_snapshot(&mut self.old);
        ranks.rank_snapshot(&mut self.new);
        if let Some((xid, _)) = &mut self.place {
            ranks.rank(xid);
        }
    }
}
