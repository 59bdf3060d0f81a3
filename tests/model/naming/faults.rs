//! Ways in which naming could be wrong, so that the checks can show that they see it.

/// One wrong step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A claim takes what another one has locked.
    LockedNotSkipped,
    /// Who has no room does not care for its name.
    BusyIgnoresName,
    /// Who is named and finds nothing leaves it at that.
    KeptInVain,
    /// Who is named and finds something leaves it at that.
    FoundIsEnough,
    /// Who is named and finds as much as it had room for leaves it at that, if it has room again by then.
    FullIsEnough,
    /// Who fills up does not pass on.
    NoFillUp,
    /// Who fills up believes that there is nothing more.
    SettledUnasked,
    /// When nobody is at rest, nobody is told.
    NobodyTold,
    /// What all are told is not heard.
    OnlyNamed,
    /// Nobody looks after LISTEN has become active.
    NoLookAfterListen,
}
