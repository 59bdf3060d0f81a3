//! Ways in which the protocol could be wrong, so that the checks can show that they see it.

/// One wrong step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The trigger reads the mark before it writes the arrival, so no id is held meanwhile.
    MarkReadBeforeInsert,
    /// The dispatcher sleeps as soon as it has armed.
    NoSecondLook,
    /// The dispatcher looks once more after arming and forgets who is still open.
    NoChase,
    /// Blind transactions are those that a snapshot lists which is taken while arming.
    SnapshotWhileArming,
    /// A domain that another sidecar holds counts as looked at.
    BusyIsIdle,
    /// The position forgets who was running when it was drawn.
    LateCommitsForgotten,
    /// The position waits for the oldest open transaction.
    WaitsForTheOldest,
    /// A pass that reads the rest of what an earlier one began has read everything.
    RestOfAPairIsAll,
    /// Two dispatchers may read at once.
    NoLock,
    /// The position is read before the domain is locked.
    PositionBeforeLock,
    /// Jobs and position are committed one after the other.
    PositionApart,
    /// The snapshot of a pass takes the pass itself for completed.
    OwnTransactionRead,
    /// A mark that a killed sidecar has left behind is not dropped by the next.
    MarkLeftBehind,
    /// Nobody looks after LISTEN has become active.
    NoLookAfterListen,
}
