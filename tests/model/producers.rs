//! Producers' steps, and the end of any transaction that may have written events.

use crate::state::{Producing, State};

/// The arrival is written; its id is held from here on.
pub(crate) fn insert(state: &mut State, n: usize) {
    state.producers[n].xid = state.transactions.begin();
    state.producers[n].step = match state.producers[n].step {
        Producing::MarkRead { notifies } => Producing::Decided { notifies },
        _ => Producing::Inserted,
    };
}

/// `fn_wake`.
pub(crate) fn read_mark(state: &mut State, n: usize) {
    let notifies = !state.mark;
    state.producers[n].step = match state.producers[n].step {
        Producing::Waiting => Producing::MarkRead { notifies },
        _ => Producing::Decided { notifies },
    };
}

/// The transaction becomes visible, then its notification is sent to whoever listens.
pub(crate) fn commit(state: &mut State, n: usize) {
    end_transaction(state, state.producers[n].xid);
}

pub(crate) fn abort(state: &mut State, n: usize) {
    state.transactions.complete(state.producers[n].xid);
    state.producers[n].step = Producing::Aborted;
}

pub(crate) fn end_transaction(state: &mut State, xid: u8) {
    state.transactions.complete(xid);
    let mut notifies = false;
    for writer in state.writers_mut().filter(|writer| writer.xid == xid) {
        if let Producing::Decided { notifies: decided } = writer.step {
            notifies |= decided;
            writer.step = Producing::Committed;
        }
    }
    if notifies {
        for sidecar in state.sidecars.iter_mut().filter(|sidecar| sidecar.listening) {
            sidecar.notified = true;
        }
    }
}
