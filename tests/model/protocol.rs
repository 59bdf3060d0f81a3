//! The protocol, step by step as the code takes them, and what may happen in between.

use stateright::{Model, Property};

use crate::faults::Fault;
use crate::position::Position;
use crate::state::{Producer, Producing, Sidecar, State, Step};
use crate::transactions::Transactions;

/// A system of some size.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each says whether something can happen")]
pub(crate) struct System {
    /// One transaction each, of so many events.
    pub(crate) producers: &'static [usize],
    pub(crate) sidecars: usize,
    /// `[dispatch] batch_size`.
    pub(crate) batch: usize,
    /// A trigger of the host writes an event in the first pass that makes jobs.
    pub(crate) echo: bool,
    /// Starting is looked at, too; else LISTEN is active from the beginning, and who is killed stays away.
    pub(crate) starts: bool,
    /// Sidecars may be killed so many times,
    pub(crate) crashes: u8,
    /// statements may fail so many times,
    pub(crate) errors: u8,
    /// notifications or their connection may be lost so many times,
    pub(crate) losses: u8,
    /// a chase may last for a poll interval and be left to the timer,
    pub(crate) gives_up: bool,
    /// the mark may lie behind by the clock alone,
    pub(crate) expires: bool,
    /// and there is a timer.
    pub(crate) polls: bool,
    pub(crate) fault: Option<Fault>,
}

/// One step of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A producer: insert, read the mark, end.
    Insert(usize),
    ReadMark(usize),
    Commit(usize),
    Abort(usize),
    /// The mark lies behind by the clock.
    Expire,
    /// `Waker::wake`, from a notification.
    Deliver(usize),
    /// The poll finds unread arrivals.
    Poll(usize),
    /// `Domain::turn` begins, waiting or by `Done::Due`, and asks whether somebody is blind.
    Turn(usize),
    /// `fn_consumer_dispatch_batch`: lock and position, snapshot and arrivals, commit.
    Place(usize),
    Lock(usize),
    Read(usize),
    CommitPass(usize),
    /// What `turn_with` and `after` go on with.
    Continue(usize),
    Again(usize),
    Mark(usize),
    Look(usize, bool),
    Arm(usize),
    Sleep(usize),
    /// The chase has lasted for a poll interval.
    GiveUp(usize),
    /// Mishaps.
    Crash(usize),
    Restart(usize),
    Listen(usize),
    Fail(usize),
    LoseNotification(usize),
    LoseListener(usize),
}

impl Model for System {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            transactions: Transactions::default(),
            producers: self.producers.iter().map(|events| Producer::of(*events)).collect(),
            echo: self.echo.then(|| Producer::of(1)),
            sidecars: vec![
                Sidecar { listening: !self.starts, fresh: self.starts, ..Sidecar::started() };
                self.sidecars
            ],
            position: Position::default(),
            holder: None,
            mark: false,
            crashes_left: self.crashes,
            errors_left: self.errors,
            losses_left: self.losses,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (n, producer) in state.producers.iter().enumerate() {
            self.producer_actions(n, producer, actions);
        }
        for (n, sidecar) in state.sidecars.iter().enumerate() {
            self.turn_actions(n, sidecar, actions);
            self.other_actions(n, sidecar, state, actions);
        }
        if state.mark && self.expires {
            actions.push(Action::Expire);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, action);
        Some(state.normal())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("no event makes two jobs", |_, state: &State| {
                state.writers().all(|writer| writer.reads.iter().all(|reads| *reads <= 1))
            }),
            Property::always("only committed events make jobs", |_, state: &State| {
                state
                    .writers()
                    .all(|writer| writer.is_committed() || writer.reads.iter().all(|reads| *reads == 0))
            }),
            Property::always("no committed event lies behind the position unread", |_, state: &State| {
                // seen as soon as those complete who run now
                let mut end = state.transactions.clone();
                for xid in end.running.clone() {
                    end.complete(xid);
                }
                let now = end.dispatch_snapshot();
                state.writers().filter(|writer| writer.is_committed()).all(|writer| {
                    let mut events = writer.arrivals().zip(&writer.reads);
                    events.all(|(arrival, reads)| *reads > 0 || state.position.has_ahead(arrival, &now))
                })
            }),
            Property::always("one poll finds what is there", |_, state: &State| {
                let asleep = |n: usize| state.sidecars[n].sleeps();
                state.writers().all(|writer| !(writer.waits() && writer.polled_by.is_some_and(asleep)))
            }),
        ];
        if self.losses == 0 && !self.gives_up {
            properties.push(Property::always("no committed event waits for the poll", |_, state: &State| {
                !state.is_idle() || state.writers().all(|writer| !writer.waits())
            }));
        }
        if self.producers.len() == 1 {
            return properties; // no stream, so no mark
        }
        // what makes the others worth checking
        properties.extend([
            Property::sometimes("everything is read and everybody sleeps", |_, state: &State| {
                state.is_idle() && state.writers().all(|writer| writer.is_committed() && !writer.waits())
            }),
            Property::sometimes("a producer is spared its NOTIFY", |_, state: &State| {
                state.producers.iter().any(|writer| writer.step == Producing::Decided { notifies: false })
            }),
            Property::sometimes("somebody is blind", |_, state: &State| {
                state.sidecars.iter().any(|sidecar| sidecar.step == Step::Asked { blind: true })
            }),
        ]);
        properties
    }
}

impl System {
    fn producer_actions(&self, n: usize, producer: &Producer, actions: &mut Vec<Action>) {
        let early = self.fault == Some(Fault::MarkReadBeforeInsert);
        match producer.step {
            Producing::Waiting if early => actions.push(Action::ReadMark(n)),
            Producing::Waiting | Producing::MarkRead { .. } => actions.push(Action::Insert(n)),
            Producing::Inserted => actions.extend([Action::ReadMark(n), Action::Abort(n)]),
            Producing::Decided { .. } => actions.extend([Action::Commit(n), Action::Abort(n)]),
            Producing::Committed | Producing::Aborted => {}
        }
    }

    fn turn_actions(&self, n: usize, sidecar: &Sidecar, actions: &mut Vec<Action>) {
        match &sidecar.step {
            Step::Resting if sidecar.waits || sidecar.timer => actions.push(Action::Turn(n)),
            Step::Resting | Step::Down => {}
            Step::Asked { .. } if self.fault == Some(Fault::PositionBeforeLock) => {
                actions.push(Action::Place(n));
            }
            Step::Asked { .. } | Step::Placed { .. } => actions.push(Action::Lock(n)),
            Step::Locked { .. } => actions.push(Action::Read(n)),
            Step::Read { .. } | Step::Made { .. } => actions.push(Action::CommitPass(n)),
            Step::Passed { more: true, .. } => {
                actions.extend([Action::Continue(n), Action::Again(n), Action::Mark(n)]);
            }
            // rhythm.rs: found and empty; how often it looks and when it is a stream is left open
            Step::Passed { found, blind, .. } => match (sidecar.awake, found) {
                (true, true) => actions.extend([Action::Look(n, false), Action::Look(n, true)]),
                (true, false) => {
                    actions.extend([Action::Look(n, false), Action::Look(n, true), Action::Arm(n)]);
                }
                (false, found) => {
                    actions.push(Action::Sleep(n));
                    if *found {
                        actions.push(Action::Look(n, true));
                    }
                    if *blind && self.gives_up {
                        actions.push(Action::GiveUp(n));
                    }
                }
            },
        }
    }

    fn other_actions(&self, n: usize, sidecar: &Sidecar, state: &State, actions: &mut Vec<Action>) {
        if sidecar.step == Step::Down {
            if self.starts {
                actions.push(Action::Restart(n));
            }
            return;
        }
        if sidecar.notified {
            actions.push(Action::Deliver(n));
        }
        if !sidecar.listening {
            actions.push(Action::Listen(n));
        }
        let unpolled = |writer: &Producer| writer.waits() && writer.polled_by.is_none();
        if self.polls && sidecar.step == Step::Resting && !sidecar.waits && state.writers().any(unpolled) {
            actions.push(Action::Poll(n));
        }
        if state.crashes_left > 0 {
            actions.push(Action::Crash(n));
        }
        if state.errors_left > 0 && sidecar.step != Step::Resting {
            actions.push(Action::Fail(n));
        }
        if state.losses_left > 0 && sidecar.notified {
            actions.push(Action::LoseNotification(n));
        }
        if state.losses_left > 0 && sidecar.listening {
            actions.push(Action::LoseListener(n));
        }
    }
}
