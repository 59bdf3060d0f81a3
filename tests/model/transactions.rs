//! What Postgres knows of transactions: ids, who runs, snapshots.

/// A transaction id. Only the order of ids matters, so states are kept small by renumbering.
pub(crate) type Xid = u8;

/// Who runs, and the newest that has completed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Transactions {
    pub(crate) running: Vec<Xid>,
    pub(crate) newest_completed: Xid,
    pub(crate) newest: Xid,
}

/// `pg_snapshot`: everything up to `upto` has completed, except for those in `running`.
///
/// `upto` is the newest *completed* transaction, as in `GetSnapshotData` (xmax is the one after it): whoever runs
/// with a greater id is in no list.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Snapshot {
    pub(crate) upto: Xid,
    pub(crate) running: Vec<Xid>,
}

impl Transactions {
    /// A transaction writes for the first time.
    pub(crate) fn begin(&mut self) -> Xid {
        self.newest += 1;
        self.running.push(self.newest);
        self.newest
    }

    /// A transaction commits or aborts.
    pub(crate) fn complete(&mut self, xid: Xid) {
        self.running.retain(|running| *running != xid);
        self.newest_completed = self.newest_completed.max(xid);
    }

    /// `pg_current_snapshot()`; the own transaction is not among those it lists.
    pub(crate) fn snapshot(&self, own: Option<Xid>) -> Snapshot {
        let upto = self.newest_completed;
        let running = self.running.iter().copied().filter(|xid| *xid <= upto && Some(*xid) != own).collect();
        Snapshot { upto, running }
    }

    /// `fn_dispatch_snapshot()`: the own transaction is listed as running.
    pub(crate) fn dispatch_snapshot(&self) -> Snapshot {
        self.snapshot(None)
    }
}

impl Snapshot {
    /// `pg_visible_in_snapshot`.
    pub(crate) fn sees(&self, xid: Xid) -> bool {
        xid <= self.upto && !self.running.contains(&xid)
    }

    /// `pg_snapshot_xmin(…) < xid`, for an id that has completed (so equality, after renumbering, means older).
    pub(crate) fn lists_older_than(&self, xid: Xid) -> bool {
        self.running.iter().any(|running| *running <= xid)
    }
}

/// Gives ids their rank among those that matter, and moves everything else to the greatest of them below.
pub(crate) struct Ranks(Vec<Xid>);

impl Ranks {
    pub(crate) fn of(mut matter: Vec<Xid>) -> Self {
        matter.sort_unstable();
        matter.dedup();
        Self(matter)
    }

    /// The new number of an id, or of a border between ids.
    pub(crate) fn rank(&self, xid: &mut Xid) {
        *xid = Xid::try_from(self.0.partition_point(|matters| *matters <= *xid)).expect("few transactions");
    }

    /// The same for a list; those that do not matter are dropped.
    pub(crate) fn rank_list(&self, list: &mut Vec<Xid>) {
        list.retain(|xid| self.0.contains(xid));
        for xid in list.iter_mut() {
            self.rank(xid);
        }
        list.sort_unstable();
    }

    pub(crate) fn rank_snapshot(&self, snapshot: &mut Snapshot) {
        self.rank_list(&mut snapshot.running);
        self.rank(&mut snapshot.upto);
    }

    pub(crate) fn newest(&self) -> Xid {
        Xid::try_from(self.0.len()).expect("few transactions")
    }
}
