//! The protocol, step by step as the code takes them, and what may happen in between.

use stateright::{Model, Property};

use super::faults::Fault;
use super::state::{Crew, Job, Kinds, Stage, State, Step, Told, Worker};

/// A system of some size.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each says whether something can happen")]
pub(crate) struct System {
    pub(crate) workers: &'static [Crew],
    /// One transaction each, that makes one job of this kind.
    pub(crate) jobs: &'static [Kinds],
    /// Whoever chooses does not know who takes what: subscriptions, and jobs of several kinds in one transaction.
    pub(crate) blind: bool,
    /// Starting is looked at, too; else all are at rest in the beginning.
    pub(crate) starts: bool,
    /// Workers may be killed so many times,
    pub(crate) kills: u8,
    /// notifications or their connection may be lost so many times,
    pub(crate) losses: u8,
    /// the server may not know that such a connection is lost,
    pub(crate) ghosts: bool,
    /// statements may fail so many times,
    pub(crate) errors: u8,
    /// somebody may look at rest so many times who is not, because another one asks at the same moment,
    pub(crate) mistakes: u8,
    /// and there is a timer.
    pub(crate) polls: bool,
    pub(crate) fault: Option<Fault>,
}

/// What ends the wait at the end of the claimer's loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Name,
    Call,
    /// `next_look`, or a change of the board.
    Time,
}

/// One step of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A producer: insert and `fn_job_wake`, end.
    Insert(usize, Told),
    Commit(usize),
    Abort(usize),
    /// The reaper: `fn_job_requeue`.
    Requeue(usize, Told),
    RunEnds(usize),
    /// The end of the claimer's loop, by a notification or by `next_look`.
    Wake(usize, By),
    /// The poll's time has come.
    Poll(usize),
    /// `fn_job_claim` takes these jobs; it commits.
    Claim(usize, u8),
    CommitClaim(usize),
    /// `fn_job_pass_on`.
    PassOn(usize, Told),
    /// The claimer goes to the end of its loop, and rests if it has room.
    Rest(usize),
    /// `wait_for_room`: there is some, or it is named.
    Room(usize),
    NamedWhenFull(usize),
    /// The listener's session: `stand`.
    Stand(usize),
    /// Mishaps.
    Kill(usize),
    Bury(usize),
    Fail(usize),
    LoseNotification(usize),
    LoseListener(usize),
    Listen(usize),
}

impl Model for System {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let worker = if self.starts { Worker::starting } else { Worker::resting };
        let state = State {
            jobs: self.jobs.iter().map(|kind| Job::of(*kind)).collect(),
            workers: self.workers.iter().map(|crew| worker(*crew)).collect(),
            kills_left: self.kills,
            losses_left: self.losses,
            errors_left: self.errors,
            mistakes_left: self.mistakes,
        };
        vec![state.normal()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (n, job) in state.jobs.iter().enumerate() {
            match job.step {
                Stage::Waiting => {
                    self.choices(state, job.kind, None, |told| actions.push(Action::Insert(n, told)));
                }
                Stage::Chosen { again: false } => actions.extend([Action::Commit(n), Action::Abort(n)]),
                Stage::Chosen { again: true } => actions.push(Action::Commit(n)),
                Stage::Left => {
                    self.choices(state, job.kind, None, |told| actions.push(Action::Requeue(n, told)));
                }
                Stage::Running(_) => actions.push(Action::RunEnds(n)),
                Stage::Ready | Stage::Locked(_) | Stage::Done | Stage::Aborted => {}
            }
        }
        for (n, worker) in state.workers.iter().enumerate() {
            self.claimer_actions(n, worker, state, actions);
            other_actions(n, worker, state, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, action);
        Some(state.normal())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(super::TWICE, |_, state: &State| state.jobs.iter().all(|job| job.claims <= 1)),
            Property::always(super::POLL, |_, state: &State| {
                let sleeps = |n: usize| state.workers[n].sleeps();
                state.jobs.iter().all(|job| job.step != Stage::Ready || !job.polled_by.is_some_and(sleeps))
            }),
        ];
        if self.is_sound() {
            properties.push(Property::always(super::WAITS, |_, state: &State| {
                !state.is_quiet() || !state.is_slept_through()
            }));
        }
        // what makes the others worth checking
        properties.push(Property::sometimes("all jobs are done and everybody sleeps", |_, state: &State| {
            state.is_quiet() && state.jobs.iter().all(|job| job.step == Stage::Done)
        }));
        if self.workers.len() > 1 {
            properties.push(Property::sometimes("only one is told of a job", |_, state: &State| {
                let slept =
                    |by| state.workers.iter().enumerate().any(|(n, worker)| n != by && worker.sleeps());
                state.jobs.iter().any(|job| {
                    matches!((job.step, job.told), (Stage::Running(by), Told::One(n)) if n == by && slept(by))
                })
            }));
        }
        properties
    }
}

impl System {
    /// Nothing is lost for which there is the poll.
    fn is_sound(&self) -> bool {
        self.kills == 0 && self.losses == 0 && self.errors == 0
    }

    /// Whom `fn_job_wake` may choose.
    fn choices(&self, state: &State, kinds: Kinds, but: Option<usize>, mut choose: impl FnMut(Told)) {
        let fits =
            |n: usize, worker: &Worker| Some(n) != but && (self.blind || worker.crew.kinds & kinds != 0);
        let mut rests = false;
        for (n, worker) in state.workers.iter().enumerate().filter(|(n, worker)| fits(*n, worker)) {
            rests |= worker.looks_at_rest();
            if worker.looks_at_rest() || state.mistakes_left > 0 {
                choose(Told::One(n));
            }
        }
        if !rests {
            choose(if self.fault == Some(Fault::NobodyTold) { Told::Nobody } else { Told::All });
        }
    }

    fn claimer_actions(&self, n: usize, worker: &Worker, state: &State, actions: &mut Vec<Action>) {
        match worker.step {
            Step::Down => {}
            Step::Asleep => {
                let goes_on = worker.due || !worker.wants_rest && state.has_free_hand(n);
                // in any order, as a notification may be on its way still
                let ready = [(worker.named, By::Name), (worker.woken, By::Call), (goes_on, By::Time)];
                actions.extend(ready.iter().filter(|(is, _)| *is).map(|(_, by)| Action::Wake(n, *by)));
                let unpolled =
                    |job: &Job| job.step == Stage::Ready && job.polled_by.is_none() && worker.takes(job);
                if self.polls && !worker.due && state.jobs.iter().any(unpolled) {
                    actions.push(Action::Poll(n));
                }
            }
            Step::Looking(room) => self.claims(n, worker, room, state, actions),
            Step::Claimed { .. } => actions.push(Action::CommitClaim(n)),
            Step::PassingOn => {
                let foreign = state.jobs.iter().any(|job| job.looks_ready() && !worker.takes(job));
                actions.push(Action::PassOn(n, if foreign { Told::All } else { Told::Nobody }));
            }
            Step::Looked => actions.push(Action::Rest(n)),
            Step::FillingUp { .. } => {
                let ready = state.jobs.iter().filter(|job| job.looks_ready());
                match ready.fold(0, |kinds, job| kinds | job.kind) {
                    0 => actions.push(Action::PassOn(n, Told::Nobody)),
                    kinds => {
                        self.choices(state, kinds, Some(n), |told| actions.push(Action::PassOn(n, told)));
                    }
                }
            }
            Step::Full => {
                if state.room(n) > 0 {
                    actions.push(Action::Room(n));
                }
                if worker.named {
                    actions.push(Action::NamedWhenFull(n));
                }
            }
        }
    }

    /// As many as there is room for, in any order.
    fn claims(&self, n: usize, worker: &Worker, room: u8, state: &State, actions: &mut Vec<Action>) {
        let free = |job: &Job| match job.step {
            Stage::Ready => true,
            Stage::Locked(by) => by != n && self.fault == Some(Fault::LockedNotSkipped),
            _ => false,
        };
        let bits = (0..).zip(&state.jobs).filter(|(_, job)| free(job) && worker.takes(job));
        let all = bits.fold(0_u8, |all, (bit, _)| all | 1 << bit);
        let found = all.count_ones().min(room.into());
        let masks = 0..=u8::MAX >> (8 - state.jobs.len());
        let masks = masks.filter(|mask| mask & !all == 0 && mask.count_ones() == found);
        actions.extend(masks.map(|mask| Action::Claim(n, mask)));
    }
}

/// The listener's session, and mishaps.
fn other_actions(n: usize, worker: &Worker, state: &State, actions: &mut Vec<Action>) {
    if worker.ghost {
        actions.push(Action::Bury(n));
    }
    if !worker.lives() {
        return;
    }
    if worker.listening && worker.lock != worker.wants_rest {
        actions.push(Action::Stand(n));
    }
    if !worker.listening {
        actions.push(Action::Listen(n));
    }
    if state.kills_left > 0 {
        actions.push(Action::Kill(n));
    }
    let asks = matches!(worker.step, Step::Looking(_) | Step::PassingOn | Step::FillingUp { .. });
    if state.errors_left > 0 && asks {
        actions.push(Action::Fail(n));
    }
    if state.losses_left > 0 && (worker.named || worker.woken) {
        actions.push(Action::LoseNotification(n));
    }
    if state.losses_left > 0 && worker.listening {
        actions.push(Action::LoseListener(n));
    }
}
