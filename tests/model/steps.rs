//! What each step does.

use crate::faults::Fault;
use crate::producers::{abort, commit, end_transaction, insert, read_mark};
use crate::protocol::{Action, System};
use crate::state::{Chase, Producing, Sidecar, State, Step};

impl System {
    pub(crate) fn take(&self, state: &mut State, action: Action) {
        match action {
            Action::Insert(n) => insert(state, n),
            Action::ReadMark(n) => read_mark(state, n),
            Action::Commit(n) => commit(state, n),
            Action::Abort(n) => abort(state, n),
            Action::Expire => state.mark = false,
            Action::Deliver(n) => {
                state.sidecars[n].notified = false;
                state.sidecars[n].waits = true;
            }
            Action::Poll(n) => poll(state, n),
            Action::Turn(n) => self.turn(state, n),
            Action::Mark(n) => mark(state, n),
            Action::Place(n) => place(state, n),
            Action::Lock(n) => self.lock(state, n),
            Action::Read(n) => self.read(state, n),
            Action::CommitPass(n) => self.commit_pass(state, n),
            Action::Continue(n) | Action::Again(n) => go_on(state, n, matches!(action, Action::Again(_))),
            Action::Look(n, mark) => look(state, n, mark),
            Action::Arm(n) => self.arm(state, n),
            Action::Sleep(n) => self.sleep(state, n, false),
            Action::GiveUp(n) => self.sleep(state, n, true),
            Action::Crash(n) => {
                state.crashes_left -= 1;
                roll_back(state, n);
                state.sidecars[n] = Sidecar { step: Step::Down, waits: false, ..Sidecar::started() };
                state.writers_mut().filter(|w| w.polled_by == Some(n)).for_each(|w| w.polled_by = None);
            }
            Action::Restart(n) => state.sidecars[n] = Sidecar::started(),
            Action::Listen(n) => {
                let sidecar = &mut state.sidecars[n];
                sidecar.listening = true;
                if self.fault != Some(Fault::NoLookAfterListen) {
                    sidecar.waits = true; // Wake::Resync
                    sidecar.fresh = self.starts;
                }
            }
            Action::Fail(n) => {
                state.errors_left -= 1;
                roll_back(state, n);
                let sidecar = &mut state.sidecars[n];
                // `turn` forgets mark and chase; the outage ends with a look
                *sidecar = Sidecar {
                    listening: sidecar.listening,
                    notified: sidecar.notified,
                    ..Sidecar::started()
                };
            }
            Action::LoseNotification(n) => {
                state.losses_left -= 1;
                state.sidecars[n].notified = false;
            }
            Action::LoseListener(n) => {
                state.losses_left -= 1;
                state.sidecars[n].notified = false;
                state.sidecars[n].listening = false;
            }
        }
    }

    /// The turn begins. A timer that was set before is outdated.
    fn turn(&self, state: &mut State, n: usize) {
        let sidecar = &mut state.sidecars[n];
        sidecar.waits = false;
        sidecar.timer = false;
        if std::mem::take(&mut sidecar.fresh) && self.fault != Some(Fault::MarkLeftBehind) {
            self.drop_mark(state, n);
        }
        self.ask(state, n);
    }

    /// `is_blind`, in a snapshot of its own.
    fn ask(&self, state: &mut State, n: usize) {
        let now = state.transactions.snapshot(None);
        let sidecar = &mut state.sidecars[n];
        let blind = match &sidecar.chase {
            Some(Chase::Older(xid)) => now.lists_older_than(*xid),
            Some(Chase::Listed(list)) => list.iter().any(|xid| state.transactions.running.contains(xid)),
            None => false,
        };
        let asks = sidecar.chase.is_some();
        sidecar.step = Step::Asked { blind };
        if !asks && self.fault != Some(Fault::PositionBeforeLock) {
            self.lock(state, n); // nothing was asked in between
        }
    }

    /// `for update skip locked`, then the newest row of `dispatch_pass`.
    fn lock(&self, state: &mut State, n: usize) {
        let (blind, placed) = match &state.sidecars[n].step {
            Step::Asked { blind } => (*blind, None),
            Step::Placed { blind, position } => (*blind, Some(position.clone())),
            other => unreachable!("{other:?}"),
        };
        if state.holder.is_some() && self.fault != Some(Fault::NoLock) {
            state.sidecars[n].step = Step::Passed { blind, found: false, busy: true, more: false };
            self.decide(state, n);
            return;
        }
        state.holder = Some(n);
        let position = placed.unwrap_or_else(|| state.position.clone());
        state.sidecars[n].step = Step::Locked { blind, xid: state.transactions.begin(), position };
    }

    /// Snapshot, ranges, arrivals, jobs.
    fn read(&self, state: &mut State, n: usize) {
        let Step::Locked { blind, xid, position } = state.sidecars[n].step.clone() else { unreachable!() };
        let now = match self.fault {
            Some(Fault::OwnTransactionRead) => state.transactions.snapshot(Some(xid)),
            _ => state.transactions.dispatch_snapshot(),
        };
        let batch = position.read(&state.visible(), &now, self.batch, self.fault);
        if let Some(echo) = state.echo.as_mut().filter(|echo| echo.step == Producing::Waiting)
            && !batch.arrivals.is_empty()
        {
            echo.xid = xid;
            echo.step = Producing::Decided { notifies: !state.mark };
        }
        state.sidecars[n].step = Step::Read { blind, xid, batch };
    }

    fn commit_pass(&self, state: &mut State, n: usize) {
        match state.sidecars[n].step.clone() {
            Step::Read { blind, xid, batch } => {
                for arrival in &batch.arrivals {
                    for writer in state.writers_mut().filter(|writer| writer.xid == arrival.0) {
                        let reads = &mut writer.reads[usize::from(arrival.1) - 1];
                        *reads = (*reads + 1).min(2);
                    }
                }
                if self.fault == Some(Fault::PositionApart) {
                    end_transaction(state, xid);
                    state.sidecars[n].step = Step::Made { blind, xid: state.transactions.begin(), batch };
                } else {
                    state.sidecars[n].step = Step::Made { blind, xid, batch };
                    move_position(state, n);
                    self.decide(state, n);
                }
            }
            Step::Made { .. } => {
                move_position(state, n);
                self.decide(state, n);
            }
            other => unreachable!("{other:?}"),
        }
    }

    /// After a pass that found nothing, without a mark, there is nothing to choose.
    fn decide(&self, state: &mut State, n: usize) {
        let sidecar = &state.sidecars[n];
        if let Step::Passed { found: false, blind, .. } = sidecar.step
            && !sidecar.awake
            && !(blind && self.gives_up)
        {
            self.sleep(state, n, false);
        }
    }

    /// `Next::Arm`, then `Turn::After(ZERO)`: look once more.
    fn arm(&self, state: &mut State, n: usize) {
        self.drop_mark(state, n);
        let sidecar = &mut state.sidecars[n];
        sidecar.waits |= self.fault != Some(Fault::NoSecondLook);
        sidecar.step = Step::Resting;
    }

    /// `Domain::arm`: the mark falls at once, whatever becomes of the transaction.
    fn drop_mark(&self, state: &mut State, n: usize) {
        let xid = state.transactions.begin();
        let listed = state.transactions.snapshot(Some(xid)).running;
        state.mark = false;
        state.transactions.complete(xid);
        state.sidecars[n].awake = false;
        state.sidecars[n].chase = match self.fault {
            Some(Fault::NoSecondLook | Fault::NoChase) => None,
            Some(Fault::SnapshotWhileArming) => Some(Chase::Listed(listed)),
            _ => Some(Chase::Older(xid)),
        };
    }

    /// `Domain::sleep`.
    fn sleep(&self, state: &mut State, n: usize, gives_up: bool) {
        let sidecar = &mut state.sidecars[n];
        let Step::Passed { blind, busy, .. } = sidecar.step else { unreachable!() };
        let chases = blind && !gives_up;
        if !chases {
            sidecar.chase = None;
        }
        sidecar.timer = chases || (busy && self.fault != Some(Fault::BusyIsIdle));
        sidecar.step = Step::Resting;
    }
}

/// `fn_dispatch_poll` found something; the domain waits for its turn.
fn poll(state: &mut State, n: usize) {
    state.sidecars[n].waits = true;
    state.writers_mut().filter(|writer| writer.waits()).for_each(|writer| writer.polled_by = Some(n));
}

fn place(state: &mut State, n: usize) {
    let Step::Asked { blind } = state.sidecars[n].step else { unreachable!() };
    state.sidecars[n].step = Step::Placed { blind, position: state.position.clone() };
}

/// A pass commits its position, or nothing if it read nothing, and lets the domain go.
fn move_position(state: &mut State, n: usize) {
    let Step::Made { blind, xid, batch } = state.sidecars[n].step.clone() else { unreachable!() };
    let found = !batch.arrivals.is_empty();
    if found {
        state.position = batch.after;
    }
    end_transaction(state, xid);
    if state.holder == Some(n) {
        state.holder = None;
    }
    state.sidecars[n].step = Step::Passed { blind, found, busy: false, more: batch.more };
}

/// There is more: the next pass of this turn, or another turn.
fn go_on(state: &mut State, n: usize, another_turn: bool) {
    let Step::Passed { blind, .. } = state.sidecars[n].step else { unreachable!() };
    state.sidecars[n].waits |= another_turn;
    state.sidecars[n].step = if another_turn { Step::Resting } else { Step::Asked { blind } };
}

/// `Next::Look`: awake; the mark may be due.
fn look(state: &mut State, n: usize, due: bool) {
    if due {
        mark(state, n);
    }
    let sidecar = &mut state.sidecars[n];
    sidecar.chase = None;
    sidecar.timer = true;
    sidecar.step = Step::Resting;
}

/// `Domain::mark`: set or renewed by a transaction of its own.
fn mark(state: &mut State, n: usize) {
    let xid = state.transactions.begin();
    state.mark = true;
    state.transactions.complete(xid);
    state.sidecars[n].awake = true;
    state.sidecars[n].chase = None;
}

/// What the open transaction of a sidecar wrote is gone; the mark is not part of any transaction.
fn roll_back(state: &mut State, n: usize) {
    if let Some(xid) = state.sidecars[n].open() {
        state.transactions.complete(xid);
        if let Some(echo) = state.echo.as_mut().filter(|echo| !echo.is_committed() && echo.xid == xid) {
            echo.step = Producing::Waiting;
        }
    }
    if state.holder == Some(n) {
        state.holder = None;
    }
}
