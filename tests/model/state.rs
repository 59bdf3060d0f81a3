//! What the system remembers: producers' transactions, sidecars, the position, the awake mark.

use crate::position::{Arrival, Batch, Position};
use crate::transactions::{Ranks, Transactions, Xid};

/// One transaction that writes events and ends; also the transaction of a pass, as far as a trigger of the host
/// writes an event in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Producer {
    pub(crate) step: Producing,
    pub(crate) xid: Xid,
    /// For each of its events, how often a committed pass has read it.
    pub(crate) reads: Vec<u8>,
    /// The sidecar whose timer found its events unread.
    pub(crate) polled_by: Option<usize>,
}

/// `fn_event_arrival_record`: the arrival is written, then `fn_wake` reads the mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Producing {
    #[default]
    Waiting,
    /// Only in the wrong order.
    MarkRead {
        notifies: bool,
    },
    Inserted,
    Decided {
        notifies: bool,
    },
    Committed,
    Aborted,
}

/// One sidecar's dispatcher, for one domain.
#[expect(clippy::struct_excessive_bools, reason = "flags that the code has, too")]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sidecar {
    pub(crate) step: Step,
    /// `State::waiting` holds the domain.
    pub(crate) waits: bool,
    /// The domain waits by `FoundBy::Start`: a mark that somebody left behind is dropped first.
    pub(crate) fresh: bool,
    /// A `Done::Due` is under way.
    pub(crate) timer: bool,
    /// `Rhythm::is_awake`.
    pub(crate) awake: bool,
    pub(crate) chase: Option<Chase>,
    pub(crate) listening: bool,
    /// A notification is on its way.
    pub(crate) notified: bool,
}

/// `domain::Chase`: transactions that may have read the mark before it fell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Chase {
    Older(Xid),
    /// What a snapshot listed that was taken while arming: the wrong way.
    Listed(Vec<Xid>),
}

/// Where a sidecar is in `Domain::turn`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    Down,
    /// No turn is under way.
    Resting,
    /// `turn_with` has asked whether somebody is blind.
    Asked {
        blind: bool,
    },
    /// The position has been read without the lock: only in the wrong order.
    Placed {
        blind: bool,
        position: Position,
    },
    /// The pass holds the cursor row and has read the newest position.
    Locked {
        blind: bool,
        xid: Xid,
        position: Position,
    },
    /// The pass has read arrivals and made their jobs, uncommitted.
    Read {
        blind: bool,
        xid: Xid,
        batch: Batch,
    },
    /// Jobs are committed, the position is not: only when they are wrongly apart.
    Made {
        blind: bool,
        xid: Xid,
        batch: Batch,
    },
    /// The pass has come to its end.
    Passed {
        blind: bool,
        found: bool,
        busy: bool,
        more: bool,
    },
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct State {
    pub(crate) transactions: Transactions,
    pub(crate) producers: Vec<Producer>,
    /// The event that a trigger of the host writes in the first pass that makes jobs.
    pub(crate) echo: Option<Producer>,
    pub(crate) sidecars: Vec<Sidecar>,
    pub(crate) position: Position,
    /// Who holds the cursor row.
    pub(crate) holder: Option<usize>,
    /// The awake mark lies ahead.
    pub(crate) mark: bool,
    pub(crate) crashes_left: u8,
    pub(crate) errors_left: u8,
    pub(crate) losses_left: u8,
}

impl Producer {
    pub(crate) fn of(events: usize) -> Self {
        Self { reads: vec![0; events], ..Self::default() }
    }

    pub(crate) fn arrivals(&self) -> impl Iterator<Item = Arrival> + '_ {
        (1..).zip(&self.reads).map(|(seq, _)| (self.xid, seq))
    }

    pub(crate) fn is_committed(&self) -> bool {
        self.step == Producing::Committed
    }

    /// Committed, and not read to the end.
    pub(crate) fn waits(&self) -> bool {
        self.is_committed() && self.reads.contains(&0)
    }

    fn holds_arrivals(&self) -> bool {
        matches!(self.step, Producing::Inserted | Producing::Decided { .. } | Producing::Committed)
    }
}

impl Sidecar {
    /// As it starts: everything waits to be looked at, LISTEN is not active yet.
    pub(crate) fn started() -> Self {
        Self {
            step: Step::Resting,
            waits: true,
            fresh: true,
            timer: false,
            awake: false,
            chase: None,
            listening: false,
            notified: false,
        }
    }

    /// Does nothing until somebody wakes it.
    pub(crate) fn sleeps(&self) -> bool {
        self.step == Step::Resting && !self.waits && !self.timer
    }

    /// The transaction that is open.
    pub(crate) fn open(&self) -> Option<Xid> {
        match &self.step {
            Step::Locked { xid, .. } | Step::Read { xid, .. } | Step::Made { xid, .. } => Some(*xid),
            _ => None,
        }
    }
}

impl State {
    /// Producers and the echo.
    pub(crate) fn writers(&self) -> impl Iterator<Item = &Producer> {
        self.producers.iter().chain(&self.echo)
    }

    pub(crate) fn writers_mut(&mut self) -> impl Iterator<Item = &mut Producer> {
        self.producers.iter_mut().chain(&mut self.echo)
    }

    /// Arrivals of committed transactions.
    pub(crate) fn visible(&self) -> Vec<Arrival> {
        self.writers().filter(|writer| writer.is_committed()).flat_map(Producer::arrivals).collect()
    }

    /// All sidecars sleep and listen, and no notification is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.sidecars.iter().all(|sidecar| sidecar.sleeps() && sidecar.listening && !sidecar.notified)
    }

    /// One form for states that differ in nothing that matters: ids become ranks, equal producers are sorted.
    pub(crate) fn normal(mut self) -> Self {
        for writer in self.writers_mut().filter(|writer| !writer.holds_arrivals()) {
            writer.xid = 0;
        }
        let mut matter = self.transactions.running.clone();
        matter.extend(self.writers().filter(|writer| writer.holds_arrivals()).map(|writer| writer.xid));
        let ranks = Ranks::of(matter);
        ranks.rank_list(&mut self.transactions.running);
        ranks.rank(&mut self.transactions.newest_completed);
        self.transactions.newest = ranks.newest();
        self.position.rank(&ranks);
        self.writers_mut().for_each(|writer| ranks.rank(&mut writer.xid));
        for sidecar in &mut self.sidecars {
            match &mut sidecar.chase {
                Some(Chase::Older(xid)) => ranks.rank(xid),
                Some(Chase::Listed(list)) => ranks.rank_list(list),
                None => {}
            }
            match &mut sidecar.step {
                Step::Placed { position, .. } => position.rank(&ranks),
                Step::Locked { xid, position, .. } => {
                    ranks.rank(xid);
                    position.rank(&ranks);
                }
                Step::Read { xid, batch, .. } | Step::Made { xid, batch, .. } => {
                    ranks.rank(xid);
                    batch.arrivals.iter_mut().for_each(|(xid, _)| ranks.rank(xid));
                    batch.after.rank(&ranks);
                }
                Step::Down | Step::Resting | Step::Asked { .. } | Step::Passed { .. } => {}
            }
        }
        self.producers.sort_unstable();
        self.sort_sidecars();
        self
    }

    fn sort_sidecars(&mut self) {
        if self.sidecars.is_sorted() {
            return;
        }
        let mut order: Vec<usize> = (0..self.sidecars.len()).collect();
        order.sort_by_key(|n| &self.sidecars[*n]);
        let place = |n: usize| order.iter().position(|was| *was == n).expect("every sidecar has its place");
        self.holder = self.holder.map(place);
        for writer in self.producers.iter_mut().chain(&mut self.echo) {
            writer.polled_by = writer.polled_by.map(place);
        }
        self.sidecars = order.iter().map(|n| self.sidecars[*n].clone()).collect();
    }
}
